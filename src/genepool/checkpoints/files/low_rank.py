"""LoRA in numbers: what an adapter adds to a weight, the same bits on every machine.

`W + scale B A` (Hu et al. 2022, LoRA, section 4.1), with `scale = alpha / r`, or `alpha / sqrt(r)`
where the ranks are stabilised (Kalajdzievski 2023, rsLoRA); DoRA scales the rows of the sum to
learnt magnitudes (Liu et al. 2024, DoRA, equation 5).

A matrix product sums in whatever order the machine's library likes, and a seed's digest must not
depend on the machine. So the r rank-one terms are added one after another, element by element, in
blocks of rows that stay in the processor's cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genepool.checkpoints.files.dtypes import Raw, as_float32, from_float32
from genepool.checkpoints.files.safetensors import Tensor

Float32 = NDArray[np.float32]
_BLOCK = 2**16


@dataclass(frozen=True, eq=False, slots=True)
class LowRank:
    """What an adapter adds to one weight, in tensors that are read as it is folded.

    Attributes:
        left: B, outputs by rank.
        right: A, rank by inputs.
        scale: factor of their product.
        magnitudes: of DoRA, one for each output; None for LoRA.
        turned: the weight is stored as inputs by outputs (fan in, fan out).
    """

    left: Tensor
    right: Tensor
    scale: float
    magnitudes: Tensor | None = None
    turned: bool = False


def matrix(tensor: Tensor) -> tuple[int, int]:
    """Its shape as rows by columns."""
    return (tensor.shape[0], math.prod(tensor.shape[1:])) if tensor.shape else (1, 1)


def fold(weight: Raw, dtype: str, change: LowRank) -> Raw:
    """The weight with the adapter in it: float32 arithmetic, one rounding to the weight's dtype.

    Args:
        weight: flat, in the storage of `dtype`.
        dtype: floating.
        change: of this weight.

    Returns:
        A new flat array of the same size and storage.
    """
    left, right = (part.floats().reshape(matrix(part)) for part in (change.left, change.right))
    if change.turned:
        left, right = np.ascontiguousarray(right.T), np.ascontiguousarray(left.T)
    rows, columns = left.shape[0], right.shape[1]
    source = weight.reshape(rows, columns)
    out = np.empty_like(source)
    step = max(1, _BLOCK // max(1, columns))
    blocks = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]

    def summed(block: slice) -> Float32:
        delta = np.zeros((block.stop - block.start, columns), dtype=np.float32)
        term = np.empty_like(delta)
        for k in range(right.shape[0]):
            np.multiply(left[block, k, None], right[k], out=term)
            delta += term
        delta *= np.float32(change.scale)
        delta += as_float32(source[block].reshape(-1), dtype).reshape(delta.shape)
        return delta

    factors: Float32 | None = None
    if change.magnitudes is not None:
        squares = np.zeros(columns if change.turned else rows, dtype=np.float64)
        for block in blocks:
            terms = np.square(summed(block), dtype=np.float64)
            if not change.turned:
                # add.accumulate adds in order; add.reduce pairs in ways that depend on the machine.
                squares[block] = np.add.accumulate(terms, axis=1)[:, -1]
                continue
            for row in terms:
                squares += row
        magnitudes = change.magnitudes.floats().reshape(-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            factors = (magnitudes / np.sqrt(squares)).astype(np.float32)
    for block in blocks:
        total = summed(block)
        if factors is not None:
            total *= factors if change.turned else factors[block, None]
        out[block] = from_float32(total, dtype)
    return out.reshape(-1)
