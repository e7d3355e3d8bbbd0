"""LoRA adapters as seeds: a peft directory folded into its base when it is opened.

What the adapter changes is written once to a file of the cache; all other tensors stay mapped from
the base. Methods and options other than those that are folded exactly are refused by name.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np

from genepool.checkpoints.files.cache import cache_directory, write_cached
from genepool.checkpoints.files.checkpoint import Checkpoint, pickle_advice, safe_target
from genepool.checkpoints.files.dtypes import DTYPES, FLOATING, as_float32, from_float32
from genepool.checkpoints.files.header import Entry
from genepool.checkpoints.files.low_rank import LowRank, fold
from genepool.checkpoints.files.safetensors import MappedFile, Tensor, map_file
from genepool.checkpoints.model_files.configs import read_json
from genepool.checkpoints.model_files.tied import tied_embeddings
from genepool.checkpoints.naming import bare
from genepool.checkpoints.patterns import whole_match
from genepool.errors import CheckpointError
from genepool.messages import at, one_line, some

CONFIG = "adapter_config.json"

# Pattern -> (whether it matches a module, what it says of such a module).
_Patterns = Mapping[str, tuple[Callable[[str], bool], Any]]
_WEIGHTS = "adapter_model.safetensors"
_FORMAT = "genepool folded adapter 1"
_PREFIX = "base_model.model."

# Options of peft's LoraConfig that say nothing about what is to be folded.
_HARMLESS = {
    *("auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config"),
    *("exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform"),
    *("loftq_config", "lora_dropout", "megatron_core", "modules_to_save", "peft_type"),
    *("peft_version", "qalora_group_size", "revision", "runtime_config", "target_modules"),
    *("task_type",),
}
_FOLDED = {
    *("alpha_pattern", "fan_in_fan_out", "lora_alpha", "r", "rank_pattern", "use_dora"),
    *("use_rslora", "init_lora_weights", "bias", "lora_bias"),
}
# Initialisations that leave the base as it is; others (PiSSA, OLoRA, CorDA, LoftQ, ...) change it.
_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")

_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector(\.weight)?|base_layer\.weight)"
)


class AdapterMismatch(CheckpointError):
    """The base holds no tensor of a name that the adapter changes."""


@dataclass(frozen=True, slots=True)
class _Settings:
    """Of the adapter's configuration, what folding needs."""

    file: Path
    rank: int
    alpha: float
    ranks: _Patterns
    alphas: _Patterns
    stabilised: bool
    dora: bool
    biased: bool
    fan_in_fan_out: bool


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter and not a whole model."""
    return (directory / CONFIG).exists() and not any(
        (directory / name).exists()
        for name in ("model.safetensors", "model.safetensors.index.json")
    )


def named_base(directory: Path) -> str | None:
    """The base that an adapter's configuration names: a path or an id of the Hub.

    Raises:
        CheckpointError: the configuration cannot be read.
    """
    content = read_json(safe_target(directory, CONFIG))
    base, revision = content.get("base_model_name_or_path"), content.get("revision")
    if not isinstance(base, str) or not base:
        return None
    # A revision belongs to an id of the Hub, which a path on this machine never looks like.
    plain = isinstance(revision, str) and revision and not Path(base).exists()
    return f"{base}@{revision}" if plain and base.count("/") == 1 else base


def open_adapter(directory: Path, base: Checkpoint) -> Checkpoint:
    """The base with the adapter folded in, in float32 with one rounding to the base's dtype.

    Folded are LoRA on linear, embedding and convolution layers, with ranks and alphas of their own
    (`rank_pattern`, `alpha_pattern`), rank stabilisation, DoRA, biases (`bias`, `lora_bias`), and
    whole modules (`modules_to_save`). Memory: one tensor.

    Args:
        directory: with adapter_config.json and adapter_model.safetensors, as peft writes it.
        base: what it was trained on.

    Raises:
        CheckpointError: the adapter is damaged, of another base, or of a kind that is not folded.
        GenepoolError: the cache cannot be written.
    """
    settings = _settings(directory)
    weights = _open_weights(directory)
    plan = _Plan(settings, weights, base)
    key = hashlib.sha256(
        json.dumps(
            [
                *(_FORMAT, _content(settings.file), _content(weights.path), *plan.changed),
                *([str(f.path.resolve()), f.size, f.path.stat().st_mtime_ns] for f in base.files),
            ]
        ).encode()
    ).hexdigest()
    path = cache_directory() / "adapters" / f"{key[:32]}.safetensors"
    entries: list[Entry] = sorted(
        ((n, base.tensors[n].dtype, base.tensors[n].shape) for n in plan.changed),
        key=lambda entry: -DTYPES[entry[1]].size,
    )
    folded = _cached(path, entries)
    if folded is None:
        base.check()
        write_cached(path, entries, plan.folded)
        folded = map_file(path)
    tensors = {name: folded.tensors.get(name, tensor) for name, tensor in base.tensors.items()}
    return replace(
        base,
        path=directory,
        name=directory.resolve().name,
        tensors=MappingProxyType(tensors),
        files=(*base.files, weights, folded),
        _digest=[],
    )


def _cached(path: Path, entries: list[Entry]) -> MappedFile | None:
    """The file of the cache, if it is there and holds these tensors."""
    try:
        file = map_file(path)
    except CheckpointError:
        return None
    held = sorted((t.name, t.dtype, t.shape) for t in file.tensors.values())
    return file if held == sorted(entries) else None


def _content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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


def _settings(directory: Path) -> _Settings:
    path = safe_target(directory, CONFIG)
    content = read_json(path)
    kind = content.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{at(path)}: peft_type is {_shown(kind)}; genepool folds adapters of type 'LORA' only:"
            " merge this one into its base first (in peft: model.merge_and_unload())"
        )
    for name, value in content.items():
        if value and name not in _HARMLESS and name not in _FOLDED:
            raise _unfit(path, name, value)
    if content.get("bias") not in (None, "none", "all", "lora_only"):
        raise _unfit(path, "bias", content["bias"])
    start = content.get("init_lora_weights")
    if start not in _STARTS:
        raise CheckpointError(
            f"{at(path)}: init_lora_weights is {_shown(start)}, which also changes the base's "
            "weights; save the adapter converted to plain LoRA (in peft: "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...))"
        )
    rank, alpha = content.get("r", 8), content.get("lora_alpha", 8)
    if not _whole(rank):
        raise CheckpointError(f"{at(path)}: r: expected a whole number from 1; got {_shown(rank)}")
    _require_number(path, "lora_alpha", alpha)
    ranks = _pattern(path, content, "rank_pattern")
    alphas = _pattern(path, content, "alpha_pattern")
    for name, (_, value) in alphas.items():
        _require_number(path, f"alpha_pattern '{one_line(name)}'", value)
    return _Settings(
        path,
        rank,
        float(alpha),
        ranks,
        alphas,
        content.get("use_rslora") is True,
        content.get("use_dora") is True,
        content.get("lora_bias") is True,
        content.get("fan_in_fan_out") is True,
    )


def _unfit(path: Path, name: str, value: object) -> CheckpointError:
    return CheckpointError(
        f"{at(path)}: {one_line(name)} is {_shown(value)}, which genepool does not fold; merge the "
        "adapter into its base first (in peft: model.merge_and_unload())"
    )


def _shown(value: object) -> str:
    return one_line(json.dumps(value))[:80]


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _require_number(path: Path, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise CheckpointError(f"{at(path)}: {name}: expected a number; got {_shown(value)}")


def _pattern(path: Path, content: Mapping[str, Any], name: str) -> _Patterns:
    value: Any = content.get(name) or {}
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{at(path)}: {name}: expected an object from module names to numbers; "
            f"got {_shown(value)}"
        )
    found = cast("dict[str, Any]", value)
    return {key: (_ends(path, name, key), value) for key, value in found.items()}


def _ends(path: Path, name: str, key: str) -> Callable[[str], bool]:
    """As peft looks modules up: whether a pattern matches a module's name or a tail of it."""
    try:
        whole_match(key)  # By itself, without the brackets around it, it must be one too.
        return whole_match(rf"(.*\.)?({key})")
    except ValueError as error:
        raise CheckpointError(
            f"{at(path)}: {name}: '{one_line(key)}' is not a regular expression that can be used: "
            f"{one_line(error)}"
        ) from error


