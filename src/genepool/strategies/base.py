"""What strategies share: their face, and how two members become a child."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from itertools import pairwise
from math import fsum
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from genepool.core.archive import Archive, Member, Verdict, empty_archive
from genepool.core.competition import Baseline
from genepool.core.early_stop.evaluation_plan import EvaluationPlan, FullPlan
from genepool.core.early_stop.lossless import LosslessPlan
from genepool.core.early_stop.risk_limited import RiskLimitedPlan
from genepool.core.genome import Genome, breed, recipe
from genepool.core.rng import generator, pick
from genepool.core.slerp import Angle, merge_recipe, products_of
from genepool.core.subsets import Subsets
from genepool.errors import ConfigError
from genepool.settings import made_in_python
from genepool.strategies.problem import REJECTED, Outcome, Plan, Problem, Proposal, Trial

Float32 = NDArray[np.float32]

_RISK_STREAM = 1 << 32
_ANGLE = (
    "The SLERP angle is taken over the whole parameter axis, each side of the split point, or "
    "each tensor."
)


class Strategy(BaseModel, ABC, frozen=True, extra="forbid", strict=True):
    """Proposes children and decides which survive; its fields are its options.

    A strategy is a value. All methods are pure: they take a state and return a new one, whose type
    is the strategy's own affair. `genepool.Evolution` asks `propose` for child t with the state
    after child t - W, W children being in flight, and hands every child to `absorb`, or to `skip`
    if it was not fully scored, in the order of the steps. All random numbers come from
    `genepool.core.rng.generator(problem.seed, step)`, so that a run repeats on every machine.

    Attributes:
        remembers: the state depends on more than on who sits in which slot. Then resuming goes
            through all that was ever absorbed, else only through the survivors.
        learns_from_rejected: the scores of children that are not accepted shape what is proposed
            later. Then guards are asked about every child that was fully scored, else only about
            those that would be accepted.
    """

    remembers: ClassVar[bool] = False
    learns_from_rejected: ClassVar[bool] = False
    __init__ = made_in_python

    name: str = Field(description="This strategy makes the children.")

    @property
    def dense(self) -> bool:
        """Whether genomes are dense vectors, because noise is added or weights are drawn."""
        return False

    @property
    def subsets(self) -> Subsets | None:
        """How members compete for a part of the examples at a time; None: for all, always.

        Only where the state is an archive, and nothing hangs on where in it a member is.
        """
        return None

    def check(self, in_flight: int) -> None:
        """Refuse options that do not go together, before anything is read or run.

        Args:
            in_flight: number W of children that are proposed before the oldest is absorbed.

        Raises:
            ConfigError: they do not.
            MissingExtraError: the strategy needs a package that is not installed.
        """
        return

    def told(self, seeds: int, budget: int) -> tuple[str, ...]:
        """What is good to know before any child is made, one line each.

        Args:
            seeds: number of seed models.
            budget: number of children that there are in the end.
        """
        return ()

    @abstractmethod
    def begin(self, problem: Problem, in_flight: int) -> Any:
        """The state before anything is absorbed, W children being in flight.

        Raises:
            ConfigError: the options do not fit the problem.
        """

    @abstractmethod
    def propose(self, problem: Problem, state: Any, step: int) -> Proposal:
        """The child of step `step`, from 1: a function of its arguments alone."""

    @abstractmethod
    def absorb(self, state: Any, member: Member, step: int, scores: Float32) -> tuple[Any, Outcome]:
        """Decide about a fully scored child, or seed (step 0).

        Args:
            state: before it.
            member: the child.
            step: its number.
            scores: float32[N], every one known.
        """

    @abstractmethod
    def recall(self, state: Any, trial: Trial) -> Any:
        """Take in what was decided in an earlier session."""

    @abstractmethod
    def archive_of(self, state: Any) -> Archive:
        """The members of a state."""

    def evaluation_plan(self, state: Any, proposal: Proposal, known: Float32) -> EvaluationPlan:
        """In which order to ask for the examples not yet known (NaN), and when to stop.

        Unless there is more to say, everything is asked.
        """
        return FullPlan(known)

    def skip(self, state: Any, step: int) -> Any:
        """Take note that a child was stopped, failed or broke a guard."""
        return state


class Surviving(Strategy, frozen=True):
    """Strategies whose state is an archive: of archive and child all but the least fit survive."""

    archive: int = Field(
        default=20, ge=2, le=100_000, description="The archive holds so many members."
    )

    def absorb(
        self, state: Archive, member: Member, step: int, scores: Float32
    ) -> tuple[Archive, Outcome]:
        """Survival of all but the least fit, archive and child together."""
        return survival(state, member, scores)

    def recall(self, state: Archive, trial: Trial) -> Archive:
        """Put a survivor back."""
        return put_back(state, trial)

    def archive_of(self, state: Archive) -> Archive:
        """The state itself."""
        return state

    def evaluation_plan(self, state: Archive, proposal: Proposal, known: Float32) -> EvaluationPlan:
        """The lossless early stop: until it is certain that the child will not survive."""
        return LosslessPlan(state, parent_shares(state, proposal), known)


class OfSeeds(Surviving, frozen=True):
    """Strategies that merge two seeds each time: what was bred before does not matter."""

    angle: Angle = Field(default="global", description=_ANGLE)

    def begin(self, problem: Problem, in_flight: int) -> Archive:
        """Empty slots, without competition: the best are kept."""
        return empty_archive(self.archive, problem.examples, 0.0)


class Merging(Strategy, frozen=True):
    """Strategies that merge two parents at a random ratio and random split points."""

    split_point: bool = Field(
        default=True,
        description="A split point is drawn for each chromosome; without it one ratio holds "
        "throughout.",
    )
    splits: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Each chromosome has so many split points, between which the ratio and its "
        "complement take turns; 1 is the paper's.",
    )
    angle: Angle = Field(default="global", description=_ANGLE)
    mutation: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Noise of this standard deviation is added to a child; above 0, genomes are "
        "dense.",
    )
    warmup: int = Field(
        default=0, ge=0, description="So many first children are bred from random pairs of seeds."
    )

    @property
    def dense(self) -> bool:
        """With mutation."""
        return self.mutation > 0

    def check(self, in_flight: int) -> None:
        """Refuse splits without split points."""
        if not self.split_point and self.splits > 1:
            raise ConfigError(
                f"strategy.splits: split_point is false, so there are none; got {self.splits}"
            )

    def propose(self, problem: Problem, state: Any, step: int) -> Proposal:
        """The child of step `step`, of two parents (`choose`), or of seeds while warming up."""
        draws = generator(problem.seed, step)
        if step <= self.warmup and len(problem.seeds) > 1:
            first, second = random_seeds(problem, draws)
        else:
            first, second = self.choose(state, draws)
        splits = self.splits if self.split_point else 0
        ratio, points = draw_merge(problem, draws, splits)
        plan = Plan((first.id, second.id), ratio, points, self.angle, self.mutation)
        return merged(problem, step, plan, first.genome, second.genome)

    @abstractmethod
    def choose(self, state: Any, draws: np.random.Generator) -> tuple[Member, Member]:
        """The two parents of a child."""


class Breeding(Merging, Surviving, frozen=True):
    """What M2N2 and the plain genetic algorithm have in common: parents from the archive."""

    crossover: bool = Field(
        default=True, description="Two parents are merged; without it one is copied."
    )
    risk: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="With 'early_stop', a child that belongs in the archive is turned away with at "
        "most this chance, to save examples; 0 means never.",
    )
    share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Members compete for this part of the examples at a time; below 1, others are "
        "drawn every 'renew' children, on which the whole archive is scored, and the best "
        "five of the last archive are scored on all.",
    )
    baseline: Baseline = Field(
        default="none",
        description="This is taken off the scores on an example before members compete with them: "
        "nothing, or the worst of them, so that scores which lie close together tell "
        "members apart.",
    )
    renew: int = Field(
        default=100,
        ge=1,
        description="With 'share' below 1, other examples are drawn after so many children.",
    )

    @property
    def subsets(self) -> Subsets | None:
        """With a share."""
        return Subsets(self.share, self.renew) if self.share < 1 else None

    def check(self, in_flight: int) -> None:
        """Refuse splits without split points, copies, and subsets that end in flight."""
        super().check(in_flight)
        if not self.crossover and not self.dense:
            raise ConfigError(
                "strategy.crossover: false, so that every child would be a copy of its parent; "
                "give 'mutation' above 0"
            )
        if self.share < 1 and self.renew < in_flight:
            raise ConfigError(
                f"strategy.renew: at least as many children as are in flight ({in_flight}) must "
                f"share their examples; got {self.renew}"
            )

    def propose(self, problem: Problem, state: Archive, step: int) -> Proposal:
        """The child of step `step`: a merge, or without crossover a copy (to be mutated)."""
        if self.crossover:
            return super().propose(problem, state, step)
        draws = generator(problem.seed, step)
        if step <= self.warmup and len(problem.seeds) > 1:
            first, _ = random_seeds(problem, draws)
        else:
            first = member_in(state, pick_any(draws, state.fitness, state.occupied))
        plan = Plan((first.id,), 1.0, (), self.angle, self.mutation)
        merge = recipe([0, problem.axis.size], np.ones((1, 1)))
        genome = breed(merge, [first.genome], self.mutation, problem.seed, step)
        return Proposal(step, plan, merge, genome)

    def evaluation_plan(self, state: Archive, proposal: Proposal, known: Float32) -> EvaluationPlan:
        """The lossless early stop, or with a risk the one that is limited by it."""
        if self.risk == 0:
            return LosslessPlan(state, parent_shares(state, proposal), known)
        # Where one child is asked twice (several in flight) the second time needs other draws.
        asked = int(np.count_nonzero(~np.isnan(known)))
        draws = generator(0, proposal.step, stream=_RISK_STREAM + asked)
        return RiskLimitedPlan(state, parent_shares(state, proposal), known, self.risk, draws)


# Mating


def pick_any(
    draws: np.random.Generator, weights: NDArray[np.float64], allowed: NDArray[np.bool_]
) -> int:
    """A slot in proportion to weights; where all of these are 0, any that is allowed alike."""
    return pick(draws, weights if weights.max() > 0 else allowed.astype(np.float64))


def member_in(archive: Archive, slot: int) -> Member:
    """Who is in a slot that is not empty."""
    member = archive.members[slot]
    if member is None:
        raise RuntimeError("an empty slot was chosen as a parent")
    return member


def random_seeds(problem: Problem, draws: np.random.Generator) -> tuple[Member, Member]:
    """Two different seeds, any two alike; twice the same one if there is only one."""
    count = len(problem.seeds)
    pair: list[int] = draws.choice(count, size=2, replace=False).tolist() if count > 1 else [0, 0]
    first, second = (Member(number, problem.seeds[number], (), 0.0) for number in pair)
    return first, second


def draw_merge(
    problem: Problem, draws: np.random.Generator, splits: int
) -> tuple[float, tuple[int, ...]]:
    """A random ratio, and that many random split points per chromosome (paper, eq. 2).

    With 0 of them one ratio holds throughout: the only split of each chromosome is its end.
    """
    edges = problem.axis.cuts
    ratio = float(draws.random())
    if not splits:
        return ratio, edges[1:]
    return ratio, tuple(
        point
        for low, high in pairwise(edges)
        for point in sorted([int(draws.integers(low, high)) for _ in range(splits)])
    )


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


def parent_shares(archive: Archive, proposal: Proposal) -> list[tuple[int | None, float]]:
    """Slot of each parent (None: not in the archive), and its share of the child's weights."""
    merge = proposal.merge
    if merge is None:
        return [(None, 1.0)]
    edges: list[int] = merge.bounds.tolist()
    rows: list[list[float]] = merge.coefs.tolist()
    # Most merges have two segments: plain numbers are faster than arrays.
    sums = [
        fsum(
            abs(row[k]) * (stop - start)
            for row, (start, stop) in zip(rows, pairwise(edges), strict=True)
        )
        for k in range(merge.sources)
    ]
    slots = [archive.slots.get(parent) for parent in proposal.plan.parents]
    total = fsum(sums)
    shares = [part / total for part in sums]
    return list(zip(slots, shares, strict=True))


# Survival


def survival(archive: Archive, member: Member, scores: Float32) -> tuple[Archive, Outcome]:
    """Survival of all but the least fit, archive and child together."""
    slot, fitness = archive.challenge(scores)
    if slot is None:
        return archive, replace(REJECTED, fitness=fitness)
    evicted = archive.members[slot]
    return archive.replaced(slot, member, scores), Outcome(
        Verdict.ACCEPTED,
        slot=slot,
        evicted=None if evicted is None else evicted.id,
        fitness=fitness,
    )


def put_back(archive: Archive, trial: Trial) -> Archive:
    """The archive with a survivor back in its slot."""
    if trial.member is None or trial.slot is None or trial.scores is None:
        return archive
    return archive.replaced(trial.slot, trial.member, trial.scores)
