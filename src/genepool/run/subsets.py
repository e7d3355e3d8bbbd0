"""Asking members again, in a run with rounds: what is new to them of other examples."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genepool.core.early_stop.lossless import FullExam
from genepool.core.subsets import Selected
from genepool.pool.records import Record, Reevaluation
from genepool.pool.writer import PoolWriter
from genepool.run.executors.executor import Executor

# By member: float32[N], NaN where it was never asked; None if it failed.
Known = dict[int, NDArray[np.float32] | None]


def ask_again(
    pool: PoolWriter,
    executor: Executor,
    records: Sequence[Record],
    number: int,
    examples: NDArray[np.int64],
    interrupted: threading.Event,
) -> Known:
    """Ask members those examples that they do not know, and write the answers as they come.

    Args:
        pool: where they live.
        executor: who asks them.
        records: of the members, with all that is known of them.
        number: of the round, or `FINAL`.
        examples: int64[n], positions among all N.
        interrupted: set when nothing new should be begun.

    Raises:
        KeyboardInterrupt: it was; what has been answered is written.
    """
    out: Known = {}
    waiting: list[tuple[int, Record, NDArray[np.float32]]] = []
    for key, record in enumerate(records):
        if record.scores is None:
            raise RuntimeError(f"member {record.id} has no scores")
        out[record.id] = record.scores
        if np.isnan(record.scores[examples]).any():
            exam = Selected(FullExam(record.scores[examples]), examples, record.scores)
            # Numbers that no child has.
            executor.submit(-2 - key, pool.genome(record.id), exam)
            waiting.append((-2 - key, record, record.scores))
    for key, record, before in waiting:
        if interrupted.is_set():
            raise KeyboardInterrupt
        answer = executor.result(key)
        new, asked = None, 0
        if answer.scores is not None:
            new = np.where(np.isnan(before), answer.scores, np.float32(np.nan))
            asked = int(np.count_nonzero(~np.isnan(new)))
        pool.add_reevaluation(
            Reevaluation(record.id, number, new, answer.error, asked, answer.seconds)
        )
        out[record.id] = answer.scores
    return out
