"""Many runs at once: worker processes that bring one pool after another to its budget.

A worker has one thread and its own pools, so that nothing but messages of a few bytes goes through
the pipes. Whatever ends a worker, its pools open and go on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from genepool.errors import GenepoolError
from genepool.run.executors.interrupt import interruptible
from genepool.run.executors.process import death, ignore_ctrl_c, starting_workers
from genepool.run.executors.remote import unforeseen
from genepool.run.progress import Progress, Silence, StepReport
from genepool.run.run_file import Given, Run, resolve

_POLL = 0.2
_REPORT_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Job:
    """A run to be brought to its budget: which strategy, which seed, and the whole run file."""

    label: str
    seed: int
    run: Run

    @property
    def pool(self) -> Path:
        """Where it lives."""
        return self.run.resolve(self.run.config.pool)

    @property
    def told(self) -> tuple[str, ...]:
        """What is good to know of its strategy before any child is made."""
        return self.run.strategy.told(len(self.run.seeds), self.run.config.budget)


@dataclass(slots=True)
class _Hand:
    process: Any
    pipe: Connection


def run_grid(
    jobs: Sequence[Job], workers: int, progress: Progress, cache: Path | None = None
) -> None:
    """Bring all pools to their budgets.

    Args:
        jobs: with different pools. They start seed by seed, so that all strategies go on alike.
        workers: processes, at least 1.
        progress: is told about all runs together.
        cache: see `run.evolve.evolve`; one for all runs.

    Raises:
        GenepoolError: a run failed (the message says which), or a worker died.
        KeyboardInterrupt: Ctrl-C, after the children being scored were finished and written; on a
            second one, at once.
    """
    order = sorted(range(len(jobs)), key=lambda number: jobs[number].seed)
    total = _Total(jobs, progress)
    hands: list[_Hand] = []
    with interruptible() as interrupted:
        try:
            waiting = iter(order)
            for number in range(workers):
                hands.append(_hire(jobs, number, cache))
                _give(hands[-1], next(waiting, None))
            busy = {hand.pipe: hand for hand in hands}
            while busy:
                ready = wait(list(busy), timeout=_POLL)
                if interrupted.is_set():
                    raise KeyboardInterrupt
                for pipe in ready:
                    hand = next(hand for hand in hands if hand.pipe is pipe)
                    message = _receive(hand)
                    number = int(message["job"])
                    if message["kind"] == "step":
                        total.note(number, StepReport(**message["report"]))
                        continue
                    if message["kind"] == "notice":
                        total.notice(message["text"])
                        continue
                    if message["kind"] == "failed":
                        job = jobs[number]
                        raise GenepoolError(
                            f"{job.label}, random seed {job.seed}: {message['text']}"
                        )
                    total.close(number)
                    following = next(waiting, None)
                    _give(hand, following)
                    if following is None:
                        del busy[hand.pipe]
        finally:
            _end(hands)


class _Total:
    """All runs as if they were one."""

    def __init__(self, jobs: Sequence[Job], progress: Progress) -> None:
        self._budgets = [job.run.config.budget for job in jobs]
        self._reports: dict[int, StepReport] = {}
        self._done = [0] * len(jobs)
        self._progress = progress
        # With the strategy's name, it was told before they began.
        self._noticed = {text for job in jobs for text in job.told}
        self._started = time.perf_counter()

    def notice(self, text: str) -> None:
        if text not in self._noticed:
            self._noticed.add(text)
            self._progress.notice(text)

    def note(self, number: int, report: StepReport) -> None:
        self._reports[number] = report
        self._done[number] = report.evaluations
        self._tell()

    def close(self, number: int) -> None:
        self._done[number] = self._budgets[number]
        self._tell()

    def _tell(self) -> None:
        reports = self._reports.values()
        self._progress.step(
            StepReport(
                evaluations=sum(self._done),
                budget=sum(self._budgets),
                session=sum(report.session for report in reports),
                accepted=sum(report.accepted for report in reports),
                examples=sum(report.examples for report in reports),
                examples_total=sum(report.examples_total for report in reports),
                champion=max((report.champion for report in reports), default=0.0),
                held_out=None,
                seconds=time.perf_counter() - self._started,
            )
        )


# The parent's side


def _hire(jobs: Sequence[Job], number: int, cache: Path | None) -> _Hand:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_work,
        args=(theirs, [job.run.given for job in jobs], cache),
        name=f"genepool-compare-{number}",
        daemon=True,
    )
    with starting_workers(1):
        process.start()
    theirs.close()
    return _Hand(process, ours)


def _give(hand: _Hand, number: int | None) -> None:
    text = "stop" if number is None else str(number)
    # One that has died is noticed when it is listened to.
    with contextlib.suppress(OSError):
        hand.pipe.send_bytes(text.encode())


def _receive(hand: _Hand) -> dict[str, Any]:
    try:
        return json.loads(hand.pipe.recv_bytes())
    except (EOFError, OSError):
        hand.process.join(timeout=5)
        raise death(hand.process) from None


def _end(hands: Sequence[_Hand]) -> None:
    """Let workers finish the child that they are at; a second Ctrl-C does not wait for it."""
    try:
        for hand in hands:
            _give(hand, None)
        for hand in hands:
            # A worker that waits for room in the pipe would never end.
            while hand.process.is_alive():
                with contextlib.suppress(EOFError, OSError):
                    if hand.pipe.poll(_POLL):
                        hand.pipe.recv_bytes()
                        continue
                hand.process.join(timeout=_POLL)
    finally:
        for hand in hands:
            hand.process.kill()
            hand.process.join(timeout=5)
            hand.pipe.close()


# The worker's side


class _Reporter(Silence):
    """Passes progress on, and ends the run when the parent says so.

    Every run of a grid has the same seeds: what their scores are would be said each time.
    """

    def __init__(self, pipe: Connection, stopped: threading.Event) -> None:
        self._pipe = pipe
        self._stopped = stopped
        self._due = 0.0
        self._lock = threading.Lock()
        self.job = -1

    def stage(self, text: str) -> None:
        if self._stopped.is_set():
            raise KeyboardInterrupt

    def notice(self, text: str) -> None:
        self.say("notice", text=text)

    def step(self, report: StepReport) -> None:
        if self._stopped.is_set():
            raise KeyboardInterrupt
        now = time.monotonic()
        if now >= self._due or report.evaluations == report.budget:
            self._due = now + _REPORT_SECONDS
            self.say("step", report=asdict(report))

    def say(self, kind: str, *, report: dict[str, Any] | None = None, text: str = "") -> None:
        message = {"kind": kind, "job": self.job, "report": report, "text": text}
        with self._lock:
            self._pipe.send_bytes(json.dumps(message).encode())


class _Log(logging.Handler):
    """Passes on what tasks log, which every run would print."""

    def __init__(self, reporter: _Reporter) -> None:
        super().__init__()
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        # A parent that has died is noticed elsewhere.
        with contextlib.suppress(OSError):
            self._reporter.say("notice", text=record.getMessage())


def _work(pipe: Connection, runs: list[Given], cache: Path | None) -> None:
    """What a worker does until it is told to stop."""
    ignore_ctrl_c()
    from genepool.run.evolve import evolve

    stopped = threading.Event()
    jobs: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, stopped, jobs), daemon=True).start()
    reporter = _Reporter(pipe, stopped)
    log = logging.getLogger("genepool")
    log.addHandler(_Log(reporter))
    log.propagate = False
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError, ConnectionResetError):
        while (number := jobs.get()) is not None:
            reporter.job = number
            try:
                evolve(resolve(runs[number]), progress=reporter, threads=1, cache=cache)
            except GenepoolError as error:
                reporter.say("failed", text=str(error))
            except (KeyboardInterrupt, BrokenPipeError, ConnectionResetError):
                raise
            except BaseException as error:
                reporter.say("failed", text=unforeseen(error))
            else:
                reporter.say("done")


def _listen(
    pipe: Connection, stopped: threading.Event, jobs: queue.SimpleQueue[int | None]
) -> None:
    """Take jobs from the parent. If it has died, die: the same command may start again at once."""
    try:
        while (text := pipe.recv_bytes()) != b"stop":
            jobs.put(int(text))
    except (EOFError, OSError):
        os._exit(1)
    stopped.set()
    jobs.put(None)
