"""What is said of seeds whose tensors fit together and yet lose something where they merge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genepool.checkpoints.files.checkpoint import Checkpoint, Tensor
from genepool.checkpoints.files.dtypes import DTYPES, FRACTIONS
from genepool.checkpoints.layout import Layout, merges
from genepool.messages import at, one_line, some


def tensor_notices(checkpoints: Sequence[Checkpoint], layout: Layout) -> list[str]:
    """One line each, for seeds that lie on one parameter axis: values that are kept from the first
    seed though others have other ones, weights that are rounded, and files of several libraries."""
    first, *others = checkpoints
    return [*_double(checkpoints, layout)] + [
        notice
        for other in others
        for notice in (
            _carried(first, other, layout),
            _rounded(first, other, layout),
            _of_another_library(first, other),
        )
        if notice is not None
    ]


def _carried(first: Checkpoint, other: Checkpoint, layout: Layout) -> str | None:
    """Whole numbers, truth values or constants are others than in the first seed."""
    if first.pipeline is not None or first.evolving:
        return None  # What is carried are other components, which are compared as such.
    found = [
        name
        for name in layout.carried
        if not merges(first, first.tensors[name])
        and not name.endswith("num_batches_tracked")  # Says how long was trained, and no more.
        and name in other.tensors
        and not _same_values(first.tensors[name], other.tensors[name])
    ]
    if not found:
        return None
    return (
        f"{at(other.path)}: other values of {some(found)} than in {at(first.path)}; they are no "
        "weights that merge (the first seed's are kept)"
    )


def _same_values(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same values, as far as that is seen without rounding."""
    floats = DTYPES[one.dtype].floating or DTYPES[other.dtype].floating
    if floats and one.dtype != other.dtype:
        return one.shape == other.shape
    return one.shape == other.shape and bool(np.array_equal(one.raw, other.raw))


def _rounded(first: Checkpoint, other: Checkpoint, layout: Layout) -> str | None:
    """The first seed's dtypes, which the result has, are coarser."""
    found = [
        slot
        for slot in layout.slots
        if FRACTIONS.get(other.tensors[slot.name].dtype, 0) > FRACTIONS[slot.dtype]
    ]
    if not found:
        return None
    coarse, fine = found[0].dtype, other.tensors[found[0].name].dtype
    return (
        f"{at(other.path)}: {some(slot.name for slot in found)} in {fine}, which is finer than the "
        f"{coarse} of {at(first.path)}; a merge is rounded to the first seed's dtype unless "
        "--dtype says otherwise"
    )


def _double(checkpoints: Sequence[Checkpoint], layout: Layout) -> list[str]:
    """Weights of float64, which are computed with as float32."""
    return [
        f"{at(checkpoint.path)}: weights in F64, which are rounded to float32 where they merge"
        for checkpoint in checkpoints
        if any(checkpoint.tensors[slot.name].dtype == "F64" for slot in layout.slots)
    ]


def _of_another_library(first: Checkpoint, other: Checkpoint) -> str | None:
    """Libraries lay some weights down in other orders, of the same shape where they are square."""
    ours, theirs = (each.metadata.get("format", "pt") for each in (first, other))
    if ours == theirs:
        return None
    return (
        f"{at(other.path)}: written for {_library(theirs)} and {at(first.path)} for "
        f"{_library(ours)}; libraries may order the values of a tensor otherwise, which shapes do "
        "not show: convert one of them"
    )


def _library(name: str) -> str:
    known = {"pt": "PyTorch", "tf": "TensorFlow", "flax": "Flax", "mlx": "MLX", "np": "numpy"}
    return known.get(name, f"'{one_line(name)}'")
