"""The process executor: worker processes that hold a live model each.

A worker opens the seeds itself and gets genomes of a few kilobytes; no weights travel. A thread per
worker asks by the plan over a pipe. A worker that dies ends the run with a clear message and
nothing lost: what it was working on is done again on resuming, with the same result. A worker whose
driver dies ends too, at once, so that it does not hold a device that nobody will ask anything of.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.checkpoints.files.digests import Stamps, require_stamps
from genepool.core.early_stop.evaluation_plan import EvaluationPlan, FullPlan
from genepool.core.genome import Genome, decode, encode
from genepool.errors import CheckpointError, EvaluationError, GenepoolError
from genepool.messages import at, cause
from genepool.pool.records import Measure
from genepool.run.executors.executor import Evaluation
from genepool.run.executors.restart import RESTARTED
from genepool.run.executors.scorer import Part, in_parts
from genepool.run.run_file import Given, Run, resolve
from genepool.threads import available_threads

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_POLL = 0.2
_KINDS: dict[Part, bytes] = {"train": b"scor", "held-out": b"held", "guard": b"grds"}
_PARTS: dict[bytes, Part] = {kind: part for part, kind in _KINDS.items()}


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
    answer: Evaluation | BaseException | None = None


class ProcessExecutor:
    """Scores in worker processes on this machine."""

    def __init__(
        self,
        run: Run,
        workers: int,
        seeds: Stamps | None = None,
        asked: Callable[[int, int], None] | None = None,
        blocks: NDArray[np.int64] | None = None,
        *,
        as_exported: bool = True,
    ) -> None:
        """Start the workers; each builds its own live model.

        Args:
            run: the run file, which each worker opens again.
            workers: number of processes, at least 1.
            seeds: the files of the seeds that each worker must find; None: whatever is there.
            asked: told now and then how many examples were asked, of how many, of the model whose
                result is waited for.
            blocks: int64[N] of the examples, see `Examples`; a question is asked in parts of these.
            as_exported: as `Scorer` takes it.
        """
        self._asked = asked
        self._blocks = blocks
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._jobs: dict[int, _Job] = {}
        self._ready = threading.Condition()
        self._failed: BaseException | None = None
        self._closing = False
        self._seeds = seeds
        self._workers: list[tuple[Any, Connection]] = []
        context = multiprocessing.get_context("spawn")
        threads = max(1, available_threads() // workers)
        with shared_cores(threads):
            for number in range(workers):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_worker,
                    args=(theirs, run.given, threads, seeds, as_exported),
                    name=f"genepool-worker-{number}",
                    daemon=True,
                )
                process.start()
                theirs.close()
                self._workers.append((process, ours))
        self._threads = [
            threading.Thread(target=self._serve, args=worker, daemon=True)
            for worker in self._workers
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, step: int, genome: Genome, plan: EvaluationPlan) -> None:
        """Queue a job for the next free worker."""
        job = self._jobs[step] = _Job(step, genome, plan)
        self._queue.put(job)

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
        self._queue.put(job)
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

    def _request(self, genome: Genome, request: bytes) -> bytes:
        job = _Job(-1, genome, FullPlan(np.zeros(0, dtype=np.float32)), request=request)
        self._queue.put(job)
        answer = self._wait(job)
        if answer.scores is None:
            raise EvaluationError(answer.error or "the model could not be asked")
        return job.reply

    def close(self) -> None:
        """End the workers."""
        self._closing = True
        for process, connection in self._workers:
            self._queue.put(None)
            process.terminate()
            connection.close()
        for process, _ in self._workers:
            process.join(timeout=5)

    def _wait(self, job: _Job, asked: Callable[[int, int], None] | None = None) -> Evaluation:
        told = 0
        while job.answer is None and self._failed is None:
            with self._ready:
                # Waking up now and then lets Ctrl-C through.
                if job.answer is None and self._failed is None:
                    self._ready.wait(_POLL)
            if asked is not None and job.known > told:
                told = job.known
                asked(told, job.plan.scores.size)
        if isinstance(job.answer, Evaluation):
            return job.answer
        raise job.answer or self._failed or RuntimeError("a job ended without an answer")

    def _serve(self, process: Any, connection: Connection) -> None:
        while (job := self._queue.get()) is not None:
            job.started = True
            try:
                answer: Evaluation | BaseException = _conduct(job, connection, self._blocks)
            except (EOFError, OSError):
                if self._closing:
                    return
                process.join(timeout=5)
                self._fail(death(process, self._seeds))
                return
            except BaseException as error:
                answer = error
            with self._ready:
                job.answer = answer
                self._ready.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._ready:
            self._failed = error
            self._ready.notify_all()


def _conduct(job: _Job, connection: Connection, blocks: NDArray[np.int64] | None) -> Evaluation:
    """Ask a worker what a job's plan wants to know."""
    started = time.perf_counter()
    error = _ask(connection, b"load" + encode(job.genome))
    while isinstance(error, bytes) and not job.plan.done:
        indices = job.plan.next()
        scores = np.empty(indices.size, dtype=np.float32)
        for part in in_parts(indices, blocks if job.part == "train" else None):
            error = _ask(connection, _KINDS[job.part] + indices[part].astype("<i8").tobytes())
            if not isinstance(error, bytes):
                break
            scores[part] = np.frombuffer(error, dtype="<f4")
            job.known += part.size
        else:
            job.plan.record(indices, scores)
    if isinstance(error, bytes) and job.request:
        error = _ask(connection, job.request)
        job.reply = error if isinstance(error, bytes) else b""
    seconds = time.perf_counter() - started
    if isinstance(error, EvaluationError):
        return Evaluation(None, str(error), seconds)
    if isinstance(error, BaseException):
        raise error
    return Evaluation(job.plan.scores, None, seconds)


