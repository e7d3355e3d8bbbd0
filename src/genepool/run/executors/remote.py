"""What executors share whose models live in other processes, here or on other machines.

A worker opens the seeds itself and gets genomes of a few kilobytes; no weights travel. A thread per
worker asks it by the plan: which examples come next is decided here, after each block. So a job
whose worker is lost goes on with another one where it was, and what is known stays known. Workers
that have nothing to do help with the oldest job: its parts are shared out, and one that is long in
coming is asked of a second worker. Who answers changes nothing but the time.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from genepool.core.early_stop.evaluation_plan import EvaluationPlan, FullPlan
from genepool.core.genome import Genome, decode, encode
from genepool.errors import EvaluationError, GenepoolError
from genepool.messages import agreeing, cause, count
from genepool.pool.records import Measure
from genepool.run.executors.executor import Evaluation
from genepool.run.executors.jobs import Job, Jobs, Question
from genepool.run.executors.scorer import ALIKE, Part, Scorer

# Threads of the libraries that models compute with.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_POLL = 0.2
_KINDS: dict[Part, bytes] = {"train": b"scor", "held-out": b"held", "guard": b"grds"}
_PARTS: dict[bytes, Part] = {kind: part for part, kind in _KINDS.items()}


class Lost(Exception):
    """A worker is gone; `error` is what to say of it where that ends the run."""

    def __init__(self, error: GenepoolError) -> None:
        super().__init__(str(error))
        self.error = error


class Worker(Protocol):
    """A live model somewhere else, which answers messages as `answer` does."""

    @property
    def place(self) -> str:
        """Where it is, for people."""
        ...

    def ask(self, message: bytes) -> bytes:
        """Wait for its answer.

        Raises:
            Lost: there will be none.
        """
        ...


# From float32[N] scores of a model, int64[n] of examples that say most of who scores.
Sample = Callable[[NDArray[np.float32]], NDArray[np.int64]]


@dataclass(frozen=True, eq=False, slots=True)
class _Standard:
    """What every worker must answer: float32[n] for a model and int64[n] of examples."""

    genome: Genome
    indices: NDArray[np.int64]
    scores: NDArray[np.float32]
    place: str


class RemoteExecutor:
    """Hands jobs to workers, in the order of the jobs; see `Executor`."""

    def __init__(
        self,
        hire: Callable[[int], Worker],
        workers: int,
        asked: Callable[[int, int], None] | None = None,
        blocks: NDArray[np.int64] | None = None,
        *,
        losses: int = 1,
        confirm: bool = False,
        sample: Sample | None = None,
        interrupted: threading.Event | None = None,
    ) -> None:
        """Start a thread per worker.

        Args:
            hire: waits for worker 0..workers-1 to be ready; called again after that one was lost.
                Raises GenepoolError or Lost where the run cannot go on.
            workers: their number, at least 1.
            asked: told now and then how many examples were asked, of how many, of the model whose
                result is waited for.
            blocks: int64[N] of the examples, see `Examples`; a question is asked in parts of these.
            losses: a job that loses so many workers ends the run.
            confirm: a model that could not be scored is given to another worker too, so that a
                broken machine is not taken for a broken model.
            sample: of which examples every worker must give the scores of a first model that was
                asked all of them; None: this is not looked at.
            interrupted: once it is set, no further child is begun.
        """
        self._hire, self._asked, self._sample = hire, asked, sample
        self._standard: _Standard | None = None
        self._interrupted = interrupted or threading.Event()
        self._submitted: dict[int, Job] = {}
        # The last child that was submitted; what is asked of it again has been begun.
        self._newest = 0
        # What is known of jobs and workers, and the end; all of it needs the lock.
        self._ready = threading.Condition()
        self._jobs = Jobs(blocks, losses=losses, confirm=confirm)
        self._failed: BaseException | None = None
        self._closing = False
        self._threads = [
            threading.Thread(target=self._serve, args=(number,), daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, step: int, genome: Genome, plan: EvaluationPlan) -> None:
        """Queue a job for the next free worker."""
        job = Job(step, genome, plan, spared=step > self._newest)
        self._newest = max(self._newest, step)
        self._submitted[step] = self._added(job)

    def result(self, step: int) -> Evaluation:
        """Wait for a job."""
        answer = self._wait(self._submitted[step], self._asked)
        del self._submitted[step]
        return answer

    def pending(self, step: int) -> bool:
        """Whether no worker has been asked of the job yet."""
        return self._submitted[step].began == math.inf

    def score(self, genome: Genome, part: Part, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores on other examples, float32[n] for int64[n]."""
        unknown = np.zeros(int(indices.max(initial=-1)) + 1, dtype=np.float32)
        unknown[indices] = np.nan
        return self._scores(self._added(Job(-1, genome, FullPlan(unknown), part)))[indices]

    def measures(self, genome: Genome) -> tuple[Measure, ...]:
        """What tasks measure of a model besides its scores."""
        return tuple(Measure(*entry) for entry in json.loads(self._request(genome, b"meas")))

    def pictures(
        self, genome: Genome, task: int, indices: NDArray[np.int64], *, held_out: bool
    ) -> NDArray[np.uint8]:
        """What a model draws, uint8[n, height, width, 3]."""
        given = np.array([task, held_out, *indices], dtype="<i8")
        reply = self._request(genome, b"draw" + given.tobytes())
        shape = np.frombuffer(reply[:32], dtype="<i8").tolist()
        return np.frombuffer(reply[32:], dtype=np.uint8).reshape(shape)

    def transcripts(
        self, genome: Genome, task: int, indices: NDArray[np.int64], *, held_out: bool
    ) -> list[str]:
        """What a model does in n episodes, as JSON."""
        given = np.array([task, held_out, *indices], dtype="<i8")
        return json.loads(self._request(genome, b"play" + given.tobytes()))

    def close(self) -> None:
        """Take no further jobs; a subclass ends its workers after it."""
        with self._ready:
            self._closing = True
            self._ready.notify_all()

    def _request(self, genome: Genome, request: bytes) -> bytes:
        job = self._added(Job(-1, genome, FullPlan(np.zeros(0, dtype=np.float32)), request=request))
        self._scores(job)
        return job.reply

    def _scores(self, job: Job) -> NDArray[np.float32]:
        answer = self._wait(job)
        if answer.scores is None:
            raise EvaluationError(answer.error or "the model could not be scored")
        return answer.scores

    def _added(self, job: Job) -> Job:
        with self._ready:
            self._jobs.add(job)
            self._ready.notify_all()
        return job

    def _wait(self, job: Job, asked: Callable[[int, int], None] | None = None) -> Evaluation:
        told = job.known
        while job.answer is None and self._failed is None:
            with self._ready:
                # Waking up now and then lets Ctrl-C through.
                if job.answer is None and self._failed is None:
                    self._ready.wait(_POLL)
            self._look()
            if job.spared and job.began == math.inf and self._interrupted.is_set():
                raise KeyboardInterrupt
            if asked is not None and job.known > told:
                told = job.known
                asked(told, job.plan.scores.size)
        if isinstance(job.answer, Evaluation):
            return job.answer
        raise job.answer or self._failed or RuntimeError("a job ended without an answer")

    def _look(self) -> None:
        """Called now and then while a result is waited for; may raise to end the run."""

    def _serve(self, number: int) -> None:
        """What a thread does: it asks its worker one question after another."""
        try:
            worker, loaded, compared = self._hired(number), None, False
            question = self._next(number, loaded)
            while question is not None:
                job = question.job
                try:
                    if self._standard is not None and not compared:
                        loaded = None
                        _compare(worker, self._standard)
                        compared = True
                    reply = b"" if job is loaded else _ask(worker, b"load" + encode(job.genome))
                    loaded = job if isinstance(reply, bytes) else None
                    if loaded is not None:
                        asked = _KINDS[job.part] + packed(question.indices)
                        reply = _ask(worker, job.request or asked)
                except Lost as lost:
                    self._lose(number, question, lost.error)
                    worker, loaded, compared = self._hired(number), None, False
                    question = self._next(number, loaded)
                    continue
                except BaseException as error:
                    reply, loaded = error, None
                with self._ready:
                    self._jobs.answered(number, question, reply, time.perf_counter())
                    self._keep(job, worker.place)
                    self._ready.notify_all()
                    # At once, so that nobody else takes the job whose model is loaded here.
                    question = self._next(number, loaded)
        except Lost as lost:
            self._fail(lost.error)
        except BaseException as error:
            self._fail(error)

    def _next(self, number: int, loaded: Job | None) -> Question | None:
        """Wait for what to ask a worker next; None when there will be nothing."""
        with self._ready:
            while not self._closing and self._failed is None:
                now, interrupted = time.perf_counter(), self._interrupted.is_set()
                question = self._jobs.next(number, now, loaded, interrupted=interrupted)
                if question is not None:
                    return question
                self._ready.wait(_POLL if len(self._threads) > 1 else None)
        return None

    def _lose(self, number: int, question: Question, error: GenepoolError) -> None:
        with self._ready:
            ending = self._jobs.lost(number, question, error)
            self._ready.notify_all()
            if ending is not None:
                self._fail(ending)  # At once, before another worker is asked.
                raise ending from None

    def _keep(self, job: Job, place: str) -> None:
        """Let the others be compared with the first model that was asked everything."""
        answer = job.answer
        if self._sample is None or self._standard is not None or job.step < 0:
            return
        if isinstance(answer, Evaluation) and answer.asked == job.plan.scores.size:
            indices = self._sample(job.plan.scores)
            if indices.size:
                scores = job.plan.scores[indices]
                self._standard = _Standard(job.genome, indices, scores, place)

    def _hired(self, number: int) -> Worker:
        worker = self._hire(number)
        with self._ready:
            self._jobs.arrive(number, worker.place)
            self._ready.notify_all()
        return worker

    def _fail(self, error: BaseException) -> None:
        with self._ready:
            if not self._closing:
                self._failed = self._failed or error
            self._ready.notify_all()


