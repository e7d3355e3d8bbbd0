"""Fixed blocks: examples that are always scored together, whatever is asked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


def numbered(size: int, batch: int) -> Int64:
    """int64[size]: the first `batch` examples are block 0, and so on; read-only."""
    out = np.arange(size, dtype=np.int64) // batch
    out.setflags(write=False)
    return out


def score_blocks(
    indices: Int64, size: int, batch: int, score: Callable[[list[int]], Float32]
) -> Float32:
    """Score whole blocks of consecutive examples and pick what was asked.

    Args:
        indices: int64[n], positions in 0..size-1, any order, repeats allowed.
        size: number of examples of the set.
        batch: examples in a block; the last block may have fewer.
        score: scores one block, given the positions of its examples in stored order.

    Returns:
        float32[n], in the order of `indices`.
    """
    scores = np.full(size, np.nan, dtype=np.float32)
    for block in np.unique(indices // batch).tolist():
        start, stop = block * batch, min((block + 1) * batch, size)
        scores[start:stop] = score(list(range(start, stop)))
    return scores[indices]
