"""LoRA adapters as seeds: a peft directory folded into its base when it is opened.

What the adapter changes is written once to a file of the cache; all other tensors stay mapped from
the base. Methods and options other than those that are folded exactly are refused by name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from genepool.checkpoints.files.cache import cache_directory, cached_tensors
from genepool.checkpoints.files.checkpoint import (
    Checkpoint,
    directory_name,
    pickle_advice,
    safe_target,
)
from genepool.checkpoints.files.digests import known_mapped
from genepool.checkpoints.files.dtypes import DTYPES, FLOATING, Raw, from_float32
from genepool.checkpoints.files.header import Entry
from genepool.checkpoints.files.lora_config import (
    CONFIG,
    Settings,
    matched,
    read_settings,
    shown,
)
from genepool.checkpoints.files.low_rank import LowRank, fold, matrix
from genepool.checkpoints.files.safetensors import MappedFile, Tensor, map_file
from genepool.checkpoints.model_files.configs import read_json
from genepool.checkpoints.model_files.tied import tied_embeddings
from genepool.checkpoints.naming import bare, under_another_prefix
from genepool.errors import CheckpointError
from genepool.messages import at, one_line, some

_WEIGHTS = "adapter_model.safetensors"
_FORMAT = "genepool folded adapter 2"
_PREFIX = "base_model.model."
_NAMED = f"its {CONFIG} names the base"

_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector(\.weight)?|base_layer\.weight)"
)
_HEAD = re.compile(r"(.*\.)?(lm_head|embed_out)\.")
# Trained rows of an embedding, and the whole of it, where it was resized before.
_TOKENS = re.compile(r"(.+)\.token_adapter\.(trainable_tokens_delta|base_layer\.weight)")
_OTHER = re.compile(r"(^|\.)(lora_|trainable_tokens|token_adapter|hada_|ia3_|oft_)")
# Whole modules, where peft saves these and their originals besides: the vocabulary was resized.
_AGAIN = re.compile(r"(.+)\.(modules_to_save|original_module)\.(.+)")


@dataclass(frozen=True, eq=False, slots=True)
class Change:
    """What becomes of one tensor of the base, in this order; None: nothing of the kind.

    Attributes:
        whole: the adapter's tensor takes its place.
        shift: a tensor that is added to it, and its factor.
        rows: numbers of rows of an embedding, and the tensor that takes their place.
        low_rank: what is folded in.
    """

    whole: Tensor | None = None
    shift: tuple[Tensor, float] | None = None
    rows: tuple[list[int], Tensor] | None = None
    low_rank: LowRank | None = None

    def folded(self, tensor: Tensor) -> memoryview:
        """The new bytes of the base's tensor."""
        start = self.whole or tensor
        raw = _converted(start, tensor.dtype)
        if self.shift is not None:
            added, scale = self.shift
            total = start.floats() + added.floats() * np.float32(scale)
            raw = from_float32(np.asarray(total, dtype=np.float32), tensor.dtype)
        if self.rows is not None:
            rows, trained = self.rows
            values = _converted(trained, tensor.dtype).reshape(trained.shape)
            raw = raw.reshape(tensor.shape).copy()
            raw[rows] = values
        if self.low_rank is not None:
            raw = fold(raw, tensor.dtype, self.low_rank)
        return np.frombuffer(np.ascontiguousarray(raw), dtype=np.uint8).data


