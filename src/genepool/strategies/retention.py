"""Retention: which dense genomes may be forgotten, since they can be made again."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from genepool.core.genome import Vector
from genepool.strategies.problem import Outcome, Proposal


class Retention:
    """Members that have left the archive and whose weights have not been forgotten.

    Recipes take kilobytes and are never forgotten. Weights that were drawn could not be made again.
    """

    def __init__(
        self, retired: Mapping[int, int], kept: Collection[int], in_flight: int, seeds: int
    ) -> None:
        """Begin with what earlier sessions left.

        Args:
            retired: members that have left the archive -> the step at which they left.
            kept: members that are never to be forgotten.
            in_flight: number W of proposals in flight: their parents may have left since.
            seeds: number K of seeds, which are never forgotten.
        """
        self._retired, self._kept = dict(retired), frozenset(kept)
        self._in_flight, self._seeds = in_flight, seeds

    def forget(self, proposal: Proposal, outcome: Outcome, champion: int | None) -> tuple[int, ...]:
        """Members that neither archive, champion nor a proposal in flight needs from now on.

        Args:
            proposal: that was told.
            outcome: what became of it.
            champion: id of the champion after it.
        """
        drawn = proposal.step > 0 and proposal.merge is None
        if drawn or not isinstance(proposal.genome, Vector):
            return ()
        step = max(0, proposal.step)
        if outcome.evicted is not None:
            self._retired[outcome.evicted] = step
        gone = [
            member
            for member, since in self._retired.items()
            if since <= step - self._in_flight + 1 and member != champion
            if member not in self._kept
        ]
        for member in gone:
            del self._retired[member]
        return tuple(member for member in gone if member >= self._seeds)
