"""A sweep: one SLERP ratio for all weights, on a grid, for every pair of seeds."""

from __future__ import annotations

from itertools import combinations
from typing import Literal

from pydantic import Field

from genepool.core.archive import Archive
from genepool.strategies.base import OfSeeds, merged
from genepool.strategies.problem import Plan, Problem, Proposal


class Sweep(OfSeeds, frozen=True):
    """One SLERP ratio for all weights, on a grid, for every pair of seeds."""

    name: Literal["sweep"] = Field(default="sweep", description="This strategy makes the children.")
    grid: int = Field(
        default=101,
        ge=2,
        le=10**6,
        description="So many ratios from 0 to 1 are tried, from 0 upwards, each for every pair of "
        "seeds; then the gaps between them are halved, again and again. A budget below 'grid' "
        "times the number of pairs ends before the large ratios.",
    )

    def told(self, seeds: int, budget: int) -> tuple[str, ...]:
        """That the budget ends before the grid does."""
        pairs = max(1, seeds * (seeds - 1) // 2)
        if not 0 < budget < self.grid * pairs:
            return ()
        largest = grid_ratio((budget - 1) // pairs, self.grid)
        return (
            f"budget: {budget:,} is less than the {self.grid * pairs:,} merges of the sweep "
            f"({self.grid:,} ratios for each pair of seeds), so that no ratio above {largest:.3g} "
            "is tried; make 'grid' smaller or the budget larger",
        )

    def propose(self, problem: Problem, state: Archive, step: int) -> Proposal:
        """The child of step `step`."""
        pairs = list(combinations(range(len(problem.seeds)), 2)) or [(0, 0)]
        turn, number = divmod(step - 1, len(pairs))
        one, two = pairs[number]
        plan = Plan((one, two), grid_ratio(turn, self.grid), problem.axis.cuts[1:], self.angle, 0.0)
        return merged(problem, step, plan, problem.seeds[one], problem.seeds[two])


def grid_ratio(index: int, grid: int) -> float:
    """Ratio number `index`: 0, 1 / (grid - 1), ..., 1, then the middles of the gaps, and so on.

    Later ratios halve the gaps of the grid, again and again, so that any budget is used.
    """
    if index < grid:
        return index / (grid - 1)
    index -= grid
    gaps = grid - 1
    while index >= gaps:
        index -= gaps
        gaps *= 2
    return (index + 0.5) / gaps
