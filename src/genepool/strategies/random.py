"""Random merges of seeds: what any strategy must beat."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from genepool.core.archive import Archive
from genepool.core.rng import generator
from genepool.strategies.base import OfSeeds, draw_merge, merged, random_seeds
from genepool.strategies.problem import Plan, Problem, Proposal


class RandomMerge(OfSeeds, frozen=True):
    """Random merges of random pairs of seeds."""

    name: Literal["random"] = Field(
        default="random", description="This strategy makes the children."
    )

    def propose(self, problem: Problem, state: Archive, step: int) -> Proposal:
        """The child of step `step`."""
        draws = generator(problem.seed, step)
        first, second = random_seeds(problem, draws)
        ratio, points = draw_merge(problem, draws, 1)
        plan = Plan((first.id, second.id), ratio, points, self.angle, 0.0)
        return merged(problem, step, plan, first.genome, second.genome)
