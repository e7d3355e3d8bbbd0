"""What executors share whose models live in other processes, here or on other machines.

A worker opens the seeds itself and gets genomes of a few kilobytes; no weights travel. A thread per
worker asks it by the plan: which examples come next is decided here, after each block. So a job
whose worker is lost goes on with another one where it was, and what is known stays known. Workers
that have nothing to do help with the oldest job: its parts are shared out, and one that is long in
coming is asked of a second worker. Who answers changes nothing but the time.
"""

from __future__ import annotations

import json
import os
import threading
import time
import traceback
from collections import deque
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
from genepool.run.executors.job import Job, Refusal, packed, unpacked
from genepool.run.executors.scorer import ALIKE, Part, Scorer

# Threads of the libraries that models compute with.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_POLL = 0.2
# A job is helped with, and its parts are asked twice, once it takes so many times the mean of those
# before it, and so many seconds.
_HELPED, _TWICE = (0.5, 0.5), (3.0, 2.0)
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
        """
        self._hire, self._asked, self._blocks = hire, asked, blocks
        self._losses, self._confirm, self._sample = losses, confirm, sample
        self._standard: _Standard | None = None
        self._waiting: deque[Job] = deque()
        self._jobs: dict[int, Job] = {}
        self._ready = threading.Condition()
        # Those that have begun, in order, and how many were answered in how many seconds.
        self._begun: list[Job] = []
        self._answered, self._spent = 0, 0.0
        self._present: set[int] = set()
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
        self._jobs[step] = job = Job(step, genome, plan)
        self._queue(job)

    def result(self, step: int) -> Evaluation:
        """Wait for a job."""
        answer = self._wait(self._jobs[step], self._asked)
        del self._jobs[step]
        return answer

    def pending(self, step: int) -> bool:
        """Whether no worker has taken the job yet."""
        return self._jobs[step].began is None

    def score(self, genome: Genome, part: Part, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores on other examples, float32[n] for int64[n]."""
        unknown = np.zeros(int(indices.max(initial=-1)) + 1, dtype=np.float32)
        unknown[indices] = np.nan
        job = Job(-1, genome, FullPlan(unknown), part)
        self._queue(job)
        answer = self._wait(job)
        if answer.scores is None:
            raise EvaluationError(answer.error or "the model could not be scored")
        return answer.scores[indices]

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
        job = Job(-1, genome, FullPlan(np.zeros(0, dtype=np.float32)), request=request)
        self._queue(job)
        answer = self._wait(job)
        if answer.scores is None:
            raise EvaluationError(answer.error or "the model could not be asked")
        return job.reply

    def _queue(self, job: Job) -> None:
        with self._ready:
            self._waiting.append(job)
            self._ready.notify_all()

    def _wait(self, job: Job, asked: Callable[[int, int], None] | None = None) -> Evaluation:
        told = 0
        while job.answer is None and self._failed is None:
            with self._ready:
                # Waking up now and then lets Ctrl-C through.
                if job.answer is None and self._failed is None:
                    self._ready.wait(_POLL)
            self._look()
            if asked is not None and job.known > told:
                told = job.known
                asked(told, job.plan.scores.size)
        if isinstance(job.answer, Evaluation):
            return job.answer
        raise job.answer or self._failed or RuntimeError("a job ended without an answer")

    def _look(self) -> None:
        """Called now and then while a result is waited for; may raise to end the run."""

    def _take(self, number: int) -> Job | None:
        """Wait for the next job of a worker; None when there will be none."""
        with self._ready:
            while not self._closing and self._failed is None:
                if (job := self._next(number)) is not None:
                    self._waiting.remove(job)
                    if job.began is None:
                        job.began = time.perf_counter()
                        self._begun.append(job)
                else:
                    job = next((one for one in self._begun if self._needs_help(one)), None)
                if job is not None:
                    # At once: a job that nobody is at is queued again.
                    job.crew[number] = None
                    return job
                self._ready.wait(_POLL if len(self._threads) > 1 else None)
        return None

    def _next(self, number: int) -> Job | None:
        """The first job in the queue that a worker may have."""
        alone = self._present <= {number}
        for job in self._waiting:
            if job.refused is None or job.refused.worker != number or alone:
                return job
        return None

    def _needs_help(self, job: Job) -> bool:
        late = self._takes(job, _TWICE)
        return self._takes(job, _HELPED) and job.has_room(late=late)

    def _takes(self, job: Job, limits: tuple[float, float]) -> bool:
        """Whether it takes as long as one of the limits says, measured by those before it."""
        if job.began is None or not self._answered:
            return False
        times, least = limits
        long = max(least, times * self._spent / self._answered)
        return time.perf_counter() - job.began > long

    def _serve(self, number: int) -> None:
        try:
            worker, loaded, compared = self._hired(number), None, False
            while (job := self._take(number)) is not None:
                try:
                    if self._standard is not None and not compared:
                        loaded, compared = None, True
                        _compare(worker, self._standard)
                    self._conduct(job, number, worker, loaded=loaded is job)
                    loaded = job
                except Lost as lost:
                    loaded, compared = None, False
                    self._lose(job, number, lost)
                    worker = self._hired(number)
                except BaseException as error:
                    loaded = None
                    with self._ready:
                        self._settle(job, error)
                finally:
                    with self._ready:
                        job.leave(number)
                        # Of two who saw each other at it, both may have left it for other work.
                        abandoned = job.answer is None and not job.crew
                        if abandoned and job not in self._waiting:
                            self._waiting.appendleft(job)
                            self._ready.notify_all()
        except Lost as lost:
            self._fail(lost.error)
        except BaseException as error:
            self._fail(error)

    def _lose(self, job: Job, number: int, lost: Lost) -> None:
        """Give what a lost worker had to others.

        Raises:
            GenepoolError: too many were lost over it.
        """
        with self._ready:
            self._present.discard(number)
            job.leave(number)
            if job.answer is None:
                job.losses += 1
                if job.losses >= self._losses:
                    error = lost.error
                    if job.losses > 1:
                        error = GenepoolError(
                            f"{job.losses} workers were lost one after another while they scored "
                            f"one model; the last one: {lost}"
                        )
                    self._fail(error)  # At once, before another worker takes the job.
                    raise error from None
                self._waiting.appendleft(job)
            self._ready.notify_all()

    def _conduct(self, job: Job, number: int, worker: Worker, *, loaded: bool) -> None:
        """Ask a worker what a job's plan wants to know, for as long as there is something for it.

        Raises:
            Lost: the worker is.
            BaseException: what something other than the model is at fault for.
        """

        def asked(message: bytes) -> bytes | Refusal:
            reply = _ask(worker, message)
            if isinstance(reply, EvaluationError):
                return Refusal(number, worker.place, str(reply))
            if isinstance(reply, BaseException):
                raise reply
            return reply

        refusal = None if loaded else asked(b"load" + encode(job.genome))
        refusal = refusal if isinstance(refusal, Refusal) else None
        while refusal is None:
            with self._ready:
                if len(job.crew) > 1 and self._next(number) is not None:
                    return
                part = job.take(number, self._blocks, late=self._takes(job, _TWICE))
            if part is None:
                break
            block, place = part
            indices = block.indices[block.parts[place]]
            reply = asked(_KINDS[job.part] + packed(indices))
            with self._ready:
                if isinstance(reply, Refusal):
                    job.refuse(block, place, reply)
                    break
                try:
                    job.record(block, place, np.frombuffer(reply, dtype="<f4"))
                except BaseException as error:  # At once: to others the block looks answered.
                    self._settle(job, error)
                    return
        with self._ready:
            if refusal is None and not job.over:
                return
            if refusal is None and job.block is not None:
                refusal = job.block.refusal
        if refusal is None and job.request:
            reply = asked(job.request)
            refusal = reply if isinstance(reply, Refusal) else None
            job.reply = reply if isinstance(reply, bytes) else b""
        with self._ready:
            self._settle(job, refusal, worker.place)

    def _settle(self, job: Job, found: BaseException | Refusal | None, place: str = "") -> None:
        """A job is over, unless another worker was first: with an answer, or it is refused.

        A failure of one machine is not taken for one of the model, where that is wanted.
        """
        if job.answer is not None or job.began is None:
            return
        seconds = time.perf_counter() - job.began
        if isinstance(found, BaseException):
            job.answer = found
        elif found is not None and self._confirm and job.refused is None:
            job.refused = found
            job.block = None  # It is asked once more, from its beginning.
            self._waiting.appendleft(job)
        elif found is not None:
            job.answer = Evaluation(None, found.text, seconds)
        elif job.refused is not None:
            job.answer = GenepoolError(
                f"{job.refused.place}: a model could not be scored there ({job.refused.text}), and "
                f"could be at {place}; nothing recorded is lost: see what is wrong there, and run "
                "the same command again"
            )
        else:
            job.answer = Evaluation(job.plan.scores, None, seconds)
            self._keep(job, place)
        if job.answer is not None:
            self._begun.remove(job)
            while job in self._waiting:
                self._waiting.remove(job)
            self._answered += 1
            self._spent += seconds
        self._ready.notify_all()

    def _keep(self, job: Job, place: str) -> None:
        """Let the others be compared with the first model that was asked everything."""
        scores = job.plan.scores
        if self._sample is None or self._standard is not None or job.step < 0 or job.request:
            return
        if not np.isnan(scores).any() and (indices := self._sample(scores)).size:
            self._standard = _Standard(job.genome, indices, scores[indices], place)

    def _hired(self, number: int) -> Worker:
        worker = self._hire(number)
        with self._ready:
            self._present.add(number)
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
