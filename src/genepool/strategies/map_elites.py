"""MAP-Elites (Mouret, Clune 2015): the best member for each combination of measures.

Measures are mean scores on tasks, or on the examples of a task that carry certain labels, so the
archive is a grid of cells such as (good at maths, weak at shopping).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from genepool.core.archive import Archive, Member, Verdict, empty_archive
from genepool.errors import ConfigError, InputError
from genepool.settings import Section
from genepool.strategies.base import Merging, pick_any, put_back
from genepool.strategies.problem import REJECTED, Outcome, Problem, Trial

# The floor of a product such as 10 * 0.3 must not fall into the cell below: pyribs' epsilon.
_EPSILON = 1e-6


class Measure(Section):
    """A dimension of MAP-Elites' grid: mean score on a task, or on some of its examples."""

    task: str = Field(description="The measure is the score on the task of this name.")
    labels: list[str] = Field(
        default=[], description="Only examples with these labels count; without labels all do."
    )


@dataclass(frozen=True, eq=False, slots=True)
class Elites:
    """State: a slot per cell, and which examples each measure counts.

    Attributes:
        archive: the cells, row by row of the grid.
        measured: int64[n] per measure, positions of its examples.
    """

    archive: Archive
    measured: tuple[NDArray[np.int64], ...]


class MapElites(Merging, frozen=True):
    """MAP-Elites: the best member for each combination of measures.

    A child goes to the cell of its measures and stays if the cell is empty or its occupant has a
    lower mean score. Parents are drawn in proportion to mean score, without replacement, as in the
    reference implementation of M2N2.
    """

    name: Literal["map-elites"] = Field(
        default="map-elites", description="This strategy makes the children."
    )
    measures: list[Measure] = Field(
        min_length=1, max_length=4, description="These are the dimensions of the grid."
    )
    cells: int = Field(
        default=10, ge=2, le=100, description="There are so many cells along each dimension."
    )

    def check(self, in_flight: int) -> None:
        """Refuse splits without split points, and a grid that is too large."""
        super().check(in_flight)
        if self.cells ** len(self.measures) > 100_000:
            raise ConfigError("strategy.cells: a grid may have at most 100,000 cells")

    def begin(self, problem: Problem, in_flight: int) -> Elites:
        """An empty grid.

        Raises:
            ConfigError: a measure names a task or labels that there are not.
        """
        archive = empty_archive(self.cells ** len(self.measures), problem.examples, 0.0)
        return Elites(archive, tuple(_examples(problem, measure) for measure in self.measures))

    def choose(self, state: Elites, draws: np.random.Generator) -> tuple[Member, Member]:
        """Two different members, in proportion to mean score; one alone meets itself."""
        there = [member for member in state.archive.members if member is not None]
        quality = np.array([member.train for member in there])
        others = np.ones(len(there), dtype=bool)
        first = pick_any(draws, quality, others)
        if len(there) == 1:
            return there[0], there[0]
        others[first] = False
        return there[first], there[pick_any(draws, quality * others, others)]

    def absorb(
        self, state: Elites, member: Member, step: int, scores: NDArray[np.float32]
    ) -> tuple[Elites, Outcome]:
        """The better of the child and the occupant of its cell stays."""
        # A float32 mean may lie further below an edge than the epsilon allows for.
        means = [float(scores[at].mean(dtype=np.float64)) for at in state.measured]
        slot = cell_of(means, self.cells)
        occupant = state.archive.members[slot]
        if occupant is not None and member.train <= occupant.train:
            return state, replace(REJECTED, fitness=member.train)
        return replace(state, archive=state.archive.replaced(slot, member, scores)), Outcome(
            Verdict.ACCEPTED,
            slot=slot,
            evicted=None if occupant is None else occupant.id,
            fitness=member.train,
        )

    def recall(self, state: Elites, trial: Trial) -> Elites:
        """Put an elite back."""
        return replace(state, archive=put_back(state.archive, trial))

    def archive_of(self, state: Elites) -> Archive:
        """The cells."""
        return state.archive


def cell_of(measures: Sequence[float], cells: int) -> int:
    """The cell of measures in [0, 1], row by row of a grid with so many cells per dimension."""
    index = 0
    for measure in measures:
        index = index * cells + min(int(cells * measure + _EPSILON), cells - 1)
    return index


def _examples(problem: Problem, measure: Measure) -> NDArray[np.int64]:
    examples = problem.examples
    try:
        own = examples.where(measure.task)
    except InputError as error:
        raise ConfigError(f"strategy.measures: {error}") from None
    positions = np.arange(own.start, own.stop, dtype=np.int64)
    if not measure.labels:
        return positions
    (labels,) = (task.labels for task in examples.tasks if task.name == measure.task)
    absent = [label for label in measure.labels if label not in labels]
    if absent or len(labels) != positions.size:
        there = ", ".join(sorted(set(labels))) or "none"
        raise ConfigError(
            f"strategy.measures: task '{measure.task}' has no examples labelled "
            f"{', '.join(absent or measure.labels)}; its labels: {there}"
        )
    return positions[np.isin(np.array(labels, dtype=str), measure.labels)]
