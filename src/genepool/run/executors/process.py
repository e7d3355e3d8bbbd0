"""The process executor: worker processes that hold a live model each.

A worker that dies ends the run with a clear message and nothing lost: what it was working on is
done again on resuming, with the same result. A worker whose driver dies ends too, at once, so that
it does not hold a device that nobody will ask anything of.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from types import FrameType, MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.checkpoints.files.digests import Stamps, require_stamps
from genepool.errors import CheckpointError, GenepoolError
from genepool.messages import at
from genepool.run.executors.devices import on_device
from genepool.run.executors.installation import require_same_modules
from genepool.run.executors.remote import THREAD_VARIABLES, Lost, RemoteExecutor, Sample, answer
from genepool.run.executors.restart import RESTARTED
from genepool.run.executors.scorer import Scorer
from genepool.run.run_file import Given, Run, resolve
from genepool.threads import available_threads

_TO_END = {signal.SIGINT, signal.SIGTERM}


class ProcessExecutor(RemoteExecutor):
    """Scores in worker processes on this machine."""

    def __init__(
        self,
        run: Run,
        workers: int,
        seeds: Stamps | None = None,
        asked: Callable[[int, int], None] | None = None,
        blocks: NDArray[np.int64] | None = None,
        *,
        devices: Sequence[str] = (),
        as_exported: bool = True,
        modules: Mapping[str, str] = MappingProxyType({}),
        tasks: Mapping[str, str] = MappingProxyType({}),
        sample: Sample | None = None,
        interrupted: threading.Event | None = None,
    ) -> None:
        """Start the workers; each builds its own live model.

        Args:
            run: the run file, which each worker opens again.
            workers: number of processes, at least 1.
            seeds: the files of the seeds that each worker must find; None: whatever is there.
            asked, blocks, sample, interrupted: as `RemoteExecutor` takes them.
            devices: of each worker's model; empty: all have the run file's.
            as_exported: as `Scorer` takes it.
            modules: the user's modules that each worker must find, as `own_modules` gives them.
            tasks: digests of the tasks and guards that each worker must find, by name.
        """
        self._workers: list[_Process] = []
        context = multiprocessing.get_context("spawn")
        threads = max(1, available_threads() // workers)
        with starting_workers(threads):
            for number in range(workers):
                ours, theirs = context.Pipe()
                given = on_device(run.given, devices[number]) if devices else run.given
                process = context.Process(
                    target=_work,
                    args=(theirs, given, threads, seeds, as_exported, dict(modules), dict(tasks)),
                    name=f"genepool-worker-{number}",
                    daemon=True,
                )
                process.start()
                theirs.close()
                self._workers.append(_Process(process, ours, seeds))
        terms: dict[str, Any] = {"sample": sample, "interrupted": interrupted}
        super().__init__(self._workers.__getitem__, workers, asked, blocks, **terms)

    def close(self) -> None:
        """End the workers."""
        super().close()
        for worker in self._workers:
            worker.process.kill()
            worker.connection.close()
        for worker in self._workers:
            worker.process.join(timeout=5)


@dataclass(frozen=True, slots=True)
class _Process:
    """A worker process and the pipe to it."""

    process: Any
    connection: Connection
    seeds: Stamps | None

    @property
    def place(self) -> str:
        """Its name and number."""
        return f"{self.process.name} (pid {self.process.pid})"

    def ask(self, message: bytes) -> bytes:
        """Wait for its answer; it is lost when it dies."""
        try:
            self.connection.send_bytes(message)
            return self.connection.recv_bytes()
        except (EOFError, OSError):
            self.process.join(timeout=5)
            raise Lost(death(self.process, self.seeds)) from None


def _work(
    connection: Connection,
    given: Given,
    threads: int,
    seeds: Stamps | None,
    as_exported: bool,
    modules: Mapping[str, str],
    tasks: Mapping[str, str],
) -> None:
    """What a worker process does until the pipe closes."""
    gc.set_threshold(10_000)  # As in the command: importing what models need is faster so.
    ignore_ctrl_c()
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    pid = os.getpid()
    from genepool.run.inputs import open_inputs
    from genepool.run.pins import require_same_tasks

    @cache
    def scorer() -> Scorer:
        inputs = open_inputs(resolve(given))
        if seeds is not None:
            require_stamps(inputs.checkpoints, seeds)
        require_same_tasks(inputs, tasks)
        built = Scorer(inputs, threads, as_exported=as_exported)
        require_same_modules(modules)
        return built

    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            reply = answer(scorer, connection.recv_bytes())
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


def ignore_ctrl_c() -> None:
    """For a worker: Ctrl-C reaches the whole process group, and what batch systems send (SIGTERM)
    may do so too; the parent decides when workers end."""
    own = os.getpid()

    def ignore(number: int, _: FrameType | None) -> None:
        if os.getpid() != own:
            # A process that the user's code has forked, and may end in this way.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, ignore)
    if os.name == "posix":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _TO_END)


@contextlib.contextmanager
def starting_workers(threads: int) -> Generator[None, None, None]:
    """Workers that are started inside share the cores, and sets have one order in all of them.

    Ctrl-C and SIGTERM are kept from those that could not ignore them yet.
    """
    wanted = {name: str(threads) for name in THREAD_VARIABLES}
    wanted["PYTHONHASHSEED"] = os.environ.get("PYTHONHASHSEED") or "0"
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    if os.name == "posix":
        # Python's own helper process, which comes with the first worker, would let them through.
        resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _TO_END)
    try:
        yield
    finally:
        if os.name == "posix":
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
