"""Competition for examples: fitness, attraction, survival, coverage, entropy.

Abrantes, Lange, Tang 2025, "Competition and Attraction Improve Model Fusion" (arXiv 2508.16204).
Every scored example j has a capacity c_j, which the members that solve it share.

Notation: P members, N examples, `scores[i, j]` in [0, 1], contest z_j = sum_i scores[i, j].
Where z_j = 0 nobody claims the example and its share is 0 (the reference code's convention; the
paper's epsilon in the denominator is the same thing to within rounding, unless alpha is above 1 and
z_j so small that z_j^alpha is not far above it).

With the baseline `worst` (the paper's for image generators) the lowest score that any competitor
has on an example is first taken off everybody's: with b_j = min_i scores[i, j], what stands for
s_ij in all formulas, contest and continuous capacity included, is s_ij - b_j. Scores that all lie
close together (cosines of image features: 0.6 to 0.7) tell members apart only then.

Sums of the same numbers in another order differ in the last place, and an optimised matrix product
may choose the order by the size of the matrix. Survival must not hang on that: fitnesses within
`TIE` of each other (relative) count as equal, which is far above rounding and far below anything
that a score can express.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genepool.core.checks import in_range, is_whole, numbers
from genepool.errors import InputError

Float64 = NDArray[np.float64]

Baseline = Literal["none", "worst"]

TIE = 1e-11

# A small contest to a large power has no number, and what is divided by 0 is nobody's share.
_TINY = float(np.finfo(np.float64).tiny)


def fitness(
    scores: ArrayLike,
    capacity: ArrayLike | None = None,
    alpha: float = 1.0,
    *,
    baseline: Baseline = "none",
) -> Float64:
    """Fitness of every member, paper eqs. 3 and 5: `f_i = sum_j c_j s_ij / z_j^alpha`.

    Args:
        scores: [P, N], values in [0, 1].
        capacity: [N], at least 0; None means one each.
        alpha: strength of competition, at least 0; 0 is no competition (a plain genetic algorithm).
        baseline: what is taken off the scores on an example first: nothing, or the worst of them.

    Returns:
        float64[P].

    Raises:
        InputError: a shape, a range, a value that is not finite, or an unknown baseline.
    """
    matrix, limit = _checked(scores, capacity, alpha, baseline)
    return np.add.reduce(matrix * prices(matrix.sum(axis=0), limit, alpha), axis=1)


def attraction(
    scores: ArrayLike,
    first: int,
    capacity: ArrayLike | None = None,
    alpha: float = 1.0,
    *,
    baseline: Baseline = "none",
) -> Float64:
    """How much each member offers that member `first` lacks, paper eq. 4 in the reference's form.

    `g_i = sum_j c_j / z_j^alpha * max(s_ij - s_first,j, 0)`; the paper prints it without alpha,
    which is the same at alpha = 1.

    Args:
        scores: [P, N], values in [0, 1].
        first: row of the first parent, 0 <= first < P.
        capacity: [N], at least 0; None means one each.
        alpha: at least 0.
        baseline: as in `fitness`.

    Returns:
        float64[P]; 0 at `first`.

    Raises:
        InputError: a shape, a range, an index, a value that is not finite, or an unknown baseline.
    """
    matrix, limit = _checked(scores, capacity, alpha, baseline)
    if not (is_whole(first) and 0 <= first < matrix.shape[0]):
        raise InputError(f"first must be a row of scores, 0..{matrix.shape[0] - 1}; got {first!r}")
    return offers(matrix, matrix[first], prices(matrix.sum(axis=0), limit, alpha))


def survivor(
    scores: ArrayLike,
    child: ArrayLike,
    capacity: ArrayLike | None = None,
    alpha: float = 1.0,
    *,
    baseline: Baseline = "none",
) -> int | None:
    """The slot that the child takes, or None if it is itself the worst of all P + 1.

    Fitness is computed anew over archive and child together and the smallest drops out; on a tie
    the first does, so an incumbent before the child (the reference's argmin). The baseline too is
    that of archive and child together.

    Args:
        scores: [P, N], values in [0, 1].
        child: [N], values in [0, 1].
        capacity: [N], at least 0; None means one each.
        alpha: at least 0.
        baseline: as in `fitness`.

    Raises:
        InputError: a shape, a range, a value that is not finite, or an unknown baseline.
    """
    matrix, limit = _checked(scores, capacity, alpha)
    _require_baseline(baseline)
    row = _per_example(child, "child", matrix.shape[1])
    wrong = ~((row >= 0) & (row <= 1))
    if bool(wrong.any()):
        example = int(wrong.argmax())
        raise InputError(f"child must lie in [0, 1]; example {example} has {row[example]}")
    if baseline == "worst":
        worst = np.minimum(matrix.min(axis=0), row)
        matrix, row = above(matrix, worst), above(row, worst)
    return weakest(matrix, matrix.sum(axis=0), row, limit, alpha)[0]


def coverage(scores: ArrayLike) -> float:
    """Share of examples solved by at least one member.

    For scores between 0 and 1 the mean over examples of the best member's score, which is the
    same thing where scores are 0 or 1.

    Args:
        scores: [P, N], values in [0, 1].
    """
    matrix, _ = _checked(scores, None, 1.0)
    return float(matrix.max(axis=0).mean())


def entropy(scores: ArrayLike) -> float:
    """Mean over examples of the binary entropy, in bits, of the share of members that solve it.

    1 means that every example is solved by half of the members, 0 that all members agree.

    Args:
        scores: [P, N], values in [0, 1].
    """
    matrix, _ = _checked(scores, None, 1.0)
    share = np.clip(matrix.mean(axis=0), 0.0, 1.0)
    inside = share[(share > 0) & (share < 1)]
    bits = -(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside))
    return float(bits.sum() / share.size)


def best_capacity(scores: ArrayLike, *, baseline: Baseline = "none") -> Float64:
    """Capacity for continuous scores, `c_j = max_i s_ij`: a half-solved example pays out half.

    Args:
        scores: [P, N], values in [0, 1], of all that compete.
        baseline: as in `fitness`: the capacity is that of what is left above it.

    Returns:
        float64[N].
    """
    matrix, _ = _checked(scores, None, 1.0, baseline)
    return matrix.max(axis=0)


# What follows trusts its arguments: float64 arrays of matching shapes, checked by the caller.


def above(scores: Float64, worst: Float64) -> Float64:
    """What scores are above the worst ones, float64[..., N]; 0 for an empty slot's, below them."""
    return np.maximum(scores - worst, 0.0)


def prices(contest: Float64, capacity: Float64, alpha: float) -> Float64:
    """What a full score on each example pays, `c_j / z_j^alpha`; `c_j` where nobody claims it."""
    if alpha == 0:
        return capacity
    claimed = np.where(contest > 0, contest, 1.0)
    return capacity / (claimed if alpha == 1 else np.maximum(claimed**alpha, _TINY))


def offers(scores: Float64, have: Float64, price: Float64, *, binary: bool = False) -> Float64:
    """`attraction` for somebody with the scores `have`, with the prices given: float64[P].

    With 0/1 scores what counts is who solves the examples that they fail: a product, in a fifth of
    the time.
    """
    if binary:
        return scores @ ((1.0 - have) * price)
    gap = scores - have
    np.maximum(gap, 0.0, out=gap)
    gap *= price
    return np.add.reduce(gap, axis=1)


def weakest(
    scores: Float64, contest: Float64, child: Float64, capacity: Float64, alpha: float
) -> tuple[int | None, float]:
    """`survivor` with the archive's contest given, and the child's fitness among all P + 1."""
    price = prices(contest + child, capacity, alpha)
    values = np.append(scores @ price, child @ price)
    slot = int(np.argmax(values <= values.min() * (1 + TIE)))
    return (slot if slot < scores.shape[0] else None), float(values[-1])


def _require_baseline(baseline: Baseline) -> None:
    if baseline not in get_args(Baseline):
        names = ", ".join(get_args(Baseline))
        raise InputError(f"baseline must be one of {names}; got {baseline!r}")


def _checked(
    scores: ArrayLike, capacity: ArrayLike | None, alpha: float, baseline: Baseline = "none"
) -> tuple[Float64, Float64]:
    """Scores less their baseline, and capacities."""
    _require_baseline(baseline)
    matrix = numbers(scores, "scores").astype(np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InputError(
            f"scores must have shape (members, examples), both at least 1; got {matrix.shape}"
        )
    wrong = ~((matrix >= 0) & (matrix <= 1))
    if bool(wrong.any()):
        row, column = np.argwhere(wrong)[0].tolist()
        raise InputError(
            f"scores must lie in [0, 1]; member {row}, example {column} has {matrix[row, column]}"
        )
    if not in_range(alpha, 0):
        raise InputError(f"alpha must be a finite number of at least 0; got {alpha!r}")
    if baseline == "worst":
        matrix = above(matrix, matrix.min(axis=0))
    examples: int = matrix.shape[1]
    if capacity is None:
        return matrix, np.ones(examples)
    limit = _per_example(capacity, "capacity", examples)
    wrong = ~(np.isfinite(limit) & (limit >= 0))
    if bool(wrong.any()):
        example = int(wrong.argmax())
        raise InputError(
            f"capacity must be finite and at least 0; example {example} has {limit[example]}"
        )
    return matrix, limit


def _per_example(values: ArrayLike, name: str, examples: int) -> Float64:
    row = numbers(values, name).astype(np.float64)
    if row.shape != (examples,):
        raise InputError(
            f"{name} must have one value per example: expected ({examples},), got {row.shape}"
        )
    return row
