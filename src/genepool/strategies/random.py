"""Random merges of seeds: what any strategy must beat."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from genepool.core.archive import Archive, empty_archive
from genepool.core.rng import generator
from genepool.core.slerp import Angle
from genepool.strategies.base import Surviving, draw_merge, merged, random_seeds
from genepool.strategies.problem import Plan, Problem, Proposal


class RandomMerge(Surviving, frozen=True):
    """Random merges of random pairs of seeds."""

    name: Literal["random"] = Field(
        default="random", description="This strategy makes the children."
    )
    angle: Angle = Field(
        default="global",
        description="The SLERP angle is taken over the whole parameter axis, each side of the "
        "split point, or each tensor.",
    )

    def begin(self, problem: Problem, in_flight: int) -> Archive:
        """Empty slots, without competition: the best are kept."""
        return empty_archive(self.archive, problem.examples, 0.0)

    def propose(self, problem: Problem, state: Archive, step: int) -> Proposal:
        """The child of step `step`; what was bred before does not matter."""
        draws = generator(problem.seed, step)
        first, second = random_seeds(problem, draws)
        ratio, points = draw_merge(problem, draws, 1)
        plan = Plan((first.id, second.id), ratio, points, self.angle, 0.0)
        return merged(problem, step, plan, first.genome, second.genome)
