"""What was tried on top of M2N2, each on a switch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from genepool.core.archive import Archive, Member
from genepool.core.genome import Recipe, compose, seed_recipe
from genepool.core.rng import generator, pick
from genepool.core.slerp import products_of
from genepool.strategies import Niches, Outcome, Plan, Problem, Proposal
from genepool.strategies.base import breed, mate, merged
from genepool.strategies.m2n2 import survival


@dataclass
class Luck:
    """How often the children of two slots have lived: the one part here that is not a value.

    Who takes a slot inherits the mean of its parents' records, at half the weight.

    Attributes:
        lived, bred: float64[P, P], symmetric.
        pending: slots of the parents of the child in flight.
    """

    lived: NDArray[np.float64]
    bred: NDArray[np.float64]
    pending: Sequence[int | None] = ()

    def take(self, parents: Sequence[int | None], slot: int | None) -> None:
        slots = [parent for parent in parents if parent is not None]
        one, two = slots[0], slots[-1]
        for table, value in ((self.bred, 1.0), (self.lived, float(slot is not None))):
            table[one, two] += value
            if one != two:
                table[two, one] += value
            if slot is not None:
                table[slot] = (table[one] + table[two]) / 4
                table[:, slot] = table[slot]
                table[slot, slot] = (table[one, one] + table[two, two]) / 4

    def chance(self, first: int) -> NDArray[np.float64]:
        """For every slot, with four children at the rate of all put in front."""
        rate = (self.lived.sum() + 1.0) / (self.bred.sum() + 4.0)
        return (self.lived[first] + 4.0 * rate) / (self.bred[first] + 4.0)


@dataclass(frozen=True)
class Variant(Niches):
    """M2N2 and what was tried.

    Attributes:
        kinship: attraction is multiplied by the cosine of the two genomes to this power (from 0,
            at least 0); below 0, by the sine.
        boundary: chance that a split falls on a tensor boundary.
        third: chance of a third parent, chosen for what the first two lack, and merged with what
            came of them; above 1 always, without a draw for it.
        first_size: slots at the start; they become `size` by step `over`.
        first_alpha: strength of competition at the start; it becomes `alpha` by step `over`.
        learnt: attraction is multiplied by the share of the pair's children that have lived, to
            this power; see `Luck`.
    """

    kinship: float = 0.0
    boundary: float = 0.0
    third: float = 0.0
    first_size: int = 0
    first_alpha: float = -1.0
    over: int = 1
    learnt: float = 0.0
    luck: list[Luck] = field(default_factory=list, repr=False)

    def begin(self, problem: Problem) -> Archive:
        self.luck[:] = [Luck(np.zeros((self.size, self.size)), np.zeros((self.size, self.size)))]
        first = replace(self, size=self.first_size or self.size)
        return self._aged(Niches.begin(first, problem), 0)

    def _aged(self, archive: Archive, step: int) -> Archive:
        """The archive as it is at this step: more slots, another alpha."""
        part = min(1.0, step / self.over)
        size, alpha = self.size, self.alpha
        if self.first_size:
            size = round(self.first_size * (self.size / self.first_size) ** part)
        if self.first_alpha >= 0:
            # In steps of a fiftieth, so that what is kept with an archive is of use.
            part = math.floor(part * 50) / 50
            alpha = self.first_alpha + (self.alpha - self.first_alpha) * part
        have = len(archive.members)
        if size <= have and alpha == archive.alpha:
            return archive
        more = max(0, size - have)
        scores = np.concatenate([archive.scores, np.zeros((more, archive.scores.shape[1]))])
        return Archive((*archive.members, *([None] * more)), scores, archive.examples, alpha)

    def exam(self, state: Archive, proposal: Proposal, known: NDArray[np.float32]):
        return Niches.exam(self, self._aged(state, proposal.step), proposal, known)

    def absorb(
        self, state: Archive, member: Member, step: int, scores: NDArray[np.float32]
    ) -> tuple[Archive, Outcome]:
        before = self._aged(state, step)
        after, outcome = survival(before, member, scores)
        if self.learnt and step:
            self.luck[0].take([before.slots.get(parent) for parent in member.parents], outcome.slot)
        return after, outcome

    def skip(self, state: Archive, step: int) -> Archive:
        if self.learnt:
            self.luck[0].take(self.luck[0].pending, None)
        return self._aged(state, step)

    def propose(self, problem: Problem, state: Archive, step: int) -> Proposal:
        draws = generator(problem.seed, step)
        self.luck[0].pending = chosen = self._choose(problem, state, draws)
        parents = [member for slot in chosen if (member := state.members[slot]) is not None]
        if len(parents) == 3:
            return self._of_three(problem, step, draws, parents)
        one, two = parents
        if not self.boundary:
            return self._of_two(problem, step, draws, one, two, self.mutation)
        ratio, cut = float(draws.random()), int(draws.integers(0, problem.axis.size))
        if draws.random() < self.boundary:
            inner = problem.axis.tensors[1:-1]
            cut = int(inner[draws.integers(inner.size)])
        plan = Plan((one.id, two.id), ratio, (cut,), self.angle, self.mutation)
        return merged(problem, step, plan, one.genome, two.genome)

    def _of_two(
        self,
        problem: Problem,
        step: int,
        draws: np.random.Generator,
        one: Member,
        two: Member,
        mutation: float,
    ) -> Proposal:
        splits, angle = self.splits, self.angle
        return mate(problem, step, draws, one, two, splits=splits, angle=angle, mutation=mutation)

    def _of_three(
        self, problem: Problem, step: int, draws: np.random.Generator, parents: list[Member]
    ) -> Proposal:
        half = self._of_two(problem, step, draws, parents[0], parents[1], 0.0)
        so_far = replace(parents[0], genome=half.genome)
        rest = self._of_two(problem, step, draws, so_far, parents[2], 0.0)
        # A third parent is a second merge: over three sources, as one recipe.
        widened = Recipe(half.merge.bounds, np.pad(half.merge.coefs, ((0, 0), (0, 1))))
        merge = compose(rest.merge, [widened, seed_recipe(problem.axis.size, 2, 3)])
        ids = tuple(member.id for member in parents)
        plan = Plan(ids, half.plan.ratio, (), self.angle, self.mutation)
        genomes = [member.genome for member in parents]
        return Proposal(step, plan, merge, breed(merge, genomes, self.mutation, problem.seed, step))

    def _choose(self, problem: Problem, archive: Archive, draws: np.random.Generator) -> list[int]:
        fitness = archive.fitness
        first = pick(draws, fitness if fitness.max() > 0 else archive.occupied.astype(float))
        offers = archive.offers(first)
        if self.kinship:
            offers = offers * self._kinship(problem, archive, first)
        if self.learnt:
            offers = offers * self.luck[0].chance(first) ** self.learnt
        if offers.max() <= 0:
            others = archive.occupied.astype(float)
            others[first] = 0.0
            return [first, pick(draws, others) if others.any() else first]
        second = pick(draws, offers)
        if self.third and (self.third > 1 or draws.random() < self.third):
            both = np.maximum(archive.scores[first], archive.scores[second])
            offers = np.maximum(archive.scores - both, 0.0) @ archive.price
            offers[[first, second]] = 0.0
            if offers.max() > 0:
                return [first, second, pick(draws, offers)]
        return [first, second]

    def _kinship(self, problem: Problem, archive: Archive, first: int) -> NDArray[np.float64]:
        one = archive.members[first]
        out = np.zeros(len(archive.members))
        for slot, two in enumerate(archive.members):
            if one is None or two is None or slot == first:
                continue
            aa, ab, bb = products_of(one.genome, two.genome, problem.gram)(0, problem.axis.size)
            cosine = min(1.0, max(0.0, ab / math.sqrt(aa * bb)))
            base = cosine if self.kinship > 0 else math.sqrt(1 - cosine**2)
            out[slot] = base ** abs(self.kinship)
        return out
