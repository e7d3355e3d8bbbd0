"""Executors: where children are scored.

A job is a genome and the evaluation plan to ask it by. Blocks of examples are asked one after
another, and the plan decides after each whether another is needed, so a worker needs to know
nothing of the archive. Results are asked for in the order of the jobs, whatever the order in which
they are ready.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from genepool.core.early_stop.evaluation_plan import EvaluationPlan
from genepool.core.genome import Genome
from genepool.errors import EvaluationError
from genepool.pool.records import Measure
from genepool.run.executors.scorer import Part, Scorer


@dataclass(frozen=True, eq=False, slots=True)
class Evaluation:
    """What became of a job.

    Attributes:
        scores: float32[N], NaN where not asked; None if the child could not be scored.
        error: why not, in one line.
        seconds: spent on materialising and scoring, of all workers together.
    """

    scores: NDArray[np.float32] | None
    error: str | None
    seconds: float

    @property
    def asked(self) -> int:
        """Number of examples that it was scored on."""
        # NaN differs from itself.
        return 0 if self.scores is None else int(np.count_nonzero(self.scores == self.scores))


class Executor(Protocol):
    """Scores children. `submit` may return before the work is done; `result` waits for it."""

    def submit(self, step: int, genome: Genome, plan: EvaluationPlan) -> None:
        """Take a job, known from then on by its step."""
        ...

    def result(self, step: int) -> Evaluation:
        """Wait for a job. Each job is asked for once.

        Raises:
            GenepoolError: the worker died, or something other than the child is at fault.
        """
        ...

    def pending(self, step: int) -> bool:
        """Whether a job has not been started: asking for its result would be new work."""
        ...

    def score(self, genome: Genome, part: Part, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores on other examples, float32[n] for int64[n]; see `Scorer.score`.

        Raises:
            EvaluationError: the model could not be scored.
        """
        ...

    def measures(self, genome: Genome) -> tuple[Measure, ...]:
        """What tasks measure of a model besides its scores; see `Scorer.measures`."""
        ...

    def pictures(
        self, genome: Genome, task: int, indices: NDArray[np.int64], *, held_out: bool
    ) -> NDArray[np.uint8]:
        """What a model draws, uint8[n, height, width, 3]; see `Scorer.pictures`."""
        ...

    def transcripts(
        self, genome: Genome, task: int, indices: NDArray[np.int64], *, held_out: bool
    ) -> list[str]:
        """What a model does in n episodes, as JSON; see `Scorer.transcripts`."""
        ...

    def close(self) -> None:
        """Let go of models and workers."""
        ...


class SerialExecutor:
    """Scores in this process, one job at a time, when its result is asked for."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._jobs: dict[int, tuple[Genome, EvaluationPlan]] = {}

    def submit(self, step: int, genome: Genome, plan: EvaluationPlan) -> None:
        """Remember a job."""
        self._jobs[step] = (genome, plan)

    def result(self, step: int) -> Evaluation:
        """Do a job."""
        genome, plan = self._jobs.pop(step)
        started = time.perf_counter()
        try:
            self._scorer.load(genome)
            self._scorer.answer(plan)
        except EvaluationError as error:
            return Evaluation(None, str(error), time.perf_counter() - started)
        return Evaluation(plan.scores, None, time.perf_counter() - started)

    def pending(self, step: int) -> bool:
        """Jobs start when their result is asked for."""
        return step in self._jobs

    def score(self, genome: Genome, part: Part, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores on other examples, float32[n] for int64[n]."""
        self._scorer.load(genome)
        return self._scorer.score(indices, part)

    def measures(self, genome: Genome) -> tuple[Measure, ...]:
        """What tasks measure of a model besides its scores."""
        self._scorer.load(genome)
        return self._scorer.measures()

    def pictures(
        self, genome: Genome, task: int, indices: NDArray[np.int64], *, held_out: bool
    ) -> NDArray[np.uint8]:
        """What a model draws, uint8[n, height, width, 3]."""
        self._scorer.load(genome)
        return self._scorer.pictures(task, indices, held_out=held_out)

    def transcripts(
        self, genome: Genome, task: int, indices: NDArray[np.int64], *, held_out: bool
    ) -> list[str]:
        """What a model does in n episodes, as JSON."""
        self._scorer.load(genome)
        return self._scorer.transcripts(task, indices, held_out=held_out)

    def close(self) -> None:
        """Nothing to let go of."""
