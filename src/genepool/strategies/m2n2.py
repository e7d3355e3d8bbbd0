"""M2N2 (Abrantes et al. 2025), with every part of it on a switch.

A plain genetic algorithm is the same thing without competition (alpha 0) and without attraction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from genepool.core.archive import Archive, Member, empty_archive
from genepool.core.early_stop.lossless import Exam, Questions
from genepool.core.early_stop.risk_limited import Audit
from genepool.core.genome import recipe
from genepool.core.rng import generator, pick
from genepool.core.slerp import Angle
from genepool.strategies.base import (
    REJECTED,
    Outcome,
    Past,
    Plan,
    Problem,
    Proposal,
    Strategy,
    breed,
    mate,
    random_seeds,
)

_AUDIT_STREAM = 1 << 32


class Surviving(Strategy[Archive]):
    """Strategies whose state is an archive: of archive and child all but the least fit survive."""

    def exam(self, state: Archive, proposal: Proposal, known: NDArray[np.float32]) -> Questions:
        """In which order to ask for the examples not yet known (NaN), and when to stop."""
        return survival_exam(state, proposal, known)

    def absorb(
        self, state: Archive, member: Member, step: int, scores: NDArray[np.float32]
    ) -> tuple[Archive, Outcome]:
        """Survival of all but the least fit, archive and child together."""
        return survival(state, member, scores)

    def recall(self, state: Archive, past: Past) -> Archive:
        """Put a survivor back."""
        return put_back(state, past)


@dataclass(frozen=True, slots=True)
class Niches(Surviving):
    """M2N2 and its ablations.

    Attributes:
        size: number P of archive slots, at least 2.
        alpha: strength of competition; 0 for none.
        attraction: choose the second parent for what it can do and the first cannot (eq. 4);
            otherwise by fitness, like the first, and a member may meet itself (as the reference).
        crossover: merge two parents; otherwise the child is a copy of one (to be mutated).
        splits: split points drawn per chromosome; 0: one ratio holds for the whole axis.
        angle: over what the SLERP angle is measured.
        mutation: standard deviation of the normal noise added to a child; above 0 only for vectors.
        warmup: number of first children bred from random pairs of seeds.
        risk: chance, at most, that a child that belongs in the archive is turned away before it is
            fully scored (see `audit`); 0: never.
    """

    size: int = 20
    alpha: float = 1.0
    attraction: bool = True
    crossover: bool = True
    splits: int = 1
    angle: Angle = "global"
    mutation: float = 0.0
    warmup: int = 0
    risk: float = 0.0

    def begin(self, problem: Problem) -> Archive:
        """The state before anything is absorbed: empty slots."""
        return empty_archive(self.size, problem.examples, self.alpha)

    def propose(self, problem: Problem, state: Archive, step: int) -> Proposal:
        """The child of step `step`, a function of its arguments alone."""
        draws = generator(problem.seed, step)
        if step <= self.warmup and len(problem.seeds) > 1:
            first, second = random_seeds(problem, draws)
        else:
            first, second = self._parents(state, draws)
        if not self.crossover:
            plan = Plan((first.id,), 1.0, (), self.angle, self.mutation)
            merge = recipe([0, problem.axis.size], np.ones((1, 1)))
            genome = breed(merge, [first.genome], self.mutation, problem.seed, step)
            return Proposal(step, plan, merge, genome)
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

    def exam(self, state: Archive, proposal: Proposal, known: NDArray[np.float32]) -> Questions:
        """In which order to ask for the examples not yet known (NaN), and when to stop."""
        if self.risk == 0:
            return survival_exam(state, proposal, known)
        # Where one child is asked twice (several in flight) the second time needs other draws.
        asked = int(np.count_nonzero(~np.isnan(known)))
        draws = generator(0, proposal.step, stream=_AUDIT_STREAM + asked)
        return Audit(state, parent_shares(state, proposal), known, self.risk, draws)

    def _parents(self, archive: Archive, draws: np.random.Generator) -> tuple[Member, Member]:
        fitness = archive.fitness
        first = _pick(draws, fitness, archive.occupied)
        if not (self.crossover and self.attraction):
            second = _pick(draws, fitness, archive.occupied)
        else:
            second = _partner(archive, first, draws)
        one, two = archive.members[first], archive.members[second]
        if one is None or two is None:
            raise RuntimeError("an empty slot was chosen as a parent")
        return one, two


def _partner(archive: Archive, first: int, draws: np.random.Generator) -> int:
    """Second parent by attraction.

    Where nobody offers anything (the reference divides 0 by 0 here): in proportion to fitness with
    the first parent left out; alone in the archive, itself.
    """
    offers = archive.offers(first)
    if offers.max() > 0:
        return pick(draws, offers)
    others = archive.occupied.copy()
    others[first] = False
    return _pick(draws, archive.fitness * others, others) if others.any() else first


def _pick(
    draws: np.random.Generator, weights: NDArray[np.float64], allowed: NDArray[np.bool_]
) -> int:
    return pick(draws, weights if weights.max() > 0 else allowed.astype(np.float64))


def survival(
    archive: Archive, member: Member, scores: NDArray[np.float32]
) -> tuple[Archive, Outcome]:
    """Survival of all but the least fit, archive and child together."""
    slot, fitness = archive.challenge(scores)
    if slot is None:
        return archive, replace(REJECTED, fitness=fitness)
    evicted = archive.members[slot]
    return archive.replaced(slot, member, scores), Outcome(
        accepted=True,
        slot=slot,
        evicted=None if evicted is None else evicted.id,
        fitness=fitness,
    )


def survival_exam(archive: Archive, proposal: Proposal, known: NDArray[np.float32]) -> Exam:
    """The exam that goes with `survival`."""
    return Exam(archive, parent_shares(archive, proposal), known)


def parent_shares(archive: Archive, proposal: Proposal) -> list[tuple[int | None, float]]:
    """Slot of each parent (None: not in the archive), and its share of the child's weights."""
    merge = proposal.merge
    if merge is None:
        return [(None, 1.0)]
    edges: list[int] = merge.bounds.tolist()
    rows: list[list[float]] = merge.coefs.tolist()
    # Most merges have two segments: plain numbers are faster than arrays.
    sums = [
        sum(
            abs(row[k]) * (stop - start)
            for row, (start, stop) in zip(rows, pairwise(edges), strict=True)
        )
        for k in range(merge.sources)
    ]
    slots = [archive.slots.get(parent) for parent in proposal.plan.parents]
    total = sum(sums)
    shares = [part / total for part in sums]
    return list(zip(slots, shares, strict=True))


def put_back(archive: Archive, past: Past) -> Archive:
    """The archive with a survivor back in its slot."""
    if past.member is None or past.slot is None or past.scores is None:
        return archive
    return archive.replaced(past.slot, past.member, past.scores)