def _ask(connection: Connection, message: bytes) -> bytes | BaseException:
    connection.send_bytes(message)
    reply = connection.recv_bytes()
    kind, body = reply[:4], reply[4:]
    if kind == b"fine":
        return body
    text = body.decode()
    return EvaluationError(text) if kind == b"eval" else GenepoolError(text)


def _worker(
    connection: Connection, given: Given, threads: int, seeds: Stamps | None, as_exported: bool
) -> None:
    """What a worker process does until the pipe closes."""
    # Ctrl-C reaches the whole process group; the driver decides when workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    pid = os.getpid()
    from genepool.run.executors.scorer import Scorer
    from genepool.run.inputs import open_inputs

    scorer: Scorer | None = None
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            message = connection.recv_bytes()
            kind, body = message[:4], message[4:]
            try:
                if scorer is None:
                    inputs = open_inputs(resolve(given))
                    if seeds is not None:
                        require_stamps(inputs.checkpoints, seeds)
                    scorer = Scorer(inputs, threads, as_exported=as_exported)
                if kind == b"load":
                    scorer.load(decode(body))
                    reply = b"fine"
                elif kind == b"meas":
                    reply = b"fine" + json.dumps(scorer.measures()).encode()
                elif kind in (b"draw", b"play"):
                    task, held_out, *indices = np.frombuffer(body, dtype="<i8").tolist()
                    asked = task, np.array(indices, dtype=np.int64)
                    if kind == b"play":
                        told = scorer.transcripts(*asked, held_out=bool(held_out))
                        reply = b"fine" + json.dumps(told).encode()
                    else:
                        drawn = scorer.pictures(*asked, held_out=bool(held_out))
                        shape = np.array(drawn.shape, dtype="<i8")
                        reply = b"fine" + shape.tobytes() + drawn.tobytes()
                else:
                    indices = np.frombuffer(body, dtype="<i8").astype(np.int64)
                    scores = scorer.score(indices, _PARTS[kind])
                    reply = b"fine" + scores.astype("<f4").tobytes()
            except EvaluationError as error:
                reply = b"eval" + _encoded(str(error))
            except GenepoolError as error:
                reply = b"fail" + _encoded(str(error))
            except BaseException as error:
                reply = b"fail" + _encoded(unforeseen(error))
            if os.getpid() != pid:
                os._exit(1)  # A function of the user's has forked: the pipe is its parent's.
            connection.send_bytes(reply)


def _end_with_the_driver() -> None:
    """Wait for the end of the process that started this one, and end as well.

    Whatever is being computed is cut off: nobody waits for it, and it may take hours.
    """
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)


def _encoded(text: str) -> bytes:
    # An error may quote anything, also halves of characters.
    return text.encode(errors="backslashreplace")


def unforeseen(error: BaseException) -> str:
    """What a worker says of an error that nobody meant: one line, not a traceback from each."""
    if os.environ.get("GENEPOOL_DEBUG"):
        traceback.print_exc()
    return f"{cause(error)} (in a worker process; GENEPOOL_DEBUG=1 shows where)"


def death(process: Any, seeds: Stamps | None = None) -> GenepoolError:
    """What to say of a worker process that ended on its own, having opened these files."""
    code = process.exitcode
    if code == RESTARTED:
        return GenepoolError(
            "every worker process imports the script that starts it, and this one would call "
            "genepool there again; put what it does below the line 'if __name__ == \"__main__\":'"
        )
    if code == -signal.SIGBUS:
        for place, stamp in (seeds or {}).items():
            with contextlib.suppress(OSError):
                if place.stat().st_size < stamp.size:
                    return CheckpointError(
                        f"{at(place)}: cut short while it was read; restore it and run again"
                    )
    how = f"exit code {code}"
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        how = f"signal {name}" + (", perhaps for lack of memory" if -code == 9 else "")
    return GenepoolError(
        f"{process.name} (pid {process.pid}) died ({how}); nothing recorded is lost: run the same "
        "command again to go on"
    )


@contextlib.contextmanager
def shared_cores(threads: int) -> Generator[None, None, None]:
    """Workers share the cores instead of fighting over them."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update({name: str(threads) for name in _THREAD_VARIABLES})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
