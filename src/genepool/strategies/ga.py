"""A plain genetic algorithm: M2N2 without competition and without attraction."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from genepool.core.archive import Archive, Member, empty_archive
from genepool.strategies.base import Breeding, member_in, pick_any
from genepool.strategies.problem import Problem


class GA(Breeding, frozen=True):
    """A plain genetic algorithm: parents and survivors by mean score, no competition."""

    name: Literal["ga"] = Field(default="ga", description="This strategy makes the children.")

    def begin(self, problem: Problem, in_flight: int) -> Archive:
        """Empty slots, without competition: fitness is the mean score."""
        return empty_archive(self.archive, problem.examples, 0.0, self.baseline)

    def choose(self, state: Archive, draws: np.random.Generator) -> tuple[Member, Member]:
        """Both parents in proportion to fitness; a member may meet itself."""
        first, second = (pick_any(draws, state.fitness, state.occupied) for _ in range(2))
        return member_in(state, first), member_in(state, second)
