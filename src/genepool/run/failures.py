"""Children that fail one after the other: whose fault is it?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genepool.core.genome import Genome
from genepool.errors import EvaluationError
from genepool.pool.guards import Means
from genepool.pool.records import Record
from genepool.run.session import Session

# Where so many children fail in a row, the cause may not be theirs.
_HOPELESS = 20


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
        """Hold one more; where they are many, ask whether a seed can still be scored.

        Raises:
            EvaluationError: it cannot, so that none of those that are held is counted.
        """
        self._held.append((record, guards, forget))
        if len(self._held) < _HOPELESS:
            return
        session = self._session
        text = f"the last {_HOPELESS} children all failed, the last with: {record.error}"
        everything = np.arange(session.inputs.examples.size, dtype=np.int64)
        try:
            session.executor.score(self._seed, "train", everything)
            cause = session.check_guards(self._seed, None).error if session.guards else None
        except EvaluationError as failure:
            cause = str(failure)
        if cause is not None:
            raise EvaluationError(
                f"{text}; and now seed '{session.inputs.run.seeds[0].name}' fails too ({cause}). "
                "The children are not counted: mend it and run again, and they are scored anew"
            )
        session.progress.notice(
            f"{text}; the seeds do not fail, so that it is the children's fault"
        )
        self.write()
