"""Guards of a run: asked of the seeds, and of children that would be admitted.

A guard is a task that nobody competes for. It only bounds how far a child may fall below the best
seed before it is turned away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.core.archive import Verdict
from genepool.errors import EvaluationError
from genepool.pool.pool_header import GuardEntry

# Mean score of a member on each guard, in [0, 1]; None where it was not asked.
Means = tuple[float | None, ...]


# What two means of the same scores may differ by in the last places, such as 0.8 - 0.1 and 0.7.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of a model's guards.

    Attributes:
        means: of the guards that were asked.
        verdict: guarded if it falls below a bound, failed if it could not be scored; None if it
            passes.
        error: which guard and why, in one line; None if it passes.
        seconds: spent on it.
    """

    means: Means
    verdict: Verdict | None
    error: str | None
    seconds: float


def check(
    guards: Sequence[GuardEntry],
    score: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    seeds: Mapping[str, Means] | None,
) -> Checked:
    """Ask a model one guard after another, until it falls below a bound.

    Args:
        guards: in order.
        score: float32[n] for int64[n], positions among the examples of all guards laid end to end.
        seeds: means of all seeds, by name; None for a seed, which nothing holds back.
    """
    started = time.perf_counter()
    means: list[float | None] = [None] * len(guards)
    verdict: Verdict | None = None
    error: str | None = None
    edges = list(accumulate((guard.examples for guard in guards), initial=0))
    for number, guard in enumerate(guards):
        try:
            scores = score(np.arange(edges[number], edges[number + 1], dtype=np.int64))
        except EvaluationError as failure:
            verdict, error = Verdict.FAILED, f"guard '{guard.name}': {failure}"
            break
        means[number] = mean = float(scores.mean(dtype=np.float64))
        if seeds is None:
            continue
        best, bound = _best(number, guard, seeds)
        if not holds(mean, bound):
            verdict = Verdict.GUARDED
            # As many digits as tell the two apart: they differ by more than `_ROUNDING`.
            d = next(d for d in range(4, 12) if f"{mean:.{d}f}" != f"{bound:.{d}f}")
            error = (
                f"guard '{guard.name}': scores {mean:.{d}f}, and at least {bound:.{d}f} is needed "
                f"(best seed '{best[0]}' {best[1]:.{d}f}, tolerance {guard.tolerance:g})"
            )
            break
    return Checked(tuple(means), verdict, error, time.perf_counter() - started)


def standing(
    guards: Sequence[GuardEntry], seeds: Mapping[str, Means], others: Mapping[int, Means]
) -> list[dict[str, Any]]:
    """What guards ask for, and how many were turned away.

    Args:
        guards: in order.
        seeds: means of the seeds that have been asked, by name.
        others: means of the children that have been asked, by member.

    Returns:
        For each guard `name`, `examples`, `tolerance`, `best_seed` (`name`, `score`), `bound` (both
        None while no seed has been asked), `checked` and `broken` (numbers of children).
    """
    out: list[dict[str, Any]] = []
    for number, guard in enumerate(guards):
        asked = [mean for means in others.values() if (mean := means[number]) is not None]
        entry: dict[str, Any] = {
            "name": guard.name,
            "examples": guard.examples,
            "tolerance": guard.tolerance,
            "best_seed": None,
            "bound": None,
            "checked": len(asked),
            "broken": 0,
        }
        if seeds:
            (name, score), bound = _best(number, guard, seeds)
            entry |= {"best_seed": {"name": name, "score": score}, "bound": bound}
            entry["broken"] = sum(not holds(mean, bound) for mean in asked)
        out.append(entry)
    return out


def _best(
    number: int, guard: GuardEntry, seeds: Mapping[str, Means]
) -> tuple[tuple[str, float], float]:
    """The best seed on a guard with its mean, and the bound that follows."""
    means = [(name, mean) for name, row in seeds.items() if (mean := row[number]) is not None]
    # The first of equals.
    best = max(means, key=lambda entry: entry[1])
    return best, least([mean for _, mean in means], guard.tolerance)


def least(seeds: Sequence[float], tolerance: float) -> float:
    """Least mean score that an admitted child may have on a guard.

    Args:
        seeds: mean score of each seed on it, in [0, 1]; at least one.
        tolerance: how far below the best of them a child may fall, at least 0.
    """
    return max(0.0, max(seeds) - tolerance)


def holds(mean: float, bound: float) -> bool:
    """Whether a mean score is at least as high as a bound of `least`."""
    return mean >= bound - _ROUNDING
