"""What executors share whose models live in other processes, here or on other machines.

A worker opens the seeds itself and gets genomes of a few kilobytes; no weights travel. A thread per
worker asks it by the plan: which examples come next is decided here, after each block. So a job
whose worker is lost goes on with another one where it was, and what is known stays known.
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
from genepool.messages import cause
from genepool.pool.records import Measure
from genepool.run.executors.executor import Evaluation
from genepool.run.executors.scorer import Part, Scorer, in_parts

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


@dataclass(slots=True)
class _Job:
    step: int
    genome: Genome
    plan: EvaluationPlan
    part: Part = "train"
    # Asked instead of the plan's examples; `reply` is what came back.
    request: bytes = b""
    reply: bytes = b""
    started: bool = False
    # Examples that have been asked so far.
    known: int = 0
    losses: int = 0
    # Which worker found that the model cannot be scored, and what was said; asked elsewhere again.
    refused: tuple[int, str, str] | None = None
    answer: Evaluation | BaseException | None = None


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
        """
        self._hire, self._asked, self._blocks = hire, asked, blocks
        self._losses, self._confirm = losses, confirm
        self._waiting: deque[_Job] = deque()
        self._jobs: dict[int, _Job] = {}
        self._ready = threading.Condition()
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
        job = self._jobs[step] = _Job(step, genome, plan)
        self._queue(job)

    def result(self, step: int) -> Evaluation:
        """Wait for a job."""
        answer = self._wait(self._jobs[step], self._asked)
        del self._jobs[step]
        return answer

    def pending(self, step: int) -> bool:
        """Whether no worker has taken the job yet."""
        return not self._jobs[step].started

    def score(self, genome: Genome, part: Part, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores on other examples, float32[n] for int64[n]."""
        unknown = np.zeros(int(indices.max(initial=-1)) + 1, dtype=np.float32)
        unknown[indices] = np.nan
        job = _Job(-1, genome, FullPlan(unknown), part)
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
        job = _Job(-1, genome, FullPlan(np.zeros(0, dtype=np.float32)), request=request)
        self._queue(job)
        answer = self._wait(job)
        if answer.scores is None:
            raise EvaluationError(answer.error or "the model could not be asked")
        return job.reply

    def _queue(self, job: _Job, *, first: bool = False) -> None:
        with self._ready:
            (self._waiting.appendleft if first else self._waiting.append)(job)
            self._ready.notify_all()

    def _wait(self, job: _Job, asked: Callable[[int, int], None] | None = None) -> Evaluation:
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

    def _take(self, number: int) -> _Job | None:
        """Wait for the next job of a worker; None when there will be none."""
        with self._ready:
            while not self._closing:
                for job in self._waiting:
                    if job.refused is None or job.refused[0] != number or self._present <= {number}:
                        self._waiting.remove(job)
                        job.started = True
                        return job
                self._ready.wait()
        return None

    def _serve(self, number: int) -> None:
        try:
            worker = self._hired(number)
            while (job := self._take(number)) is not None:
                try:
                    answer: Evaluation | BaseException | None = _conduct(job, worker, self._blocks)
                except Lost as lost:
                    with self._ready:
                        self._present.discard(number)
                        self._ready.notify_all()
                    job.losses += 1
                    if job.losses >= self._losses:
                        raise lost if job.losses == 1 else _deadly(job, lost) from None
                    self._queue(job, first=True)
                    worker = self._hired(number)
                    continue
                except BaseException as error:
                    answer = error
                if self._confirm and isinstance(answer, Evaluation):
                    answer = _confirmed(job, answer, number, worker.place)
                if answer is None:
                    self._queue(job, first=True)
                    continue
                with self._ready:
                    job.answer = answer
                    self._ready.notify_all()
        except Lost as lost:
            self._fail(lost.error)
        except BaseException as error:
            self._fail(error)

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


def _deadly(job: _Job, lost: Lost) -> GenepoolError:
    return GenepoolError(
        f"{job.losses} workers were lost one after another while they scored one model; the last "
        f"one: {lost}"
    )


def _confirmed(
    job: _Job, found: Evaluation, number: int, place: str
) -> Evaluation | BaseException | None:
    """An evaluation that a failure of one machine cannot have made; None: ask another worker."""
    if job.refused is None:
        if found.error is None:
            return found
        job.refused = number, place, found.error
        return None
    _, other, text = job.refused
    if found.error is None:
        return GenepoolError(
            f"{other}: a model could not be scored there ({text}), and could be at {place}; "
            "nothing recorded is lost: see what is wrong there, and run the same command again"
        )
    return found


def _conduct(job: _Job, worker: Worker, blocks: NDArray[np.int64] | None) -> Evaluation:
    """Ask a worker what a job's plan wants to know."""
    started = time.perf_counter()
    error = _ask(worker, b"load" + encode(job.genome))
    job.known = 0
    while isinstance(error, bytes) and not job.plan.done:
        indices = job.plan.next()
        scores = np.empty(indices.size, dtype=np.float32)
        for part in in_parts(indices, blocks if job.part == "train" else None):
            error = _ask(worker, _KINDS[job.part] + _packed(indices[part]))
            if not isinstance(error, bytes):
                break
            scores[part] = np.frombuffer(error, dtype="<f4")
            job.known += part.size
        else:
            job.plan.record(indices, scores)
    if isinstance(error, bytes) and job.request:
        error = _ask(worker, job.request)
        job.reply = error if isinstance(error, bytes) else b""
    seconds = time.perf_counter() - started
    if isinstance(error, EvaluationError):
        return Evaluation(None, str(error), seconds)
    if isinstance(error, BaseException):
        raise error
    return Evaluation(job.plan.scores, None, seconds)


def _packed(indices: NDArray[np.int64]) -> bytes:
    # Low bytes first, then all higher ones, which are alike: it is compressed on its way.
    return indices.astype("<u4").view(np.uint8).reshape(-1, 4).T.tobytes()


def _unpacked(body: bytes) -> NDArray[np.int64]:
    parts = np.frombuffer(body, dtype=np.uint8).reshape(4, -1).T
    return np.ascontiguousarray(parts).view("<u4").ravel().astype(np.int64)


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
        indices = _unpacked(body)
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
