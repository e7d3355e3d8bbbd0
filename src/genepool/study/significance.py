"""Statistics over runs that differ in their random seed only. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genepool.core.rng import generator
from genepool.errors import InputError, MissingExtraError

Float64 = NDArray[np.float64]

# All 2**n signs are gone through up to this n, 65,536 of them; beyond, as many as this are drawn.
_EXACT = 16
_DRAWS, _PARTS = 100_000, 100
_STREAM = 11

SIGNIFICANT = 0.05
# 2 / 2**n is the smallest p-value that n differences can give.
FEWEST_SEEDS = 6


def evaluations_to_reach(evaluations: ArrayLike, scores: ArrayLike, level: float) -> int | None:
    """The number of evaluations at which a curve first is at or above a level.

    Args:
        evaluations: int[T], increasing.
        scores: float[T], the score from each of them on to the next; NaN where it is not known.
        level: in the unit of the scores.

    Returns:
        One of `evaluations`, or None if the level is never reached.
    """
    at = np.asarray(evaluations, dtype=np.int64)
    values = np.asarray(scores, dtype=np.float64)
    # A mean of equal numbers can lie a rounding error above them.
    reached = np.flatnonzero(values >= level - 1e-12)
    return int(at[reached[0]]) if reached.size else None


def sign_flip_test(differences: ArrayLike) -> float:
    """Two-sided p-value of the paired permutation test on the mean difference (Fisher 1935).

    If two strategies do not differ, each pair's difference is as likely to have the other sign. The
    p-value is the share of all assignments of signs with a sum at least as far from 0 as the one
    observed: exact up to 16 pairs, ties and zeros included; beyond, from 100,000 random
    assignments, always the same ones, the observed one counted among them.

    Args:
        differences: float[n], one per pair.

    Raises:
        InputError: there are none, or one is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise InputError(
            "differences: expected a one-dimensional array of at least one finite number; got "
            f"shape {values.shape}"
        )
    if values.size <= _EXACT:
        numbers = np.arange(2**values.size, dtype=np.int64)[:, None]
        parts, extra = [(numbers >> np.arange(values.size)) & 1], 0
    else:
        # Part by part: all of them would take gigabytes for a thousand pairs.
        chance, size = generator(0, 0, stream=_STREAM), (_DRAWS // _PARTS, values.size)
        parts, extra = (chance.integers(0, 2, size=size) for _ in range(_PARTS)), 1
    sums = np.concatenate([np.abs((1 - 2 * flips) @ values) for flips in parts])
    # Assignments that are tied but for rounding count as tied.
    observed = abs(float(values.sum())) - 1e-12 * float(np.abs(values).sum())
    return (int(np.count_nonzero(sums >= observed)) + extra) / (len(sums) + extra)


def holm(p_values: ArrayLike) -> Float64:
    """P-values corrected for their number (Holm 1979), in the order given.

    Args:
        p_values: float[m], in [0, 1].

    Returns:
        float64[m], in [0, 1]: those at most a are significant at the level a, all together.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    factors = values.size - np.arange(values.size)
    out = np.empty_like(values)
    out[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return out


def confidence_band(values: ArrayLike) -> tuple[Float64, Float64]:
    """95 % confidence interval of the mean over runs, by Student's t, at each point.

    Args:
        values: float[R, T], R runs.

    Returns:
        float64[T] twice, lower and upper end; NaN with fewer than two runs.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    runs = np.asarray(values, dtype=np.float64)
    if len(runs) < 2:
        unknown = np.full(runs.shape[1:], np.nan)
        return unknown, unknown.copy()
    try:
        from scipy import stats  # pyright: ignore[reportMissingTypeStubs]
    except ModuleNotFoundError:
        raise MissingExtraError("scipy", "plots", "a confidence band") from None
    quantile = float(stats.t.ppf(0.975, len(runs) - 1))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    mean = runs.mean(axis=0)
    half = quantile * runs.std(axis=0, ddof=1) / np.sqrt(len(runs))
    return mean - half, mean + half
