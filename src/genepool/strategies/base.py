"""What strategies share: the problem, plans, proposals, outcomes, and how a child is bred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from genepool.core.archive import Member
from genepool.core.axis import Axis, InnerProducts
from genepool.core.early_stop.lossless import FullExam, Questions
from genepool.core.examples import Examples
from genepool.core.genome import Genome, Origin, Recipe, Vector, compose
from genepool.core.slerp import Angle, merge_recipe, products_of


@dataclass(frozen=True, eq=False, slots=True)
class Problem:
    """What a strategy works on.

    Attributes:
        axis: where the genomes divide.
        gram: inner products of the seeds; None when genomes are vectors.
        examples: what members are scored on.
        seeds: genomes of the seeds, all of one kind; they are the members 0..K-1.
        seed: of the randomness.
        tensors: names of the tensors, in axis order; may be empty.
    """

    axis: Axis
    gram: InnerProducts | None
    examples: Examples
    seeds: tuple[Genome, ...]
    seed: int
    tensors: tuple[str, ...] = ()


class Drawn(Protocol):
    """What was drawn to make a child."""

    @property
    def parents(self) -> tuple[int, ...]:
        """Member ids."""
        ...

    @property
    def mutation(self) -> float:
        """Standard deviation of the noise added; 0 for none."""
        ...

    def as_json(self) -> str:
        """For people and reports; a child is made again from its merge."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that makes a child.

    Attributes:
        parents: member ids; one without crossover, else two.
        ratio: SLERP ratio left of the first split, in [0, 1]; it and its complement take turns.
        splits: positions, equally many per chromosome.
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
        parents, places = ", ".join(map(str, self.parents)), ", ".join(map(str, self.splits))
        return (
            f'{{"parents": [{parents}], "ratio": {self.ratio!r}, "splits": [{places}], '
            f'"angle": "{self.angle}", "mutation": {self.mutation!r}}}'
        )


@dataclass(frozen=True, eq=False, slots=True)
class Proposal:
    """A child to be scored.

    Attributes:
        step: from 1; numbers the children in order.
        plan: how it came about.
        merge: recipe over the parents, with the coefficients that the plan led to. With it the
            child can be made again from its parents without any inner product. None if the child
            has none (its weights were drawn).
        genome: the child.
    """

    step: int
    plan: Drawn
    merge: Recipe | None
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


@dataclass(frozen=True, eq=False, slots=True)
class Past:
    """What a pool remembers of one absorbed member, for resuming.

    Attributes:
        step: of the child, from 1; 0 for a seed.
        member: the member; None unless it was accepted.
        slot: where it went; None unless it was accepted.
        scores: float32[N], NaN where not asked; None if it failed.
    """

    step: int
    member: Member | None
    slot: int | None
    scores: NDArray[np.float32] | None


State = TypeVar("State")


class Strategy(Protocol[State]):
    """Proposes children and decides which survive.

    All methods are pure: they return a new state. A run asks `propose` for child t with the state
    after child t - W, and hands every child to `absorb`, or to `skip` if it was not fully scored,
    in the order of the steps. What most strategies have in common is here, for those that derive
    from it.
    """

    @property
    def remembers(self) -> bool:
        """Whether the state depends on more than on who sits in which slot.

        Then resuming goes through all that was ever absorbed, else only through the survivors.
        """
        return False

    @property
    def learns_from_rejected(self) -> bool:
        """Whether the scores of children that are not accepted shape what is proposed later.

        Then guards are asked about every child that was scored, else only about those that would
        be accepted.
        """
        return False

    def begin(self, problem: Problem) -> State:
        """The state before anything is absorbed."""
        ...

    def propose(self, problem: Problem, state: State, step: int) -> Proposal:
        """The child of step `step`, a function of its arguments alone."""
        ...

    def exam(self, state: State, proposal: Proposal, known: NDArray[np.float32]) -> Questions:
        """In which order to ask for the examples not yet known (NaN), and when to stop.

        Unless there is more to say, everything is asked.
        """
        return FullExam(known)

    def absorb(
        self, state: State, member: Member, step: int, scores: NDArray[np.float32]
    ) -> tuple[State, Outcome]:
        """Decide about a fully scored child, or seed (step 0)."""
        ...

    def skip(self, state: State, step: int) -> State:
        """Take note that a child was stopped or failed."""
        return state

    def recall(self, state: State, past: Past) -> State:
        """Take in what was decided in an earlier session."""
        ...


def mate(
    problem: Problem,
    step: int,
    draws: np.random.Generator,
    first: Member,
    second: Member,
    *,
    splits: int,
    angle: Angle,
    mutation: float,
) -> Proposal:
    """Merge two members at a random ratio and random split points (paper, eq. 2).

    Args:
        problem, step: what for.
        draws: where ratio and splits come from.
        first, second: the parents.
        splits: split points per chromosome; 0: one ratio throughout.
        angle: over what the SLERP angle is measured.
        mutation: standard deviation of the noise added.
    """
    edges = problem.axis.cuts
    ratio = float(draws.random())
    points = (
        tuple(
            point
            for low, high in pairwise(edges)
            for point in sorted([int(draws.integers(low, high)) for _ in range(splits)])
        )
        if splits
        else edges[1:]
    )
    plan = Plan((first.id, second.id), ratio, points, angle, mutation)
    return merged(problem, step, plan, first.genome, second.genome)


def merged(problem: Problem, step: int, plan: Plan, first: Genome, second: Genome) -> Proposal:
    """The child that a plan for two parents describes."""
    merge = merge_recipe(
        products_of(first, second, problem.gram),
        problem.axis,
        plan.ratio,
        plan.splits,
        plan.angle,
        trusted=True,
    )
    genome = breed(merge, [first, second], plan.mutation, problem.seed, step)
    return Proposal(step, plan, merge, genome)


def seed_member(problem: Problem, number: int) -> Member:
    """Seed `number` as a parent."""
    return Member(number, problem.seeds[number], (), 0.0)


def random_seeds(problem: Problem, draws: np.random.Generator) -> tuple[Member, Member]:
    """Two different seeds, any two alike; twice the same one if there is only one."""
    count = len(problem.seeds)
    if count == 1:
        return seed_member(problem, 0), seed_member(problem, 0)
    pair: list[int] = draws.choice(count, size=2, replace=False).tolist()
    return seed_member(problem, pair[0]), seed_member(problem, pair[1])


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
    dense = tuple(genome for genome in parents if isinstance(genome, Vector))
    return Vector(Origin(merge, dense, mutation, seed, step))