class _Plan:
    """Which tensors of the base an adapter changes, all checked, and how."""

    def __init__(self, settings: _Settings, weights: MappedFile, base: Checkpoint) -> None:
        self._settings = settings
        self._weights = weights
        # Of a tied head, which the base does not store: the embeddings under the head's name.
        self._tied = tied_embeddings(base)
        self._head = next((n for n in map(_head_of, weights.tensors) if n), "lm_head.weight")
        if self._tied is not None:
            head = replace(self._tied, name=self._head)
            base = replace(base, tensors={**base.tensors, self._head: head})
        self._base = base
        self._parts: dict[str, dict[str, Tensor]] = {}
        self._whole: dict[str, Tensor] = {}
        # Biases to which something is added: what, and its factor.
        self._shifts: dict[str, tuple[Tensor, float]] = {}
        modules: dict[str, dict[str, Tensor]] = {}
        for name, tensor in weights.tensors.items():
            if not DTYPES[tensor.dtype].floating:
                raise CheckpointError(
                    f"{at(weights.path)}: '{one_line(name)}' has dtype {tensor.dtype}; expected "
                    f"one of {', '.join(FLOATING)}"
                )
            plain = name.removeprefix(_PREFIX)
            found = _PART.fullmatch(plain)
            if found is not None:
                part = found["part"].removesuffix(".weight")
                modules.setdefault(found["module"], {})[part] = tensor
            elif re.search(r"(^|\.)(lora_|trainable_tokens|token_adapter|hada_|ia3_|oft_)", plain):
                raise CheckpointError(
                    f"{at(weights.path)}: holds '{one_line(name)}', a kind of tensor that genepool "
                    "does not fold; merge the adapter into its base first (in peft: "
                    "model.merge_and_unload())"
                )
            else:
                # An adapted module lies one deeper than in the base.
                target = self._target(plain.replace(".base_layer.bias", ".bias"), name)
                self._require_shape(name, tensor, self._base.tensors[target])
                self._whole[target] = tensor
        for module, parts in modules.items():
            target = self._target(module + ".weight", next(iter(parts.values())).name)
            if "base_layer" in parts:
                self._require_shape(
                    parts["base_layer"].name, parts["base_layer"], base.tensors[target]
                )
            self._parts[target] = parts
            change = self._change(module, target, parts)
            if "lora_B.bias" in parts:
                shift = parts["lora_B.bias"]
                bias = self._target(module + ".bias", shift.name)
                self._require_shape(shift.name, shift, base.tensors[bias])
                self._shifts[bias] = (shift, change.scale)
        self._modules = {self._target(m + ".weight", m): m for m in modules}
        self._require_both_or_neither()

    @property
    def changed(self) -> list[str]:
        """Names of the base's tensors that change."""
        names = {*self._parts, *self._whole, *self._shifts}
        return sorted(names if self._tied is None else names - {self._head})

    def folded(self, name: str) -> memoryview:
        """The new bytes of one of them."""
        tensor = self._base.tensors[name]
        if name in self._shifts:
            shift, scale = self._shifts[name]
            start = self._whole.get(name, tensor)
            added = as_float32(shift.raw, shift.dtype) * np.float32(scale)
            values = np.asarray(as_float32(start.raw, start.dtype) + added, dtype=np.float32)
            raw = from_float32(values, tensor.dtype)
        elif name in self._whole:
            source = self._whole[name]
            values = from_float32(as_float32(source.raw, source.dtype), tensor.dtype)
            raw = source.raw if source.dtype == tensor.dtype else values
        else:
            parts = self._parts[name]
            start = parts.get("base_layer", tensor)
            raw = start.raw
            if start.dtype != tensor.dtype:
                raw = from_float32(as_float32(raw, start.dtype), tensor.dtype)
            raw = fold(raw, tensor.dtype, self._change(self._modules[name], name, parts))
        return np.frombuffer(np.ascontiguousarray(raw), dtype=np.uint8).data

    def _target(self, wanted: str, name: str) -> str:
        """The base's tensor of that name; or the only one that ends in it, that it ends in, or that
        is called so but for the prefixes of the language model inside a larger one."""
        tensors = self._base.tensors
        if wanted in tensors:
            return wanted
        close = [n for n in tensors if n.endswith("." + wanted) or wanted.endswith("." + n)]
        if not close:
            close = [n for n in tensors if bare(n) == bare(wanted)]
        if len(close) == 1:
            return close[0]
        cause = "is the adapter of another base, or the weight tied?"
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

    def _require_shape(self, name: str, tensor: Tensor, target: Tensor) -> None:
        if tensor.shape == target.shape:
            return
        rows = tensor.shape[:1] != target.shape[:1] and tensor.shape[1:] == target.shape[1:]
        advice = (
            f"was the vocabulary resized in training? Then resize the base to as many rows (in "
            f"transformers: model.resize_token_embeddings({tensor.shape[0]})), save it with its "
            "new tokenizer, and give it as the base"
            if rows
            else "is the adapter of another base?"
        )
        raise CheckpointError(
            f"{at(self._weights.path)}: '{one_line(name)}' has shape {list(tensor.shape)}, and "
            f"'{one_line(target.name)}' of the base {at(self._base.path)} has "
            f"{list(target.shape)}: {advice}"
        )

    def _require_both_or_neither(self) -> None:
        """Embeddings that are the head, too: what is folded changes both uses of them."""
        if self._tied is None:
            return
        pair = (self._tied.name, self._head)
        changed = [name for name in pair if name in self._parts or name in self._whole]
        if not changed or (len(changed) == 2 and self.folded(pair[0]) == self.folded(pair[1])):
            return
        what = f"changes {some(changed)}" if len(changed) == 1 else "changes the two differently"
        raise CheckpointError(
            f"{at(self._weights.path)}: {what}, and the base {at(self._base.path)} ties "
            f"'{one_line(pair[0])}' to its output head, so that folding would change both alike; "
            "untie the base first (tie_word_embeddings: false, and the head stored), or train the "
            "adapter with peft's ensure_weight_tying"
        )

    def _change(self, module: str, target: str, parts: Mapping[str, Tensor]) -> LowRank:
        """The low-rank change of a weight; checks shapes, ranks and kinds."""
        where = f"{at(self._weights.path)}: module '{one_line(module)}'"
        embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
        names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
        if missing := [name for name in names if name not in parts]:
            raise CheckpointError(f"{where} lacks {some(missing)}; the file is incomplete")
        a, b = (parts[name] for name in names)
        magnitude = parts.get("lora_magnitude_vector")
        shape = self._base.tensors[target].shape
        if not DTYPES[self._base.tensors[target].dtype].floating:
            raise CheckpointError(
                f"{where}: the base's '{one_line(target)}' has dtype "
                f"{self._base.tensors[target].dtype}; fold into the base before it was quantised"
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
        right = as_float32(a.raw, a.dtype).reshape(a.shape[0] if a.shape else 1, -1)
        left = as_float32(b.raw, b.dtype).reshape(b.shape[0] if b.shape else 1, -1)
        rank = right.shape[0]
        expected = _matched(self._settings.ranks, module, self._settings.rank)
        if rank != expected or left.shape[1] != rank:
            raise CheckpointError(
                f"{where}: {names[0]} has shape {list(a.shape)} and {names[1]} {list(b.shape)}, "
                f"and {CONFIG} gives the rank {_shown(expected)}"
            )
        matrix = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
        delta = (left.shape[0], right.shape[1])
        # peft's flag is of the whole adapter; only a square matrix leaves a doubt.
        turned = embedding or (
            len(shape) == 2
            and delta[::-1] == matrix
            and (delta != matrix or self._settings.fan_in_fan_out)
        )
        if (delta[::-1] if turned else delta) != matrix:
            raise CheckpointError(
                f"{where}: {names[0]} of shape {list(a.shape)} and {names[1]} of {list(b.shape)} "
                f"do not fit '{one_line(target)}' of the base {at(self._base.path)}, of shape "
                f"{list(shape)}: is the adapter of another base?"
            )
        if magnitude is not None and math.prod(magnitude.shape) != left.shape[0]:
            raise CheckpointError(
                f"{where}: lora_magnitude_vector has shape {list(magnitude.shape)}; expected "
                f"{left.shape[0]} values"
            )
        alpha = float(_matched(self._settings.alphas, module, self._settings.alpha))
        scale = alpha / math.sqrt(rank) if self._settings.stabilised else alpha / rank
        if turned:
            left, right = np.ascontiguousarray(right.T), np.ascontiguousarray(left.T)
        values = None if magnitude is None else as_float32(magnitude.raw, magnitude.dtype)
        return LowRank(left, right, scale, values, int(turned))


def _head_of(name: str) -> str | None:
    """The head's weight that a tensor of an adapter belongs to, if it is the head's."""
    found = re.match(r"(.*\.)?(lm_head|embed_out)\.", name.removeprefix(_PREFIX))
    return f"{found[0]}weight" if found else None


def _matched(patterns: _Patterns, module: str, default: Any) -> Any:
    """The value of the first pattern that matches, as in peft."""
    return next((value for test, value in patterns.values() if test(module)), default)