class AdapterMismatch(CheckpointError):
    """The base holds no tensor of a name that the adapter changes."""


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter and not a whole model."""
    return (directory / CONFIG).exists() and not any(
        (directory / name).exists()
        for name in ("model.safetensors", "model.safetensors.index.json")
    )


def named_base(directory: Path) -> str | None:
    """The base that an adapter's configuration names: a path or an id of the Hub. A URL is left
    out: a file from outside does not say where this machine connects to.

    Raises:
        CheckpointError: the configuration cannot be read.
    """
    content = read_json(safe_target(directory, CONFIG))
    base, revision = content.get("base_model_name_or_path"), content.get("revision")
    if not isinstance(base, str) or not base or "://" in base:
        return None
    # A revision belongs to an id of the Hub, which a path on this machine never looks like.
    plain = isinstance(revision, str) and revision and not Path(base).exists()
    return f"{base}@{revision}" if plain and base.count("/") == 1 else base


def open_adapter(directory: Path, base: Checkpoint) -> Checkpoint:
    """The base with the adapter folded in, in float32 with one rounding to the base's dtype.

    Folded are LoRA on linear, embedding and convolution layers, with ranks and alphas of their own
    (`rank_pattern`, `alpha_pattern`), rank stabilisation, DoRA, biases (`bias`, `lora_bias`), whole
    modules (`modules_to_save`) and single tokens (`trainable_token_indices`). Memory: one tensor.

    Args:
        directory: with adapter_config.json and adapter_model.safetensors, as peft writes it.
        base: what it was trained on.

    Raises:
        CheckpointError: the adapter is damaged, of another base, or of a kind that is not folded.
        GenepoolError: the cache cannot be written.
    """
    settings = read_settings(directory)
    weights = _open_weights(directory)
    plan = _Plan(settings, weights, base)
    said = hashlib.sha256(settings.file.read_bytes()).hexdigest()
    opened = with_folded(base, weights, [said], plan.changes)
    notices = (*base.notices, *_of_another_base(directory, base), *plan.gaps)
    return replace(opened, path=directory, name=directory_name(directory), notices=notices)


def _of_another_base(directory: Path, base: Checkpoint) -> list[str]:
    """What to say of a base that is not the one that the adapter's configuration names.

    A path of another machine, or an id of the Hub, is taken for a folder that has its last part.
    """
    named = named_base(directory)
    if named is None or named == str(base.path):
        return []
    plain, _, revision = named.partition("@")
    last = re.split(r"[/\\]", plain.rstrip("/\\"))[-1].lower()
    own, _, other = base.path.name.partition("@")
    alike = last in (base.name.lower(), own.lower())
    if not base.path.is_absolute():
        alike = alike and revision == other
    with contextlib.suppress(OSError, ValueError):  # It need not be a path of this machine.
        alike = Path(named).samefile(base.path)
    if alike:
        return []
    return [
        f"{at(directory)}: {_NAMED} '{one_line(named)}', and it is folded into "
        f"{at(base.path)}: is that what it was trained on?"
    ]


def without_doubt(checkpoint: Checkpoint) -> Checkpoint:
    """A folded adapter whose digest says that its base, which was moved, is the right one."""
    kept = tuple(notice for notice in checkpoint.notices if _NAMED not in notice)
    return replace(checkpoint, notices=kept)


def with_folded(
    base: Checkpoint,
    weights: MappedFile,
    settings: Sequence[str],
    changes: Mapping[str, Change],
) -> Checkpoint:
    """A base some of whose tensors are others, which are kept in a file of the cache.

    Args:
        base: opened.
        weights: the adapter's.
        settings: what decides, beside base and weights, what is folded.
        changes: by the names of the tensors that change.

    Raises:
        CheckpointError: the base was changed meanwhile.
        GenepoolError: the cache cannot be written.
    """
    names, content = sorted(changes), hashlib.sha256(weights.mapping).hexdigest()
    parts = [_FORMAT, *settings, content, *names, *map(known_mapped, base.files)]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    path = cache_directory() / "adapters" / f"{key[:32]}.safetensors"
    entries: list[Entry] = sorted(
        ((n, base.tensors[n].dtype, base.tensors[n].shape) for n in names),
        key=lambda entry: -DTYPES[entry[1]].size,
    )
    base.check()
    file = cached_tensors(path, entries, lambda name: changes[name].folded(base.tensors[name]))
    tensors = {name: file.tensors.get(name, tensor) for name, tensor in base.tensors.items()}
    return replace(
        base,
        tensors=MappingProxyType(tensors),
        files=(*base.files, weights, file),
        # Of a model of the Hub, `path` is no place on this machine.
        origins=(base.path if base.path.exists() else base.directory or base.path, weights.path),
        _digest=[],
    )


def _open_weights(directory: Path) -> MappedFile:
    try:
        return map_file(safe_target(directory, _WEIGHTS))
    except CheckpointError as error:
        if (directory / _WEIGHTS).exists():
            raise
        names = sorted(entry.name for entry in directory.iterdir())
        advice = pickle_advice(directory, names, _WEIGHTS)
        raise CheckpointError(
            f"{at(directory)}: holds {CONFIG} but no {_WEIGHTS}{advice}"
        ) from error


class _Plan:
    """Which tensors of the base an adapter changes, all checked, and how."""

    def __init__(self, settings: Settings, weights: MappedFile, base: Checkpoint) -> None:
        self._settings = settings
        self._weights = weights
        # Of a tied head, which the base does not store: the embeddings under the head's name.
        self._tied = tied_embeddings(base)
        heads = (_HEAD.match(name.removeprefix(_PREFIX)) for name in weights.tensors)
        self._head = next((f"{found[0]}weight" for found in heads if found), "lm_head.weight")
        if self._tied is not None:
            head = replace(self._tied, name=self._head)
            base = replace(base, tensors={**base.tensors, self._head: head})
        self._base = base
        self._changes = defaultdict[str, Change](Change)
        # Of the base's tensors that were found: the adapter's name for them.
        self._meant: dict[str, str] = {}
        wanted = {_wanted(name) for name in weights.tensors} - set(base.tensors)
        self._moved = under_another_prefix(sorted(wanted), base.tensors)
        modules: dict[str, dict[str, Tensor]] = {}
        for name, tensor in weights.tensors.items():
            if not DTYPES[tensor.dtype].floating:
                raise CheckpointError(
                    f"{at(weights.path)}: '{one_line(name)}' has dtype {tensor.dtype}; expected "
                    f"one of {', '.join(FLOATING)}"
                )
            plain = name.removeprefix(_PREFIX)
            again = _AGAIN.fullmatch(name)
            if again is not None and f"{again[1]}.{again[3]}" in weights.tensors:
                continue
            found, tokens = _PART.fullmatch(plain), _TOKENS.fullmatch(plain)
            if tokens is not None and tokens[2] == "trainable_tokens_delta":
                self._add_tokens(tokens[1], tensor)
            elif tokens is not None:
                self._replace(tokens[1] + ".weight", tensor)
            elif _OTHER.search(found["module"] if found else plain):
                raise CheckpointError(
                    f"{at(weights.path)}: holds '{one_line(name)}', a kind of tensor that genepool "
                    "does not fold; merge the adapter into its base first (in peft: "
                    "model.merge_and_unload())"
                )
            elif found is not None:
                part = found["part"].removesuffix(".weight")
                modules.setdefault(found["module"], {})[part] = tensor
            else:
                # An adapted module lies one deeper than in the base.
                self._replace(plain.replace(".base_layer.bias", ".bias"), tensor)
        for module, parts in modules.items():
            target = self._target(module + ".weight", next(iter(parts.values())))
            change = self._changes[target]
            if (layer := parts.get("base_layer")) is not None:
                self._require_shape(layer, target)
                change = replace(change, whole=change.whole or layer)
            low_rank = self._low_rank(module, target, parts)
            self._changes[target] = replace(change, low_rank=low_rank)
            if (added := parts.get("lora_B.bias")) is not None:
                bias = self._target(module + ".bias", added)
                self._require_shape(added, bias)
                self._changes[bias] = replace(self._changes[bias], shift=(added, low_rank.scale))
        self._require_both_or_neither()

    @property
    def changes(self) -> dict[str, Change]:
        """What becomes of the tensors that the base stores."""
        tied = None if self._tied is None else self._head
        return {name: change for name, change in self._changes.items() if name != tied}

    @property
    def gaps(self) -> list[str]:
        """What to say of modules that were trained, by the configuration, and are not there."""
        return self._settings.gaps(self._weights.path, self._base.tensors.keys() - self._changes)

    def _replace(self, wanted: str, tensor: Tensor) -> None:
        target = self._target(wanted, tensor)
        self._require_shape(tensor, target)
        self._changes[target] = replace(self._changes[target], whole=tensor)

    def _add_tokens(self, module: str, tensor: Tensor) -> None:
        target = self._target(module + ".weight", tensor)
        base = self._base.tensors[target]
        rows = matched(self._settings.tokens, module, [])
        if tensor.shape != (len(rows), *base.shape[1:]) or len(set(rows)) < len(rows):
            raise CheckpointError(
                f"{at(self._weights.path)}: '{one_line(tensor.name)}' has shape "
                f"{list(tensor.shape)}; expected a row of '{one_line(target)}' of the base, of "
                f"shape {list(base.shape)}, for each of {len(rows)} trainable_token_indices"
            )
        if rows and max(rows) >= base.shape[0]:
            self._require_shape(replace(tensor, shape=(max(rows) + 1, *base.shape[1:])), target)
        self._changes[target] = replace(self._changes[target], rows=(rows, tensor))

    def _target(self, wanted: str, tensor: Tensor) -> str:
        """The base's tensor that another name of the adapter's does not mean, too."""
        target = self._found(wanted, tensor.name)
        other = self._meant.setdefault(target, wanted)
        if other != wanted:
            raise AdapterMismatch(
                f"{at(self._weights.path)}: '{one_line(wanted)}' and '{one_line(other)}' would "
                f"both change '{one_line(target)}' of the base {at(self._base.path)}: is the "
                "adapter of a larger model?"
            )
        return target

    def _found(self, wanted: str, name: str) -> str:
        """The base's tensor of that name; or of that name but for a prefix that all have; or the
        only one that ends in it, that it ends in, or that is called so but for the prefixes of the
        language model inside a larger one."""
        tensors = self._base.tensors
        if wanted in tensors:
            return wanted
        if wanted in self._moved:
            return self._moved[wanted]
        close = [n for n in tensors if _ends_in(n, wanted) or _ends_in(wanted, n)]
        if not close:
            close = [n for n in tensors if bare(n) == bare(wanted)]
        if len(close) == 1:
            return close[0]
        cause = (
            "is the adapter of another base, or the weight tied? If it fits there under names that "
            "transformers alone has, merge it into its base first (in peft: "
            "model.merge_and_unload())"
        )
        if ".experts." in wanted and any(".experts." in n for n in tensors):
            cause = (
                "one of the two has its experts one by one, and the other has them fused; merge "
                "the adapter into its base first (in peft: model.merge_and_unload())"
            )
        raise AdapterMismatch(
            f"{at(self._weights.path)}: '{one_line(name)}' changes '{one_line(wanted)}', which the "
            f"base {at(self._base.path)} does not hold (its tensors are called like "
            f"{some(tensors, limit=2)}): {cause}"
        )

    def _require_shape(self, tensor: Tensor, target: str) -> None:
        base = self._base.tensors[target]
        if tensor.shape == base.shape:
            return
        rows = tensor.shape[:1] != base.shape[:1] and tensor.shape[1:] == base.shape[1:]
        advice = (
            f"was the vocabulary resized in training? Then resize the base to as many rows (in "
            f"transformers: model.resize_token_embeddings({tensor.shape[0]})), save it with its "
            "new tokenizer, and give it as the base"
            if rows
            else "is the adapter of another base?"
        )
        raise CheckpointError(
            f"{at(self._weights.path)}: '{one_line(tensor.name)}' has shape {list(tensor.shape)}, "
            f"and '{one_line(base.name)}' of the base {at(self._base.path)} has "
            f"{list(base.shape)}: {advice}"
        )

    def _require_both_or_neither(self) -> None:
        """Embeddings that are the head, too: what is folded changes both uses of them."""
        if self._tied is None:
            return
        pair = (self._tied.name, self._head)
        changed = [name for name in pair if name in self._changes]
        # Trained tokens of embeddings that are tied are the head's, too, in peft.
        change = self._changes.get(pair[0], Change())
        if changed == [pair[0]] and change.whole is None and change.low_rank is None:
            return
        new = (self._changes[name].folded(self._base.tensors[name]) for name in changed)
        if not changed or (len(changed) == 2 and next(new) == next(new)):
            return
        what = f"changes {some(changed)}" if len(changed) == 1 else "changes the two differently"
        raise CheckpointError(
            f"{at(self._weights.path)}: {what}, and the base {at(self._base.path)} ties "
            f"'{one_line(pair[0])}' to its output head, so that folding would change both alike; "
            "untie the base first (tie_word_embeddings: false, and the head stored), or train the "
            "adapter with peft's ensure_weight_tying"
        )

    def _low_rank(self, module: str, target: str, parts: Mapping[str, Tensor]) -> LowRank:
        """The low-rank change of a weight; checks shapes, ranks and kinds."""
        where = f"{at(self._weights.path)}: module '{one_line(module)}'"
        embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
        names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
        if missing := [name for name in names if name not in parts]:
            raise CheckpointError(f"{where} lacks {some(missing)}; the file is incomplete")
        a, b = (parts[name] for name in names)
        magnitude, base = parts.get("lora_magnitude_vector"), self._base.tensors[target]
        if not DTYPES[base.dtype].floating:
            raise CheckpointError(
                f"{where}: the base's '{one_line(target)}' has dtype {base.dtype}; fold into the "
                "base before it was quantised"
            )
        for option, said, part in (
            ("use_dora", self._settings.dora, "lora_magnitude_vector"),
            ("lora_bias", self._settings.biased, "lora_B.bias"),
        ):
            if said != (part in parts):
                raise CheckpointError(
                    f"{where}: {option} is {str(said).lower()}, and the file "
                    f"{'lacks' if said else 'holds'} a '{part}'"
                )
        (rank, inputs), (outputs, columns) = matrix(a), matrix(b)
        expected = matched(self._settings.ranks, module, self._settings.rank)
        if rank != expected or columns != rank:
            raise CheckpointError(
                f"{where}: {names[0]} has shape {list(a.shape)} and {names[1]} {list(b.shape)}, "
                f"and {CONFIG} gives the rank {shown(expected)}"
            )
        whole, delta = matrix(base), (outputs, inputs)
        # peft's flag is of the whole adapter; only a square matrix leaves a doubt.
        turned = embedding or (
            len(base.shape) == 2
            and delta[::-1] == whole
            and (delta != whole or self._settings.fan_in_fan_out)
        )
        if (delta[::-1] if turned else delta) != whole:
            raise CheckpointError(
                f"{where}: {names[0]} of shape {list(a.shape)} and {names[1]} of {list(b.shape)} "
                f"do not fit '{one_line(target)}' of the base {at(self._base.path)}, of shape "
                f"{list(base.shape)}: is the adapter of another base?"
            )
        if magnitude is not None and math.prod(magnitude.shape) != outputs:
            raise CheckpointError(
                f"{where}: lora_magnitude_vector has shape {list(magnitude.shape)}; expected "
                f"{outputs} values"
            )
        alpha = float(matched(self._settings.alphas, module, self._settings.alpha))
        scale = alpha / math.sqrt(rank) if self._settings.stabilised else alpha / rank
        return LowRank(b, a, scale, magnitude, turned)


def _ends_in(name: str, end: str) -> bool:
    """Whether a name ends in another one that counts layers if it does."""
    counted = [any(part.isdecimal() for part in each.split(".")) for each in (name, end)]
    return name.endswith("." + end) and counted[0] == counted[1]


def _wanted(name: str) -> str:
    """The weight or bias of the base that a tensor of an adapter belongs to."""
    plain = name.removeprefix(_PREFIX)
    plain = re.sub(r"\.(base_layer|modules_to_save|original_module)\.", ".", plain)
    found = _PART.fullmatch(plain) or _TOKENS.fullmatch(plain)
    if found is None:
        return plain
    return f"{found[1]}.{'bias' if found[2] == 'lora_B.bias' else 'weight'}"


def _converted(tensor: Tensor, dtype: str) -> Raw:
    return tensor.raw if tensor.dtype == dtype else from_float32(tensor.floats().reshape(-1), dtype)
