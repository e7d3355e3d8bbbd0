"""M2N2 (Abrantes et al. 2025), with every part of it on a switch."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from genepool.core.archive import Archive, Member, empty_archive
from genepool.core.rng import pick
from genepool.strategies.base import Breeding, member_in, pick_any
from genepool.strategies.problem import Problem


class M2N2(Breeding, frozen=True):
    """M2N2: competition for limited examples, and attraction."""

    name: Literal["m2n2"] = Field(default="m2n2", description="This strategy makes the children.")
    alpha: float = Field(
        default=1.0,
        ge=0,
        allow_inf_nan=False,
        description="Competition is so strong: 0 means none, 1 sharing, above 1 fighting.",
    )
    attraction: bool = Field(
        default=True, description="The second parent is chosen for what the first cannot do."
    )

    def begin(self, problem: Problem, in_flight: int) -> Archive:
        """Empty slots, in competition."""
        return empty_archive(self.archive, problem.examples, self.alpha, self.baseline)

    def choose(self, state: Archive, draws: np.random.Generator) -> tuple[Member, Member]:
        """The first parent by fitness, the second by attraction (eq. 4).

        Without attraction it is chosen like the first, and a member may meet itself (as in the
        reference).
        """
        first = pick_any(draws, state.fitness, state.occupied)
        if self.attraction:
            second = _partner(state, first, draws)
        else:
            second = pick_any(draws, state.fitness, state.occupied)
        return member_in(state, first), member_in(state, second)


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
    return pick_any(draws, archive.fitness * others, others) if others.any() else first
