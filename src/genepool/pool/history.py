"""What a run went through, from its pool alone: a fold over the records."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from genepool.core import competition
from genepool.core.champion import first_best, leads
from genepool.errors import InputError
from genepool.pool.reader import Pool

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class History:
    """T points of a run, the first of them before any child; arrays are read-only.

    Attributes:
        evaluations: int64[T], children absorbed at each point, strictly increasing from 0.
        accepted: int64[T], how many of them had been accepted.
        train: float64[T], selection score of the champion so far, in [0, 1]. In a run with subsets
            of the best of the archive, on the examples of its subset; at the end of a finished run,
            of the champion on all.
        held_out: float64[T], its held-out score, NaN where it was not measured.
        coverage: float64[T], of the archive (see `competition.coverage`).
        entropy: float64[T], of the archive, in bits (see `competition.entropy`).
    """

    evaluations: Int64
    accepted: Int64
    train: Float64
    held_out: Float64
    coverage: Float64
    entropy: Float64

    def __post_init__(self) -> None:
        for one in fields(self):
            getattr(self, one.name).setflags(write=False)


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
    living: dict[int, int] = {}
    subsets = _Subsets(pool)
    rows: list[tuple[float, float, float, float, float]] = []
    accepted = 0
    train: float | None = None
    held_out = float("nan")

    def close_points(before: int | None) -> None:
        """Note the present state for every point that lies before step `before`."""
        if len(rows) == steps.size or (before is not None and steps[len(rows)] >= before):
            return
        if not scores:
            raise InputError(f"{pool.path}: nothing has been scored yet; there is no history")
        row: tuple[float, float, float, float, float] | None = None
        number = -1
        while len(rows) < steps.size and (before is None or steps[len(rows)] < before):
            if row is None or subsets.number(int(steps[len(rows)])) != number:
                number = subsets.number(int(steps[len(rows)]))
                matrix, best, held = subsets.standing(number, living, scores)
                if best is not None:
                    known = (best, known_held_out.get(held, float("nan")))
                else:
                    known = (train or 0.0, held_out)
                row = (accepted, *known, competition.coverage(matrix), competition.entropy(matrix))
            rows.append(row)

    for record in pool.records(accepted=True):
        if record.step > total:
            break
        close_points(record.step)
        if record.slot is None or record.scores is None or record.train is None:
            continue
        scores[record.slot] = record.scores
        living[record.slot] = record.id
        accepted += record.step > 0
        if leads(record.train, train):
            train = record.train
            held_out = known_held_out.get(record.id, float("nan"))
    close_points(None)
    if (final := subsets.final(total)) is not None:
        member, train = final
        rows[-1] = (rows[-1][0], train, known_held_out.get(member, float("nan")), *rows[-1][3:])
    table = np.array(rows, dtype=np.float64).T
    return History(steps, table[0].astype(np.int64), *table[1:].copy())


class _Subsets:
    """What members compete for at a time: all examples, or some of them."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self._rule = pool, pool.header.subsets
        self._indices, self._departed = pool.subset_examples(), pool.departed()

    def number(self, step: int) -> int:
        """The subset that child `step` is scored on."""
        return 0 if self._rule is None else self._rule.number_after(step)

    def standing(
        self, number: int, living: dict[int, int], scores: dict[int, NDArray[np.float32]]
    ) -> tuple[NDArray[np.float32], float | None, int]:
        """How an archive stands on a subset.

        Args:
            number: of the subset.
            living, scores: member and its float32[N], by slot.

        Returns:
            float32[P, n] on the subset's examples, and the best mean on them with whose it is; the
            latter None without subsets.
        """
        if self._rule is None:
            return np.stack(list(scores.values())), None, -1
        indices = self._indices[number]
        begin = number * self._rule.renew
        slots = [s for s, m in living.items() if self._departed.get(m, begin + 1) > begin]
        # Between two subsets somebody may have left whom nobody has replaced.
        slots = slots or list(living)
        examples = self._pool.header.examples.select(indices)
        means = {living[slot]: examples.mean(scores[slot][indices]) for slot in slots}
        best = first_best(means)
        return np.stack([scores[slot][indices] for slot in slots]), means[best], best

    def final(self, total: int) -> tuple[int, float] | None:
        """The champion and its score on all examples, where a run with subsets ended at `total`."""
        finished = self._rule is not None and self._pool.meta().get("finished") == total
        champion = self._pool.champion() if finished else None
        return None if champion is None else (champion, self._pool.record(champion).train or 0.0)
