"""M2N2 (Abrantes et al. 2025), with every part of it on a switch.

A plain genetic algorithm is the same thing without competition (alpha 0) and without attraction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from genepool.core.archive import Archive, Member, empty_archive
from genepool.core.exam import Exam
from genepool.core.genome import recipe
from genepool.core.rng import generator, pick
from genepool.core.slerp import Angle, merge_recipe, products_of
from genepool.core.strategies.base import REJECTED, Outcome, Plan, Problem, Proposal, breed


@dataclass(frozen=True, slots=True)
class Niches:
    """M2N2 and its ablations.

    Attributes:
        size: number P of archive slots, at least 2.
        alpha: strength of competition; 0 for none.
        attraction: choose the second parent for what it can do and the first cannot (eq. 4);
            otherwise by fitness, like the first, and a member may meet itself (as the reference).
        crossover: merge two parents; otherwise the child is a copy of one (to be mutated).
        split_point: draw split points; otherwise one ratio holds for the whole axis.
        angle: over what the SLERP angle is measured.
        mutation: standard deviation of the normal noise added to a child; above 0 only for vectors.
        warmup: number of first children bred from random pairs of seeds.
    """

    size: int = 20
    alpha: float = 1.0
    attraction: bool = True
    crossover: bool = True
    split_point: bool = True
    angle: Angle = "global"
    mutation: float = 0.0
    warmup: int = 0

    def begin(self, problem: Problem) -> Archive:
        """The state before anything is absorbed: empty slots."""
        return empty_archive(self.size, problem.resources, self.alpha)

    def propose(self, problem: Problem, archive: Archive, step: int) -> Proposal:
        """The child of step `step`, a function of its arguments alone."""
        draws = generator(problem.seed, step)
        if step <= self.warmup and len(problem.seeds) > 1:
            pair: list[int] = draws.choice(len(problem.seeds), size=2, replace=False).tolist()
            one, two = pair
            first = Member(one, problem.seeds[one], (), 0.0)
            second = Member(two, problem.seeds[two], (), 0.0)
        else:
            first, second = self._parents(archive, draws)
        if not self.crossover:
            plan = Plan((first.id,), 1.0, (), self.angle, self.mutation)
            merge = recipe([0, problem.axis.size], np.ones((1, 1)))
            parents = [first.genome]
        else:
            edges: list[int] = problem.axis.chromosomes.tolist()
            ratio = float(draws.random())
            splits = (
                tuple(int(draws.integers(low, high)) for low, high in pairwise(edges))
                if self.split_point
                else tuple(edges[1:])
            )
            plan = Plan((first.id, second.id), ratio, splits, self.angle, self.mutation)
            parents = [first.genome, second.genome]
            merge = merge_recipe(
                products_of(parents[0], parents[1], problem.gram),
                problem.axis,
                ratio,
                splits,
                self.angle,
            )
        return Proposal(step, plan, merge, breed(merge, parents, self.mutation, problem.seed, step))

    def exam(
        self, archive: Archive, proposal: Proposal, known: NDArray[np.float32], grain: int
    ) -> Exam:
        """In which order to ask for the examples not yet known (NaN), and when to stop."""
        weights = np.abs(proposal.merge.coefs) * np.diff(proposal.merge.bounds)[:, None]
        shares = (weights.sum(axis=0) / weights.sum()).tolist()
        slots = [archive.slot_of(parent) for parent in proposal.plan.parents]
        return Exam(archive, list(zip(slots, shares, strict=True)), known, grain)

    def absorb(
        self, archive: Archive, member: Member, scores: NDArray[np.float32]
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
