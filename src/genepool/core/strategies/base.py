"""What strategies share: the problem, plans, proposals, outcomes, and how a child is bred."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from genepool.core.archive import Archive, Member, Resources
from genepool.core.axis import Axis, InnerProducts
from genepool.core.exam import Exam
from genepool.core.genome import Genome, Recipe, Vector, compose, express
from genepool.core.rng import generator, noise
from genepool.core.slerp import Angle


@dataclass(frozen=True, eq=False, slots=True)
class Problem:
    """What a strategy works on.

    Attributes:
        axis: where the genomes divide.
        gram: inner products of the seeds; None when genomes are vectors.
        resources: the examples.
        seeds: genomes of the seeds, all of one kind.
        seed: of the randomness.
    """

    axis: Axis
    gram: InnerProducts | None
    resources: Resources
    seeds: tuple[Genome, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that makes a child.

    Attributes:
        parents: member ids; one without crossover, else two.
        ratio: SLERP ratio left of the splits, in [0, 1].
        splits: one position per chromosome.
        angle: over what the SLERP angle is measured.
        mutation: standard deviation of the normal noise added; 0 for none.
    """

    parents: tuple[int, ...]
    ratio: float
    splits: tuple[int, ...]
    angle: Angle
    mutation: float

    def as_json(self) -> str:
        """For people and reports; a child is made again from its merge."""
        return json.dumps(
            {
                "parents": self.parents,
                "ratio": self.ratio,
                "splits": self.splits,
                "angle": self.angle,
                "mutation": self.mutation,
            }
        )


@dataclass(frozen=True, eq=False, slots=True)
class Proposal:
    """A child to be scored.

    Attributes:
        step: from 1; numbers the children in order.
        plan: how it came about.
        merge: recipe over the parents, with the coefficients that the plan led to. With it the
            child can be made again from its parents without any inner product.
        genome: the child.
    """

    step: int
    plan: Plan
    merge: Recipe
    genome: Genome


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a child.

    Attributes:
        accepted: it entered the archive.
        slot: where; None if rejected.
        evicted: id of the member that it replaced; None if the slot was empty, or rejected.
        fitness: its fitness among archive and child; None where it was not fully scored.
    """

    accepted: bool
    slot: int | None
    evicted: int | None
    fitness: float | None


REJECTED = Outcome(accepted=False, slot=None, evicted=None, fitness=None)


class Strategy(Protocol):
    """Proposes children and decides which survive. All methods are pure."""

    def begin(self, problem: Problem) -> Archive:
        """The state before anything is absorbed."""
        ...

    def propose(self, problem: Problem, archive: Archive, step: int) -> Proposal:
        """The child of step `step`, a function of its arguments alone."""
        ...

    def exam(
        self, archive: Archive, proposal: Proposal, known: NDArray[np.float32], grain: int
    ) -> Exam:
        """In which order to ask for the examples not yet known (NaN), and when to stop."""
        ...

    def absorb(
        self, archive: Archive, member: Member, scores: NDArray[np.float32]
    ) -> tuple[Archive, Outcome]:
        """Decide about a fully scored member."""
        ...


def breed(
    merge: Recipe, parents: Sequence[Genome], mutation: float, seed: int, step: int
) -> Genome:
    """Make a child from its parents; exact, so that it can be made again at any time.

    Args:
        merge: recipe over the parents.
        parents: their genomes, all recipes or all vectors.
        mutation: standard deviation of the noise; 0 for recipes.
        seed, step: where the noise comes from.
    """
    recipes = [genome for genome in parents if isinstance(genome, Recipe)]
    if recipes:
        return compose(merge, recipes)
    values = express(merge, [genome.values for genome in parents if isinstance(genome, Vector)])
    if mutation:
        grain = noise(generator(seed, step, stream=1), values.size)
        grain *= np.float32(mutation)
        values += grain
    return Vector(values)
