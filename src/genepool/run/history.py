"""What a run went through, from its pool alone: a fold over the records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genepool.core import niches
from genepool.errors import InputError
from genepool.run.pool import Pool

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class History:
    """T points of a run, the first of them before any child; arrays are read-only.

    Attributes:
        evaluations: int64[T], children absorbed at each point, strictly increasing from 0.
        accepted: int64[T], how many of them had been accepted.
        train: float64[T], training score of the champion so far, in [0, 1].
        held_out: float64[T], its held-out score, NaN where it was not measured.
        coverage: float64[T], of the archive (see `niches.coverage`).
        entropy: float64[T], of the archive, in bits (see `niches.entropy`).
    """

    evaluations: Int64
    accepted: Int64
    train: Float64
    held_out: Float64
    coverage: Float64
    entropy: Float64

    def __post_init__(self) -> None:
        for array in (self.evaluations, self.accepted):
            array.setflags(write=False)
        for array in (self.train, self.held_out, self.coverage, self.entropy):
            array.setflags(write=False)


def history(pool: Pool, points: int = 500, last: int | None = None) -> History:
    """Fold a pool's records.

    Coverage and entropy are those of the members, empty slots left out.

    Args:
        pool: with at least one seed scored.
        points: largest number of points, evenly spaced; a shorter run has one per child.
        last: number of children to take into account; None means all.

    Raises:
        InputError: nothing has been scored yet, or `points` is below 2.
    """
    if points < 2:
        raise InputError(f"a history needs at least 2 points; got {points}")
    total = pool.evaluations if last is None else min(last, pool.evaluations)
    steps = np.unique(np.linspace(0, total, min(points, total + 1)).round().astype(np.int64))
    known_held_out = pool.held_out()
    scores: dict[int, NDArray[np.float32]] = {}
    rows: list[tuple[float, float, float, float, float]] = []
    accepted = 0
    train, held_out = float("-inf"), float("nan")

    def close_points(before: int | None) -> None:
        """Note the present state for every point that lies before step `before`."""
        if len(rows) == steps.size or (before is not None and steps[len(rows)] >= before):
            return
        if not scores:
            raise InputError(f"{pool.path}: nothing has been scored yet; there is no history")
        matrix = np.stack(list(scores.values()))
        row = (accepted, train, held_out, niches.coverage(matrix), niches.entropy(matrix))
        while len(rows) < steps.size and (before is None or steps[len(rows)] < before):
            rows.append(row)

    for record in pool.records(accepted=True):
        if record.step > total:
            break
        close_points(record.step)
        if record.slot is None or record.scores is None or record.train is None:
            continue
        scores[record.slot] = record.scores
        accepted += record.step > 0
        if record.train > train:
            train = record.train
            held_out = known_held_out.get(record.id, float("nan"))
    close_points(None)
    table = np.array(rows, dtype=np.float64).T
    return History(steps, table[0].astype(np.int64), *table[1:].copy())
