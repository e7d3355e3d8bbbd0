"""Examples: what members are scored on, the tasks' examples laid end to end.

Everything that has to know where one task ends and the next begins asks this value: nobody slices
by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import fsum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from genepool.errors import InputError

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
_Values = TypeVar("_Values", bound=np.generic)


@dataclass(frozen=True, slots=True)
class TaskExamples:
    """The examples of one task.

    Attributes:
        name: the task's name.
        size: number of examples, at least 0.
        weight: what the whole task weighs, above 0; tasks weigh alike whatever their size.
        labels: a label per example, for strategies that tell kinds of examples apart; may be empty.
    """

    name: str
    size: int
    weight: float = 1.0
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Examples:
    """N examples of T tasks, laid end to end.

    Attributes:
        tasks: the tasks, in order; their sizes sum to N.
        capacity: float64[N], above 0, read-only: capacity c_j of each example when fully solved.
        binary: every score is 0 or 1. Otherwise members that compete scale an example's capacity by
            the best score on it (see `Archive.scaled`).
        grain: number of examples that are scored at once: it is best to ask for multiples of it.
        blocks: int64[N], the block that each example belongs to, numbered from 0; a block is always
            asked for as a whole. None where every example stands alone.
        held_out: they never touch selection.
    """

    tasks: tuple[TaskExamples, ...]
    capacity: Float64
    binary: bool
    grain: int = 1
    blocks: Int64 | None = None
    held_out: bool = False

    def __post_init__(self) -> None:
        total = sum(task.size for task in self.tasks)
        if self.capacity.shape != (total,):
            raise InputError(
                f"capacity must have one value for each of {total} examples; got shape "
                f"{self.capacity.shape}"
            )
        self.capacity.setflags(write=False)

    @property
    def size(self) -> int:
        """Number N of examples."""
        return self.capacity.size

    @property
    def edges(self) -> list[int]:
        """First example of each of the T tasks, and N."""
        return list(accumulate((task.size for task in self.tasks), initial=0))

    def split(self, values: NDArray[_Values]) -> list[NDArray[_Values]]:
        """Values per example, [..., N], task by task: T views of shape [..., size of the task]."""
        return [values[..., start:stop] for start, stop in pairwise(self.edges)]

    def means(self, scores: NDArray[np.floating]) -> list[float]:
        """Mean score of each task, NaN for a task without examples.

        Args:
            scores: float[N] in [0, 1]; an unknown score (NaN) makes its task's mean unknown.
        """
        return [self._mean_of(scores, start, stop) for start, stop in pairwise(self.edges)]

    def known_means(self, scores: NDArray[np.floating]) -> list[float | None]:
        """Mean of each task's scores that are known (not NaN), in float64; None where none is."""
        known = [part[~np.isnan(part)] for part in self.split(scores)]
        return [float(part.mean(dtype=np.float64)) if part.size else None for part in known]

    def mean(self, scores: NDArray[np.floating]) -> float:
        """Mean score over all tasks by their weights, in [0, 1]; exactly 1 where all is solved.

        Args:
            scores: float[N] in [0, 1]; an unknown score (NaN) makes the mean unknown.
        """
        held = [
            (task.weight, mean)
            for task, mean in zip(self.tasks, self.means(scores), strict=True)
            if task.size
        ]
        if len(held) == 1:
            return held[0][1]
        return fsum(weight * mean for weight, mean in held) / fsum(weight for weight, _ in held)

    def mean_known(self, scores: NDArray[np.floating]) -> float:
        """`mean` of the examples whose scores are known (not NaN), where a task weighs what it
        weighs as a whole, however much of it is known; NaN where nothing is."""
        (known,) = np.nonzero(~np.isnan(scores))
        return self.select(known).mean(scores[known]) if known.size else float("nan")

    def _mean_of(self, scores: NDArray[np.floating], start: int, stop: int) -> float:
        """Of one task. Its examples have the same capacity unless a caller chose otherwise."""
        if start == stop:
            return float("nan")
        own, limit = scores[start:stop].astype(np.float64), self.capacity[start:stop]
        if limit[0] == limit[-1] and (limit == limit[0]).all():
            return float(np.add.reduce(own)) / (stop - start)
        return float(np.add.reduce(own * limit) / np.add.reduce(limit))

    def locate(self, indices: Int64) -> Iterator[tuple[int, Int64, Int64]]:
        """Which tasks examples belong to.

        Args:
            indices: int64[n], positions among all N, in any order.

        Yields:
            For each task that has any: its number, where its examples stand in `indices` (int64[m])
            and their positions within the task (int64[m]).
        """
        edges = self.edges
        if len(self.tasks) == 1:
            yield 0, np.arange(indices.size, dtype=np.int64), indices
            return
        for number, (start, stop) in enumerate(pairwise(edges)):
            mine = np.flatnonzero((indices >= start) & (indices < stop))
            if mine.size:
                yield number, mine, indices[mine] - start

    def where(self, name: str) -> slice:
        """The examples of the task of this name.

        Raises:
            InputError: there is no such task.
        """
        for task, (start, stop) in zip(self.tasks, pairwise(self.edges), strict=True):
            if task.name == name:
                return slice(start, stop)
        names = ", ".join(task.name for task in self.tasks)
        raise InputError(f"there is no task '{name}'; tasks: {names}")

    def select(self, indices: Int64) -> Examples:
        """Some of the examples; each task weighs what it weighs as a whole.

        Args:
            indices: int64[n], rising, positions among all N, some of every task that has any.
        """
        edges = self.edges
        cuts: list[int] = indices.searchsorted(edges).tolist()
        tasks: list[TaskExamples] = []
        capacity: list[Float64] = []
        for task, (start, stop), (low, high) in zip(
            self.tasks, pairwise(edges), pairwise(cuts), strict=True
        ):
            mine = indices[low:high]
            positions: list[int] = (mine - start).tolist()
            labels = tuple(task.labels[at] for at in positions) if task.labels else ()
            tasks.append(replace(task, size=mine.size, labels=labels))
            if mine.size:
                share = self.capacity[start:stop].sum() / self.capacity[mine].sum()
                capacity.append(self.capacity[mine] * share)
        blocks = self.blocks
        if blocks is not None:
            blocks = np.unique(blocks[indices], return_inverse=True)[1].astype(np.int64)
        laid = np.concatenate(capacity) if capacity else np.zeros(0)
        return replace(self, tasks=tuple(tasks), capacity=laid, blocks=blocks)