def _compare(worker: Worker, standard: _Standard) -> None:
    """Refuse a worker that does not score as another one did.

    Raises:
        GenepoolError: saying how they differ. Where a worker differs from itself, nothing is said:
            nobody could tell who is right.
        Lost: the worker is.
    """

    def asked(message: bytes) -> bytes:
        if isinstance(reply := _ask(worker, message), BaseException):
            raise GenepoolError(
                f"{worker.place}: what {standard.place} has scored cannot be scored there: {reply}"
            )
        return reply

    asked(b"load" + encode(standard.genome))
    question = _KINDS["train"] + packed(standard.indices)
    first = np.frombuffer(asked(question), dtype="<f4")
    differ = np.flatnonzero(np.abs(first - standard.scores) > ALIKE)
    if not differ.size:
        return
    second = np.frombuffer(asked(question), dtype="<f4")
    if (np.abs(first - second) > ALIKE).any():
        return
    one = int(differ[0])
    raise GenepoolError(
        f"{worker.place}: scores otherwise than {standard.place}: {first[one]:.4g} and "
        f"{standard.scores[one]:.4g} on the first of {count(differ.size, 'example')} "
        f"that {agreeing(differ.size, 'differs', 'differ')}, of {first.size}; look for what "
        "differs between them (data that a function fetches, variables of the environment, "
        "Python's hash of texts); 'changed_scores: tell' goes on all the same"
    )


