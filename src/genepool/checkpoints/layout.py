"""The layout: which tensors merge, and where each of them lies on the parameter axis."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice, permutations

import numpy as np
from numpy.typing import NDArray

from genepool.checkpoints.depth import depth_key
from genepool.checkpoints.files.checkpoint import Checkpoint, Tensor
from genepool.checkpoints.files.dtypes import DTYPES, as_float32
from genepool.checkpoints.naming import experts_differ, rename_hint
from genepool.checkpoints.patterns import whole_match
from genepool.checkpoints.pipelines.order import OrderKey, order_key
from genepool.core.axis import Axis
from genepool.errors import CheckpointError, InputError
from genepool.messages import at, count, one_line, some

REST = "rest"
# Chromosomes by name, under the names that modules have in transformers, diffusers and the papers'
# own code. "attention" is the paper's division of image generators.
PRESETS: Mapping[str, Mapping[str, list[str]]] = {
    "attention": {
        "attention": [
            r"re:(.*\.)?(\w+_)?([aA]ttn|[aA]ttention|(Self|EncDec)Attention)\d*\..*",
            # Of a VAE, whose attention lies in no module of its own.
            r"re:(.*\.)?attentions\.\d+\.(to_[a-z]+|group_norm)\..*",
        ]
    }
}
# Constants of the architecture that some files store as floats: a merge would only scale them.
CONSTANTS = ("*.rotary_emb.inv_freq", "*.attn.masked_bias", "*.attention.masked_bias")
# The same; as floats of pipelines only, since pools of other models have those on their axis.
_OF_PIPELINES = ("*.position_ids", "*.pos_embed.pos_embed")
# So many orders of chromosomes are tried at most: all of six.
_ORDERS = 720


@dataclass(frozen=True, slots=True)
class Slot:
    """A mergeable tensor's place on the parameter axis.

    Where vocabularies differ, only the first rows of a tensor merge; the further rows of the first
    seed's are carried over, and other seeds may have more or fewer.

    Attributes:
        name: the tensor's name.
        dtype: the first seed's dtype code; the others may differ.
        shape: of what merges: of every seed, apart from further rows.
        start: first position on the parameter axis.
        stop: position after the last; `stop - start` elements, in row-major order.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Layout:
    """How the tensors of a family of checkpoints lie on one parameter axis.

    Attributes:
        slots: mergeable tensors, in axis order.
        carried: names of all other tensors, in depth order; they come from the first seed.
        axis: positions, tensor boundaries and chromosomes.
    """

    slots: tuple[Slot, ...]
    carried: tuple[str, ...]
    axis: Axis

    @cached_property
    def digest(self) -> str:
        """SHA-256, 64 hex digits, over names, shapes and chromosomes: what a position means."""
        content = {
            "slots": [[slot.name, list(slot.shape)] for slot in self.slots],
            "chromosomes": self.axis.chromosomes.tolist(),
            "names": list(self.axis.names),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def position(self, split: float | int | str) -> int:
        """Where on the parameter axis a user's split point lies.

        Args:
            split: a float is a fraction of the parameter axis in [0, 1]; an int is a position in
                0..D; a string is the name of a tensor and means its start.

        Raises:
            InputError: out of range, or no such tensor.
        """
        size = self.axis.size
        if isinstance(split, str):
            for slot in self.slots:
                if slot.name == split:
                    return slot.start
            if split in self.carried:
                raise InputError(f"split: tensor '{one_line(split)}' is carried over, not merged")
            names = [slot.name for slot in self.slots]
            close = difflib.get_close_matches(split, names, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"they are called like {some(names)}"
            raise InputError(f"split: there is no tensor '{one_line(split)}'; {hint}")
        if isinstance(split, bool):
            raise InputError(f"split: expected a number or a tensor name; got {split}")
        if isinstance(split, int):
            if not 0 <= split <= size:
                raise InputError(f"split: expected a position in 0..{size}; got {split}")
            return split
        if not 0.0 <= split <= 1.0:
            raise InputError(
                f"split: expected a fraction of the parameter axis in [0, 1]; got {split}"
            )
        return round(split * size)


def build_layout(
    checkpoints: Sequence[Checkpoint],
    chromosomes: Mapping[str, Sequence[str]] | None = None,
    *,
    partial: bool = False,
    rows: Mapping[str, int] | None = None,
) -> Layout:
    """Lay the mergeable tensors of a family of checkpoints end to end in depth order.

    Floating tensors merge; the rest (integers, booleans, empty tensors, and constants that some
    files store as floats, see `CONSTANTS`) is carried over from the first checkpoint.

    Args:
        checkpoints: one or more, equal in names and shapes; dtypes may differ among floats.
        chromosomes: name to patterns of tensor names, each a glob, or a regular expression after
            `re:` that must match the whole name. The first chromosome that matches takes the
            tensor. The order is chromosome after chromosome, each in depth order, and tensors that
            no pattern matches form a last one named "rest".
        partial: the checkpoints need not be equal: what all of them hold under one name and in one
            shape merges, and all else of the first checkpoint is carried over.
        rows: name to the number of first rows that merge, of tensors that need not have equally
            many rows; all checkpoints have at least so many.

    Raises:
        CheckpointError: the checkpoints differ in names or shapes, or nothing in them merges.
        InputError: no checkpoints, or chromosomes that cannot be used.
    """
    if not checkpoints:
        raise InputError("a layout needs at least one checkpoint; got none")
    first, cut = checkpoints[0], rows or {}
    for other in () if partial else checkpoints[1:]:
        _require_same(first, other, cut)
    ordered = _in_depth_order(first)
    merged = [
        tensor
        for tensor in ordered
        if merges(first, tensor)
        and (tensor.name in cut or all(_shares(other, tensor) for other in checkpoints[1:]))
    ]
    if not merged:
        if partial and any(merges(first, tensor) for tensor in ordered):
            raise _nothing_shared(checkpoints)
        raise CheckpointError(f"{at(first.path)}: holds no floating-point tensors to merge")
    names, groups = _divide(merged, chromosomes)
    slots: list[Slot] = []
    edges = [0]
    position = 0
    for group in groups:
        for tensor in group:
            shape = tensor.shape
            if tensor.name in cut:
                shape = (cut[tensor.name], *shape[1:])
            stop = position + math.prod(shape)
            slots.append(Slot(tensor.name, tensor.dtype, shape, position, stop))
            position = stop
        edges.append(position)
    axis = Axis(
        np.array([0, *(slot.stop for slot in slots)], dtype=np.int64),
        np.array(edges, dtype=np.int64),
        tuple(names),
    )
    shared = {slot.name for slot in slots}
    carried = tuple(tensor.name for tensor in ordered if tensor.name not in shared)
    return Layout(tuple(slots), carried, axis)


def layout_again(
    digest: str,
    checkpoints: Sequence[Checkpoint],
    chromosomes: Mapping[str, Sequence[str]],
    *,
    partial: bool = False,
    rows: Mapping[str, int] | None = None,
) -> Layout:
    """The layout that has this digest, if the chromosomes give it in any order, else as they stand.

    Older releases kept the chromosomes of a pool or recipe in the order of their names.

    Args:
        digest: of the layout.
        checkpoints, chromosomes, partial, rows: as `build_layout` takes them.

    Raises:
        CheckpointError, InputError: as `build_layout`.
    """
    # Many are numbered, and stood by their numbers.
    orders = islice(permutations(chromosomes), _ORDERS)
    for names in chain([tuple(chromosomes), sorted(chromosomes, key=depth_key)], orders):
        # In another order than the right one a chromosome may find nothing left.
        with contextlib.suppress(InputError):
            ordered = {name: chromosomes[name] for name in names}
            layout = build_layout(checkpoints, ordered, partial=partial, rows=rows)
            if layout.digest == digest:
                return layout
    return build_layout(checkpoints, chromosomes, partial=partial, rows=rows)


def flatten(checkpoint: Checkpoint, layout: Layout) -> NDArray[np.float32]:
    """The mergeable values of one checkpoint as a new float32[D], for dense genomes."""
    checkpoint.check()
    out = np.empty(layout.axis.size, dtype=np.float32)
    for slot in layout.slots:
        tensor = checkpoint.tensors[slot.name]
        merged = tensor.raw[: slot.stop - slot.start]
        out[slot.start : slot.stop] = as_float32(merged, tensor.dtype)
    return out


def _in_depth_order(checkpoint: Checkpoint) -> list[Tensor]:
    tensors = checkpoint.tensors.values()
    if checkpoint.evolving:
        prefixes = checkpoint.evolving

        def within(tensor: Tensor) -> tuple[int, OrderKey]:
            starts = [n for n, prefix in enumerate(prefixes) if tensor.name.startswith(prefix)]
            place = starts[0] if starts else len(prefixes)
            prefix = prefixes[place] if starts else ""
            return place, order_key(tensor.name.removeprefix(prefix))

        return sorted(tensors, key=within)
    if checkpoint.pipeline is None:
        return sorted(tensors, key=lambda tensor: depth_key(tensor.name))
    evolving = checkpoint.pipeline.evolving

    def key(tensor: Tensor) -> tuple[int, OrderKey]:
        component, _, name = tensor.name.partition(".")
        return evolving.index(component), order_key(name)

    return sorted(tensors, key=key)


def _shares(checkpoint: Checkpoint, tensor: Tensor) -> bool:
    other = checkpoint.tensors.get(tensor.name)
    return other is not None and other.shape == tensor.shape and DTYPES[other.dtype].floating


def _nothing_shared(checkpoints: Sequence[Checkpoint]) -> CheckpointError:
    first = checkpoints[0]
    for other in checkpoints[1:]:
        tensors = first.tensors.values()
        if not any(merges(first, tensor) and _shares(other, tensor) for tensor in tensors):
            advice = rename_hint(first.tensors, other.tensors)
            return CheckpointError(
                f"{at(other.path)} shares no tensor of the same name and shape with "
                f"{at(first.path)}: tensors are called like {some(other.tensors)} there and "
                f"{some(first.tensors)} here; {advice or 'say with rename how they correspond'}"
            )
    return CheckpointError("no tensor is shared by all seeds; say with rename how they correspond")


def merges(checkpoint: Checkpoint, tensor: Tensor) -> bool:
    """Whether a tensor's values are weights, and not whole numbers or constants of the model."""
    constant = _constant(checkpoint, tensor)
    return DTYPES[tensor.dtype].floating and tensor.raw.size > 0 and not constant


def _constant(checkpoint: Checkpoint, tensor: Tensor) -> bool:
    """Whether a tensor is not to merge by its name, so that it may be absent in other seeds."""
    if checkpoint.evolving and not tensor.name.startswith(checkpoint.evolving):
        return True
    whole = not DTYPES[tensor.dtype].floating
    generator = whole or checkpoint.pipeline is not None or checkpoint.evolving
    patterns = (*CONSTANTS, *_OF_PIPELINES) if generator else CONSTANTS
    return _causal_mask(tensor) or any(fnmatch.fnmatchcase(tensor.name, one) for one in patterns)


def _causal_mask(tensor: Tensor) -> bool:
    """Whether a tensor says which token sees which, as files of GPT-2, GPT-Neo and GPT-NeoX once
    did: what has such a name is a bias otherwise, of another shape."""
    shape = tensor.shape
    named = tensor.name.endswith((".attn.bias", ".attention.bias"))
    return named and len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]


def _divide(
    tensors: list[Tensor], chromosomes: Mapping[str, Sequence[str]] | None
) -> tuple[list[str], list[list[Tensor]]]:
    if not chromosomes:
        return ["all"], [tensors]
    if REST in chromosomes:
        raise InputError(f"chromosome '{REST}' is the name of what no pattern matches; rename it")
    names = list(chromosomes)
    tests = [_matcher(name, chromosomes[name]) for name in names]
    groups: list[list[Tensor]] = [[] for _ in range(len(names) + 1)]
    for tensor in tensors:
        takers = (index for index, test in enumerate(tests) if test(tensor.name))
        groups[next(takers, len(names))].append(tensor)
    for name, group in zip(names, groups[:-1], strict=True):
        if not group:
            raise InputError(
                f"chromosome '{one_line(name)}' matches no tensor, or only tensors that an earlier "
                f"chromosome took; the model's tensors are called like "
                f"{some(tensor.name for tensor in tensors)}"
            )
    if not groups[-1]:
        return names, groups[:-1]
    return [*names, REST], groups


def _matcher(chromosome: str, patterns: Sequence[str]) -> Callable[[str], bool]:
    if isinstance(patterns, str) or not patterns:
        raise InputError(f"chromosome '{one_line(chromosome)}': expected a list of patterns")
    tests: list[Callable[[str], bool]] = []
    for pattern in patterns:
        try:
            tests.append(pattern_test(pattern))
        except ValueError as error:
            raise InputError(
                f"chromosome '{one_line(chromosome)}': '{one_line(pattern)}' is not a regular "
                f"expression that can be used: {one_line(error)}"
            ) from error
    return lambda name: any(test(name) for test in tests)


def pattern_test(pattern: str) -> Callable[[str], bool]:
    """Whether a tensor's name fits a pattern; see `build_layout`.

    Raises:
        ValueError: what stands after `re:` is not a regular expression that can be used.
    """
    if pattern.startswith("re:"):
        return whole_match(pattern.removeprefix("re:"))
    return lambda name: fnmatch.fnmatchcase(name, pattern)


def _require_same(first: Checkpoint, other: Checkpoint, rows: Mapping[str, int]) -> None:
    pair = f"{at(other.path)} does not fit {at(first.path)}"
    missing, extra = (
        [n for n, t in ours.tensors.items() if n not in theirs.tensors and not _constant(first, t)]
        for ours, theirs in ((first, other), (other, first))
    )
    if missing or extra:
        parts = [
            f"it {verb} {count(len(names), 'tensor')} ({some(sorted(names))})"
            for verb, names in (("lacks", missing), ("has besides", extra))
            if names
        ]
        raise CheckpointError(
            f"{pair}: {' and '.join(parts)}; {_cause(first, other, missing, extra)}"
        )
    merging = first.evolving or ("",)  # All names begin with nothing.
    shared = [n for n in first.tensors if n in other.tensors and n.startswith(merging)]
    differing = [
        n for n in shared if first.tensors[n].shape != other.tensors[n].shape and n not in rows
    ]
    if differing:
        listed = ", ".join(
            f"'{one_line(n)}' {list(other.tensors[n].shape)} against {list(first.tensors[n].shape)}"
            for n in differing[:3]
        )
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise CheckpointError(
            f"{pair}: shapes differ: {listed}{more}; {_shape_cause(first, other, differing)}"
        )
    for name in shared:
        ours, theirs = first.tensors[name], other.tensors[name]
        if DTYPES[ours.dtype].floating != DTYPES[theirs.dtype].floating:
            raise CheckpointError(
                f"{pair}: tensor '{one_line(name)}' has dtype {theirs.dtype} against "
                f"{ours.dtype}; one of the two is quantised or of another kind: use the original"
            )


def _cause(first: Checkpoint, other: Checkpoint, missing: list[str], extra: list[str]) -> str:
    names = [*missing, *extra]
    if any("lora_" in name for name in names):
        return "one of them is a LoRA adapter: merge it into its base model first"
    if experts_differ(missing, extra):
        return (
            "one stores the experts of its layers one by one, and the other all together (fused); "
            "save both with one release of transformers (from_pretrained, then save_pretrained)"
        )
    if missing and (advice := rename_hint(first.tensors, other.tensors)):
        return f"the names differ by a prefix: {advice}"
    if all(depth_key(name)[0] == 2 for name in names):
        return "one has another head, or stores tied weights twice: save both in the same way"
    return "are they of one architecture and size?"


def _shape_cause(first: Checkpoint, other: Checkpoint, differing: list[str]) -> str:
    shapes = [(first.tensors[n].shape, other.tensors[n].shape) for n in differing]
    if all(a and b and a[1:] == b[1:] for a, b in shapes) and all(
        depth_key(n)[0] != 1 for n in differing
    ):
        rows = abs(shapes[0][0][0] - shapes[0][1][0])
        return (
            f"the vocabularies (or outputs) differ by {count(rows, 'row')}: resize one model so "
            "that both have the same tokens in the same order"
        )
    if all(math.prod(a) == math.prod(b) for a, b in shapes):
        return "the sizes agree: is one of them transposed or reshaped?"
    return "are they of one architecture and size?"
