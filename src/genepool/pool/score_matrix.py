"""Who solves what: the scores of seeds and archive, examples in an order that tells something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genepool.pool.reader import Pool
from genepool.pool.records import Record

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class ScoreMatrix:
    """K seeds and P members of the archive on N selection examples; arrays are read-only.

    In a run with subsets these are the examples of the last subset that all of the archive was
    asked.

    The examples stand in order of task, then of which seeds solve them, then of how many members
    of the archive do.

    Attributes:
        names: of the seeds that have been scored.
        seeds: float32[K, N], in [0, 1].
        members: ids of the archive, best first.
        archive: float32[P, N], in the order of `members`.
        edges: int64[T + 1], first column of each of T tasks, and N.
    """

    names: tuple[str, ...]
    seeds: Float32
    members: tuple[int, ...]
    archive: Float32
    edges: NDArray[np.int64]

    def __post_init__(self) -> None:
        for array in (self.seeds, self.archive, self.edges):
            array.setflags(write=False)


def score_matrix(pool: Pool) -> ScoreMatrix:
    """Read the scores of a pool's seeds and archive.

    Args:
        pool: with at least one seed scored.
    """
    names = [seed.name for seed in pool.header.seeds]
    records = list(pool.records(last=len(names) - 1))
    alive = list(pool.chosen(pool.slots().values()).values())
    alive.sort(key=lambda record: (-(record.train or 0.0), record.id))
    examples = pool.header.examples
    seeds, archive = _scores(records, examples.size), _scores(alive, examples.size)
    for indices in reversed(pool.subset_examples()):
        if not np.isnan(archive[:, indices]).any():
            examples = examples.select(indices)
            seeds, archive = seeds[:, indices], archive[:, indices]
            break
    task = np.repeat(np.arange(len(examples.tasks)), np.diff(examples.edges))
    # Which seeds solve it, then how many members do; the tasks stay apart.
    keys = [-archive.sum(axis=0), *(-(row >= 0.5).astype(int) for row in seeds[::-1]), task]
    order = np.lexsort(keys)
    return ScoreMatrix(
        tuple(names[: len(records)]),
        seeds[:, order],
        tuple(record.id for record in alive),
        archive[:, order],
        np.array(examples.edges, dtype=np.int64),
    )


def _scores(records: Sequence[Record], size: int) -> Float32:
    unknown = np.zeros(size, dtype=np.float32)
    rows = [unknown if record.scores is None else record.scores for record in records]
    return np.stack(rows) if rows else np.zeros((0, size), dtype=np.float32)


def in_columns(scores: Float32, columns: int) -> Float32:
    """Average neighbouring examples, so that at most `columns` are left; rows stay.

    Args:
        scores: float32[M, N], N >= 1.
        columns: at least 1.

    Returns:
        float32[M, min(N, columns)].
    """
    examples = scores.shape[1]
    count = min(examples, columns)
    starts = np.arange(count, dtype=np.int64) * examples // count
    widths = np.diff(np.append(starts, examples)).astype(np.float32)
    return np.asarray(np.add.reduceat(scores, starts, axis=1) / widths, dtype=np.float32)


def best_members(pool: Pool, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64[n], who of the archive does best on each of these examples; the first of equals.

    Args:
        pool: with members in its archive.
        indices: int64[n], positions among all N examples.
    """
    alive = sorted(pool.slots().values())
    records = pool.chosen(alive)
    scores = np.array(
        [
            np.full(indices.size, np.nan) if record.scores is None else record.scores[indices]
            for record in records.values()
        ]
    )
    return np.array(alive, dtype=np.int64)[np.nan_to_num(scores, nan=-1.0).argmax(axis=0)]
