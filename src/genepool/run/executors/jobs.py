"""Jobs that several workers share: what each worker is asked next, and what came of each job.

Pure: neither threads nor a clock. `Jobs` is told who has arrived, has answered or is lost, and
when. A job is asked question by question, and whoever is free gets one of the first job that nobody
is at, or helps with one that takes long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genepool.core.early_stop.evaluation_plan import EvaluationPlan
from genepool.core.genome import Genome
from genepool.errors import EvaluationError, GenepoolError
from genepool.run.executors.executor import Evaluation
from genepool.run.executors.scorer import Part, in_parts

# A job is helped with, and its questions are asked twice, once it takes so many times the mean of
# those before it, and so many seconds.
_HELPED, _TWICE = (0.5, 0.5), (3.0, 2.0)


class Refusal(NamedTuple):
    """A worker said that the model cannot be scored: its number, where it is, and what it said."""

    worker: int
    place: str
    text: str


@dataclass(frozen=True, eq=False, slots=True)
class Question:
    """What a worker is asked of a job's model: int64[n] of examples, or else the job's request."""

    job: Job
    indices: NDArray[np.int64]


@dataclass(eq=False, slots=True)
class Job:
    """A genome, and the plan to ask it by.

    Attributes:
        step: it is known by this to the driver; -1 for what is asked besides.
        part: which examples these are.
        request: asked instead of the plan's examples; `reply` is what came back.
        spared: it need not be begun once the run is interrupted.
        began: when a worker was asked first, in seconds; infinity before.
        known: number of examples with an answer, those that the plan knew before included.
        before: of those, the ones of earlier blocks.
        spent: seconds of work that the answers took, of all workers together.
        losses: number of workers that were lost over it.
        block: int64[n] of the examples that the plan wants to know now.
        scores: float32[N], answers to what is in `block` and not `left`.
        left: the questions without an answer; there are some until it is over.
        crew: worker -> what it is being asked.
        refusal: of the first question that was refused; later ones are not asked.
        refused: the refusal of the first worker, where it is asked elsewhere again.
        answer: what came of it.
    """

    step: int
    genome: Genome
    plan: EvaluationPlan
    part: Part = "train"
    request: bytes = b""
    spared: bool = False
    reply: bytes = b""
    began: float = math.inf
    known: int = field(init=False)
    before: int = 0
    spent: float = 0.0
    losses: int = 0
    block: NDArray[np.int64] = field(init=False)
    scores: NDArray[np.float32] = field(init=False)
    left: list[Question] = field(init=False)
    crew: dict[int, Question] = field(default_factory=dict[int, Question])
    refusal: Refusal | None = None
    refused: Refusal | None = None
    answer: Evaluation | BaseException | None = None

    def __post_init__(self) -> None:
        self.known = int(np.count_nonzero(~np.isnan(self.plan.scores)))

    @property
    def waits(self) -> bool:
        """Whether nobody is being asked any of what is left."""
        return not any(asked in self.left for asked in self.crew.values())

    def question(self, *, late: bool) -> Question | None:
        """The first one that nobody is being asked; if it is late, that the fewest are."""
        asked = list(self.crew.values())
        found = min(self.left, key=asked.count)
        return found if late or found not in asked else None

    def has_room(self, *, late: bool) -> bool:
        """Whether there is something to do for one more than those who are at it."""
        if self.refused is not None or self.request:
            return False
        asked = self.crew.values()
        free = sum(question not in asked for question in self.left)
        # Those who are at it take a further question each, as soon as they can.
        return free > len(asked) or (late and len(asked) <= len(self.left))

    def ask(self, blocks: NDArray[np.int64] | None) -> None:
        """Cut what the plan wants to know now into questions: at least one, as the model is loaded
        for it; `blocks` as `in_parts` takes them."""
        self.before = self.known
        self.block = np.zeros(0, dtype=np.int64) if self.plan.done else self.plan.next()
        self.scores = np.empty_like(self.plan.scores)
        parts = in_parts(self.block, blocks if self.part == "train" else None)
        self.left = [Question(self, self.block[places]) for places in parts]

    def record(self, question: Question, reply: bytes) -> None:
        """Take in an answer: float32[n] of the examples, or what came back to the request."""
        if self.request:
            self.reply = reply
        else:
            self.scores[question.indices] = np.frombuffer(reply, dtype="<f4")
            self.known += question.indices.size


class Jobs:
    """The jobs that are not over, in order, and the workers that are present."""

    def __init__(self, blocks: NDArray[np.int64] | None, *, losses: int, confirm: bool) -> None:
        """Begin without jobs and workers; the arguments are as `RemoteExecutor` takes them."""
        self._blocks, self._losses, self._confirm = blocks, losses, confirm
        self._open: list[Job] = []
        self._places: dict[int, str] = {}
        # When each worker was asked what it was asked last.
        self._asked: dict[int, float] = {}
        # How many jobs were answered in how many seconds.
        self._answered, self._spent = 0, 0.0

    def add(self, job: Job) -> None:
        """Take a job, behind all others."""
        job.ask(self._blocks)
        self._open.append(job)

    def arrive(self, worker: int, place: str) -> None:
        """A worker is ready, and where it is."""
        self._places[worker] = place

    def next(
        self, worker: int, now: float, loaded: Job | None = None, *, interrupted: bool = False
    ) -> Question | None:
        """What to ask a worker that is free; None: nothing for now.

        It stays with the job whose model it has `loaded`, but leaves it to others who are at it if
        there is one that nobody is at. Once the run is interrupted, none is begun that is spared.
        """
        alone = self._places.keys() <= {worker}
        jobs = [j for j in self._open if not (interrupted and j.spared and j.began == math.inf)]
        own = [j for j in jobs if alone or not j.refused or j.refused.worker != worker]
        jobs = [job for job in own if job.waits][:1]
        if loaded in own and (loaded.waits or not jobs):
            jobs = [loaded]
        jobs += [job for job in own if self._needs_help(job, now)]
        for job in jobs:
            question = job.question(late=self._takes(job, _TWICE, now))
            if question is not None:
                job.began = min(job.began, now)
                job.crew[worker], self._asked[worker] = question, now
                return question
        return None

    def answered(
        self, worker: int, question: Question, reply: bytes | BaseException, now: float
    ) -> None:
        """Take in what a worker says, unless another one was first.

        An EvaluationError says that the model cannot be scored, any other error ends the job. Of
        who was not first, no error counts: one worker alone would not have met it.
        """
        job, place = question.job, self._places[worker]
        job.crew.pop(worker, None)
        if question not in job.left:
            return
        job.spent += now - self._asked[worker]
        try:
            if not isinstance(reply, bytes | EvaluationError):
                raise reply
            number = job.left.index(question)
            if isinstance(reply, bytes):
                job.record(question, reply)
                del job.left[number]
            else:
                # Those before it are still asked, so that what is told of the model does not depend
                # on who was first.
                job.refusal = Refusal(worker, place, str(reply))
                del job.left[number:]
            if not job.left:
                job.answer = self._outcome(job, place)
        except BaseException as error:
            job.answer = error
        if job.answer is not None:
            job.left = []
            self._open.remove(job)
            self._answered += 1
            self._spent += now - job.began

    def lost(self, worker: int, question: Question, error: GenepoolError) -> GenepoolError | None:
        """A worker is gone, by this error; its question is anybody's.

        Returns:
            what ends the run, if too many were lost over one job.
        """
        job = question.job
        del self._places[worker], job.crew[worker]
        job.losses += job.answer is None
        if job.answer is not None or job.losses < self._losses:
            return None
        if job.losses == 1:
            return error
        return GenepoolError(
            f"{job.losses} workers were lost one after another while they scored one model; the "
            f"last one: {error}"
        )

    def _outcome(self, job: Job, place: str) -> Evaluation | GenepoolError | None:
        """What came of a job, by the last answer to its block; None: it is asked on.

        A failure of one machine is not taken for one of the model, where that is wanted.
        """
        if job.refusal is None:
            if not job.plan.done:
                job.plan.record(job.block, job.scores[job.block])
            if not job.plan.done:
                return job.ask(self._blocks)
            if job.refused is None:
                return Evaluation(job.plan.scores, None, job.spent)
            return GenepoolError(
                f"{job.refused.place}: a model could not be scored there ({job.refused.text}), and "
                f"could be at {place}; nothing recorded is lost: see what is wrong there, and run "
                "the same command again"
            )
        if self._confirm and job.refused is None:
            job.refused, job.refusal, job.known = job.refusal, None, job.before
            return job.ask(self._blocks)
        return Evaluation(None, job.refusal.text, job.spent)

    def _needs_help(self, job: Job, now: float) -> bool:
        late = self._takes(job, _TWICE, now)
        return self._takes(job, _HELPED, now) and job.has_room(late=late)

    def _takes(self, job: Job, limits: tuple[float, float], now: float) -> bool:
        """Whether it takes as long as one of the limits says, measured by those before it."""
        times, least = limits
        return self._answered > 0 and now - job.began > max(
            least, times * self._spent / self._answered
        )
