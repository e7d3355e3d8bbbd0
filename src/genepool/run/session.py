"""A session: what one call of `evolve` works with."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genepool.core.genome import Genome
from genepool.pool.guards import Checked, Means, check
from genepool.pool.pool_header import GuardEntry
from genepool.pool.writer import PoolWriter
from genepool.run.executors.executor import Executor
from genepool.run.inputs import Inputs
from genepool.run.progress import Progress


@dataclass(frozen=True, eq=False, slots=True)
class Session:
    """A run file's inputs, a pool, and who scores and watches.

    Attributes:
        inputs: seeds and tasks, opened.
        guards: the guard tasks, in order.
        pool: where the population lives.
        executor: where models are scored.
        progress: who watches.
        interrupted: set when nothing new should be begun.
    """

    inputs: Inputs
    guards: tuple[GuardEntry, ...]
    pool: PoolWriter
    executor: Executor
    progress: Progress
    interrupted: threading.Event

    def heed_interruption(self) -> None:
        """Called before something new is begun, of what is not one of many children in flight.

        Raises:
            KeyboardInterrupt: the run was interrupted.
        """
        if self.interrupted.is_set():
            raise KeyboardInterrupt

    def held_out_scores(self, genome: Genome) -> tuple[NDArray[np.float32], float] | None:
        """float32[M] on the held-out examples, and their mean; None if there are none.

        Raises:
            EvaluationError: the model could not be scored.
        """
        held_out = self.inputs.held_out
        if held_out is None:
            return None
        everything = np.arange(held_out.size, dtype=np.int64)
        scores = self.executor.score(genome, "held-out", everything)
        return scores, held_out.mean(scores)

    def check_guards(self, genome: Genome, seeds: Mapping[str, Means] | None) -> Checked:
        """Ask the guards about a model; `seeds` as in `genepool.pool.guards.check`."""

        def score(indices: NDArray[np.int64]) -> NDArray[np.float32]:
            return self.executor.score(genome, "guard", indices)

        return check(self.guards, score, seeds)