def _ask(worker: Worker, message: bytes) -> bytes | BaseException:
    reply = worker.ask(message)
    kind, body = reply[:4], reply[4:]
    if kind == b"fine":
        return body
    text = body.decode()
    return EvaluationError(text) if kind == b"eval" else GenepoolError(text)


def answer(scorer: Callable[[], Scorer], message: bytes) -> bytes:
    """What a worker says to a message: four letters that say how it went, and what was asked for.

    Args:
        scorer: gives the live model, built when it is first asked for.
        message: of this module's executor.
    """
    kind, body = message[:4], message[4:]
    try:
        live = scorer()
        if kind == b"load":
            live.load(decode(body))
            return b"fine"
        if kind == b"meas":
            return b"fine" + json.dumps(live.measures()).encode()
        if kind in (b"draw", b"play"):
            task, held_out, *indices = np.frombuffer(body, dtype="<i8").tolist()
            asked = task, np.array(indices, dtype=np.int64)
            if kind == b"play":
                told = live.transcripts(*asked, held_out=bool(held_out))
                return b"fine" + json.dumps(told).encode()
            drawn = live.pictures(*asked, held_out=bool(held_out))
            shape = np.array(drawn.shape, dtype="<i8")
            return b"fine" + shape.tobytes() + drawn.tobytes()
        indices = unpacked(body)
        return b"fine" + live.score(indices, _PARTS[kind]).astype("<f4").tobytes()
    except EvaluationError as error:
        return b"eval" + _encoded(str(error))
    except GenepoolError as error:
        return b"fail" + _encoded(str(error))
    except BaseException as error:
        return b"fail" + _encoded(unforeseen(error))


def _encoded(text: str) -> bytes:
    # An error may quote anything, also halves of characters.
    return text.encode(errors="backslashreplace")


def unforeseen(error: BaseException) -> str:
    """What a worker says of an error that nobody meant: one line, not a traceback from each."""
    if os.environ.get("GENEPOOL_DEBUG"):
        traceback.print_exc()
    return f"{cause(error)} (in a worker process; GENEPOOL_DEBUG=1 shows where)"


def packed(indices: NDArray[np.int64]) -> bytes:
    """int64[n] in [0, 2^32) on their way to a worker.

    Low bytes first, then all higher ones, which are alike: it is compressed on its way.
    """
    return indices.astype("<u4").view(np.uint8).reshape(-1, 4).T.tobytes()


def unpacked(body: bytes) -> NDArray[np.int64]:
    """What `packed` has packed."""
    parts = np.frombuffer(body, dtype=np.uint8).reshape(4, -1).T
    return np.ascontiguousarray(parts).view("<u4").ravel().astype(np.int64)
