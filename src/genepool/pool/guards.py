"""Guards of a run: asked of the seeds, and of children that would be admitted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from genepool.core.guards import holds, least
from genepool.errors import EvaluationError

# Mean score of a member on each guard, in [0, 1]; None where it was not asked.
Means = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class GuardEntry:
    """A guard as pinned: digest of its examples, tolerance, number of examples."""

    name: str
    digest: str
    tolerance: float
    examples: int


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of a model's guards.

    Attributes:
        means: of the guards that were asked.
        verdict: "guarded" if it falls below a bound, "failed" if it could not be scored; None if it
            passes.
        error: which guard and why, in one line; None if it passes.
        seconds: spent on it.
    """

    means: Means
    verdict: Literal["guarded", "failed"] | None
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
    verdict: Literal["guarded", "failed"] | None = None
    error: str | None = None
    start = 0
    for number, guard in enumerate(guards):
        stop = start + guard.examples
        try:
            mean = float(score(np.arange(start, stop, dtype=np.int64)).mean(dtype=np.float64))
        except EvaluationError as failure:
            verdict, error = "failed", f"guard '{guard.name}': {failure}"
            break
        means[number], start = mean, stop
        if seeds is None:
            continue
        best, bound = _best(number, guard, seeds)
        if not holds(mean, bound):
            verdict = "guarded"
            error = (
                f"guard '{guard.name}': scores {mean:.4f}, and at least {bound:.4f} is needed "
                f"(best seed '{best[0]}' {best[1]:.4f}, tolerance {guard.tolerance:g})"
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
