"""LoRA in numbers: what an adapter adds to a weight, the same bits on every machine.

`W + scale B A` (Hu et al. 2022, LoRA, section 4.1), with `scale = alpha / r`, or `alpha / sqrt(r)`
where the ranks are stabilised (Kalajdzievski 2023, rsLoRA); DoRA scales the rows of the sum to
learnt magnitudes (Liu et al. 2024, DoRA, equation 5).

A matrix product sums in whatever order the machine's library likes, and a seed's digest must not
depend on the machine. So the r rank-one terms are added one after another, element by element, in
blocks of rows that stay in the processor's cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genepool.checkpoints.files.dtypes import Raw, as_float32, from_float32

Float32 = NDArray[np.float32]
_BLOCK = 2**16


@dataclass(frozen=True, eq=False, slots=True)
class LowRank:
    """One adapted weight, as rows by columns of the file's matrix.

    Attributes:
        left: float32[rows, r].
        right: float32[r, columns].
        scale: factor of their product.
        magnitudes: float32 of DoRA, one for each output; None for LoRA.
        outputs: which axis of the matrix counts outputs, 0 or 1 (1: fan in, fan out).
    """

    left: Float32
    right: Float32
    scale: float
    magnitudes: Float32 | None
    outputs: int


def fold(weight: Raw, dtype: str, change: LowRank) -> Raw:
    """The weight with the adapter in it: float32 arithmetic, one rounding to the weight's dtype.

    Args:
        weight: flat, rows times columns, in the storage of `dtype`.
        dtype: floating.
        change: of this weight.

    Returns:
        A new flat array of the same size and storage.
    """
    rows, columns = change.left.shape[0], change.right.shape[1]
    source = weight.reshape(rows, columns)
    out = np.empty_like(source)
    step = max(1, _BLOCK // max(1, columns))
    factors = _row_factors(source, dtype, change, step)
    for start in range(0, rows, step):
        block = slice(start, min(start + step, rows))
        values = _sum(source[block], dtype, change, block)
        if factors is not None:
            values *= factors[block, None] if change.outputs == 0 else factors
        out[block] = from_float32(values, dtype)
    return out.reshape(-1)


def _sum(source: Raw, dtype: str, change: LowRank, rows: slice) -> Float32:
    left = change.left[rows]
    delta = np.zeros((left.shape[0], change.right.shape[1]), dtype=np.float32)
    term = np.empty_like(delta)
    for k in range(change.right.shape[0]):
        np.multiply(left[:, k, None], change.right[k], out=term)
        delta += term
    delta *= np.float32(change.scale)
    delta += as_float32(source.reshape(-1), dtype).reshape(source.shape)
    return delta


def _row_factors(source: Raw, dtype: str, change: LowRank, step: int) -> Float32 | None:
    """DoRA's factor for each output: its magnitude over the length of its sum."""
    if change.magnitudes is None:
        return None
    squares = np.zeros(change.magnitudes.size, dtype=np.float64)
    for start in range(0, source.shape[0], step):
        block = slice(start, min(start + step, source.shape[0]))
        values = _sum(source[block], dtype, change, block).astype(np.float64)
        values *= values
        if change.outputs == 0:
            # add.accumulate adds in order; add.reduce pairs in ways that depend on the machine.
            squares[block] = np.add.accumulate(values, axis=1)[:, -1]
        else:
            for row in values:
                squares += row
    with np.errstate(divide="ignore", invalid="ignore"):
        return (change.magnitudes / np.sqrt(squares)).astype(np.float32)
