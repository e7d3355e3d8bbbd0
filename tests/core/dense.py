"""The paper's formulas written a second time, densely and slowly, to check the core against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from genepool.core.axis import Axis

Float64 = NDArray[np.float64]


def exact_fitness(
    scores: Sequence[Sequence[Fraction]], capacity: Sequence[Fraction], alpha: int
) -> list[Fraction]:
    """Eqs. 3 and 5 in rational arithmetic, for whole alpha."""
    contests = [sum(column) for column in zip(*scores, strict=True)]
    return [
        sum(
            (
                limit * share / contest**alpha
                for share, limit, contest in zip(row, capacity, contests, strict=True)
                if share
            ),
            Fraction(0),
        )
        for row in scores
    ]


def exact_survivor(
    scores: Sequence[Sequence[Fraction]],
    child: Sequence[Fraction],
    capacity: Sequence[Fraction],
    alpha: int,
) -> int | None:
    """The first of the least fit of archive and child; None where it is the child."""
    values = exact_fitness([*scores, child], capacity, alpha)
    slot = values.index(min(values))
    return slot if slot < len(scores) else None


def dot(x: Float64, y: Float64) -> float:
    """Inner product, with more digits than float64 on the way where the machine has them."""
    return float(np.sum(x.astype(np.longdouble) * y))


def slerp(ratio: float, a: Float64, b: Float64, angle_of: tuple[Float64, Float64]) -> Float64:
    """SLERP of a and b by the angle between the two vectors of `angle_of`."""
    x, y = angle_of
    of_a, of_b = 1.0 - ratio, ratio
    lengths = math.sqrt(dot(x, x)) * math.sqrt(dot(y, y))
    if lengths > 0:
        omega = math.acos(max(-1.0, min(1.0, dot(x, y) / lengths)))
        if math.sin(omega) > (1e-6 if omega < 1 else 1e-3):
            of_a = math.sin((1.0 - ratio) * omega) / math.sin(omega)
            of_b = math.sin(ratio * omega) / math.sin(omega)
    return of_a * a + of_b * b


def merge(
    a: Float64, b: Float64, along: Axis, ratio: float, splits: Sequence[int], angle: str
) -> Float64:
    """Eq. 2 on dense vectors, for each chromosome: ratio left of the split, 1 - ratio right.

    With several splits per chromosome the two take turns.
    """
    child = np.empty_like(a)
    tensors = along.tensors.tolist()
    edges = along.chromosomes.tolist()
    each = len(splits) // len(along.names)
    for number, (low, high) in enumerate(pairwise(edges)):
        points = [low, *splits[number * each : (number + 1) * each], high]
        for turn, (start, stop) in enumerate(pairwise(points)):
            share = 1.0 - ratio if turn % 2 else ratio
            if angle == "tensor":
                for first, last in pairwise(tensors):
                    part = slice(max(first, start), min(last, stop))
                    if part.start < part.stop:
                        whole = slice(first, last)
                        child[part] = slerp(share, a[part], b[part], (a[whole], b[whole]))
            elif start < stop:
                part = slice(start, stop)
                of = (a, b) if angle == "global" else (a[part], b[part])
                child[part] = slerp(share, a[part], b[part], of)
    return child


class DenseProducts:
    """Inner products of seeds held in memory, summed stretch by stretch in float64."""

    def __init__(self, seeds: Float64) -> None:
        """Take seeds, float64[K, D]."""
        self._products = np.einsum("id,jd->dij", seeds, seeds)

    def between(self, edges: NDArray[np.int64]) -> Float64:
        """See `genepool.core.axis.InnerProducts`."""
        assert edges.ndim == 1 and bool((np.diff(edges) >= 0).all())
        assert edges[0] >= 0 and edges[-1] <= self._products.shape[0]
        return np.stack(
            [self._products[start:stop].sum(axis=0) for start, stop in pairwise(edges.tolist())]
        )


def densely(bounds: NDArray[np.int64], coefs: Float64, sources: Float64) -> Float64:
    """What a recipe says, position by position: float64[D] from sources float64[K, D]."""
    segment = np.repeat(np.arange(coefs.shape[0]), np.diff(bounds))
    return np.einsum("dk,kd->d", coefs[segment], sources)