def lay_out(
    tasks: Sequence[TaskExamples],
    *,
    binary: bool,
    grain: int = 1,
    blocks: Int64 | None = None,
    held_out: bool = False,
) -> Examples:
    """Lay the examples of tasks end to end; the mean capacity is 1.

    A task shares out its weight among its examples, so that tasks of different sizes weigh alike.

    Args:
        tasks: at least one of them has examples.
        binary, grain, blocks, held_out: see `Examples`.

    Raises:
        InputError: no task has an example, or a weight is not above 0.
    """
    held = [task.weight if task.size else 0.0 for task in tasks]
    if not any(task.size for task in tasks):
        raise InputError("at least one task must have examples; got none")
    if not all(0 < task.weight < float("inf") for task in tasks):
        raise InputError(f"weights must be above 0; got {[task.weight for task in tasks]}")
    scale = sum(task.size for task in tasks) / fsum(held)
    capacity = np.concatenate(
        [
            np.full(task.size, scale * weight / task.size) if task.size else np.zeros(0)
            for task, weight in zip(tasks, held, strict=True)
        ]
    )
    return Examples(tuple(tasks), capacity, binary, grain, blocks, held_out)


def examples_of(
    size: int, *, binary: bool, capacity: Float64 | None = None, blocks: Int64 | None = None
) -> Examples:
    """The examples of one task without a name; `capacity` float64[N], None means one each."""
    given = np.ones(size) if capacity is None else np.array(capacity, dtype=np.float64)
    return Examples((TaskExamples("examples", size),), given, binary, blocks=blocks)
