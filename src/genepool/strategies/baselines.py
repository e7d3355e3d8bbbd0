"""Baselines that learn nothing from what they bred: a grid of ratios, and random merges of seeds.

What they bred best stays in an archive without competition, as in a plain genetic algorithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from genepool.core.archive import Archive, empty_archive
from genepool.core.rng import generator
from genepool.core.slerp import Angle
from genepool.strategies.base import (
    Plan,
    Problem,
    Proposal,
    mate,
    merged,
    random_seeds,
)
from genepool.strategies.m2n2 import Surviving


@dataclass(frozen=True, slots=True)
class Blind(Surviving):
    """One ratio on a grid over every pair of seeds, or random merges of random pairs.

    Attributes:
        grid: number of ratios from 0 to 1, at least 2; later steps halve the grid's gaps, again and
            again, so that any budget is used. 0 for random ratios and split points.
        size: number of archive slots, at least 2.
        angle: over what the SLERP angle is measured.
    """

    grid: int = 0
    size: int = 20
    angle: Angle = "global"

    def begin(self, problem: Problem) -> Archive:
        """The state before anything is absorbed: empty slots."""
        return empty_archive(self.size, problem.examples, 0.0)

    def propose(self, problem: Problem, state: Archive, step: int) -> Proposal:
        """The child of step `step`; what was bred before does not matter."""
        draws = generator(problem.seed, step)
        if not self.grid:
            first, second = random_seeds(problem, draws)
            return mate(
                problem,
                step,
                draws,
                first,
                second,
                splits=1,
                angle=self.angle,
                mutation=0.0,
            )
        pairs = list(combinations(range(len(problem.seeds)), 2)) or [(0, 0)]
        round_, turn = divmod(step - 1, len(pairs))
        one, two = pairs[turn]
        ends = tuple(problem.axis.chromosomes[1:].tolist())
        plan = Plan((one, two), grid_ratio(round_, self.grid), ends, self.angle, 0.0)
        return merged(problem, step, plan, problem.seeds[one], problem.seeds[two])


def grid_ratio(index: int, grid: int) -> float:
    """Ratio number `index`: 0, 1 / (grid - 1), ..., 1, then the middles of the gaps, and so on."""
    if index < grid:
        return index / (grid - 1)
    index -= grid
    gaps = grid - 1
    while index >= gaps:
        index -= gaps
        gaps *= 2
    return (index + 0.5) / gaps
