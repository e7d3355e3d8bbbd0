"""Models that fail, and whose fault it is: theirs, or that of what scores them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genepool.core.genome import Genome
from genepool.errors import EvaluationError
from genepool.pool.guards import Means
from genepool.pool.records import Record
from genepool.run.executors.scorer import Part
from genepool.run.session import Session

# Where so many children fail in a row, the cause may not be theirs.
_HOPELESS = 20
# So many seconds of scoring may be lost with children that are not written yet: sessions may be
# shorter than it takes until one does not fail.
_AT_STAKE = 600.0


class Failures:
    """Children that failed one after the other, not written yet.

    Should the cause not be theirs, they are to be scored anew once it is mended.
    """

    def __init__(self, session: Session, seed: Genome) -> None:
        """Hold nobody.

        Args:
            session: whose children fail.
            seed: the first seed, which could be scored once.
        """
        self._session, self._seed = session, seed
        self._held: list[tuple[Record, Means, Sequence[int]]] = []

    def write(self) -> None:
        """Write those that are held: it is known to be their own fault."""
        for record, guards, forget in self._held:
            self._session.pool.add(record, guards=guards, forget=forget)
        self._held.clear()

    def hold(self, record: Record, guards: Means, forget: Sequence[int]) -> None:
        """Hold one more; where they are many, or took long, see `settle`.

        Raises:
            EvaluationError: as `settle`.
        """
        self._held.append((record, guards, forget))
        at_stake = sum(held.seconds for held, _, _ in self._held)
        if len(self._held) == _HOPELESS or at_stake > _AT_STAKE:
            self.settle()

    def settle(self) -> None:
        """Write those that are held, if a seed can still be scored; nobody else comes after them.

        Raises:
            EvaluationError: it cannot, so that none of those that are held is counted.
        """
        if not self._held:
            return
        last = self._held[-1][0].error
        text = f"the last child failed: {last}"
        if (held := len(self._held)) > 1:
            text = f"the last {held} children all failed, the last with: {last}"
        require_scored(self._session, self._seed, text)
        if held == _HOPELESS:
            self._session.progress.notice(
                f"{text}; the seeds do not fail, so that it is the children's fault"
            )
        self.write()


def require_scored(session: Session, seed: Genome, text: str, part: Part = "train") -> None:
    """Refuse to blame models for what they are not at fault for: a seed is scored once more.

    Args:
        session: whose models fail.
        seed: the first seed.
        text: which of them failed, and how.
        part: on which examples; with those that members compete for, the guards are asked too.

    Raises:
        EvaluationError: the seed cannot be scored either.
    """
    everything = np.arange(session.inputs.examples.size, dtype=np.int64)
    cause = None
    try:
        if part == "held-out":
            session.held_out_scores(seed)
        else:
            session.executor.score(seed, part, everything)
            cause = session.check_guards(seed, None).error if session.guards else None
    except EvaluationError as failure:
        cause = str(failure)
    if cause is not None:
        raise EvaluationError(
            f"{text}; and now seed '{session.inputs.run.seeds[0].name}' fails too ({cause}). None "
            "of them is counted: mend it and run again, and they are scored anew"
        )
