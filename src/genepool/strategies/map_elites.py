"""MAP-Elites (Mouret, Clune 2015): the best member for each combination of measures.

Measures are mean scores on tasks, or on the examples of a task that carry certain labels, so the
archive is a grid of cells such as (good at maths, weak at shopping). The grid is pyribs'.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.core.archive import Archive, Member, empty_archive
from genepool.core.rng import generator, pick
from genepool.core.slerp import Angle
from genepool.errors import ConfigError, InputError
from genepool.strategies import REJECTED, Outcome, Past, Problem, Proposal, Strategy
from genepool.strategies.base import mate, random_seeds
from genepool.strategies.m2n2 import put_back


@dataclass(frozen=True, slots=True)
class Measure:
    """Mean score on one task, or on its examples that carry one of these labels."""

    task: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Elites:
    """State: a slot per cell, and which examples each measure counts.

    Attributes:
        archive: the cells, row by row of the grid.
        measured: int64[n] per measure, positions of its examples.
    """

    archive: Archive
    measured: tuple[NDArray[np.int64], ...]


@dataclass(frozen=True, slots=True)
class MapElites(Strategy[Elites]):
    """MAP-Elites over merges.

    A child goes to the cell of its measures and stays if the cell is empty or its occupant has a
    lower mean score. Parents are drawn in proportion to mean score, without replacement, as in the
    reference implementation of M2N2.

    Attributes:
        measures: one per dimension of the grid.
        cells: number of cells along each dimension, over measures from 0 to 1.
        splits, angle, mutation, warmup: see `Niches`.
    """

    measures: tuple[Measure, ...]
    cells: tuple[int, ...]
    splits: int = 1
    angle: Angle = "global"
    mutation: float = 0.0
    warmup: int = 0

    def begin(self, problem: Problem) -> Elites:
        """An empty grid.

        Raises:
            ConfigError: a measure names a task or labels that there are not.
        """
        archive = empty_archive(int(np.prod(self.cells)), problem.examples, 0.0)
        return Elites(archive, tuple(_examples(problem, measure) for measure in self.measures))

    def propose(self, problem: Problem, state: Elites, step: int) -> Proposal:
        """The child of step `step`, a function of its arguments alone."""
        draws = generator(problem.seed, step)
        if step <= self.warmup and len(problem.seeds) > 1:
            first, second = random_seeds(problem, draws)
        else:
            first, second = _parents(state.archive, draws)
        return mate(
            problem,
            step,
            draws,
            first,
            second,
            splits=self.splits,
            angle=self.angle,
            mutation=self.mutation,
        )

    def absorb(
        self, state: Elites, member: Member, step: int, scores: NDArray[np.float32]
    ) -> tuple[Elites, Outcome]:
        """The better of the child and the occupant of its cell stays."""
        measures = [float(scores[examples].mean()) for examples in state.measured]
        slot = int(_grid(self.cells).index_of(np.array([measures]))[0])
        occupant = state.archive.members[slot]
        if occupant is not None and member.train <= occupant.train:
            return state, replace(REJECTED, fitness=member.train)
        return replace(state, archive=state.archive.replaced(slot, member, scores)), Outcome(
            accepted=True,
            slot=slot,
            evicted=None if occupant is None else occupant.id,
            fitness=member.train,
        )

    def recall(self, state: Elites, past: Past) -> Elites:
        """Put an elite back."""
        return replace(state, archive=put_back(state.archive, past))


def _parents(archive: Archive, draws: np.random.Generator) -> tuple[Member, Member]:
    there = [member for member in archive.members if member is not None]
    quality = np.array([member.train for member in there])
    first = _pick(draws, quality)
    if len(there) == 1:
        return there[0], there[0]
    quality[first] = -1.0
    others = np.maximum(quality, 0.0)
    if others.max() == 0:
        others = (quality >= 0).astype(np.float64)
    return there[first], there[pick(draws, others)]


def _pick(draws: np.random.Generator, weights: NDArray[np.float64]) -> int:
    return pick(draws, weights if weights.max() > 0 else np.ones_like(weights))


def _examples(problem: Problem, measure: Measure) -> NDArray[np.int64]:
    try:
        where = problem.examples.where(measure.task)
    except InputError as error:
        raise ConfigError(f"strategy.measures: {error}") from None
    if not measure.labels:
        return np.arange(where.start, where.stop, dtype=np.int64)
    labels = next(task.labels for task in problem.examples.tasks if task.name == measure.task)
    known = np.isin(np.array(labels, dtype=str), measure.labels)
    if len(labels) != where.stop - where.start or not known.any():
        there = ", ".join(sorted(set(labels))) or "none"
        raise ConfigError(
            f"strategy.measures: task '{measure.task}' has no examples labelled "
            f"{', '.join(measure.labels)}; its labels: {there}"
        )
    return where.start + np.flatnonzero(known)


@cache
def _grid(cells: tuple[int, ...]) -> Any:
    from ribs.archives import GridArchive

    return GridArchive(solution_dim=0, dims=list(cells), ranges=[(0.0, 1.0)] * len(cells))
