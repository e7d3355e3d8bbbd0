"""How many threads to use, and sharing out a list of items among them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from genepool.errors import InputError

# Called with the fraction done, in (0, 1], one call at a time.
Progress = Callable[[float], None]


def available_threads() -> int:
    """Cores that this process may run on."""
    if sys.platform == "linux":
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


def thread_count(threads: int | None) -> int:
    """A user's number of threads; None means all available cores.

    Raises:
        InputError: less than 1.
    """
    if threads is None:
        return available_threads()
    if threads < 1:
        raise InputError(f"threads: expected at least 1; got {threads}")
    return threads


class Crew:
    """Threads that wait for work, of which the caller is one.

    Args:
        threads: their number, 1 or more; the others start when they are first needed.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None

    def run(self, items: int, work: Callable[[int, int], None]) -> None:
        """Call `work(worker, item)` once for each item in 0..items-1, in order of starting.

        Items are taken one by one, so that a thread that is held up does not hold up the rest.
        The first exception stops the others after their current item and is raised here; so is an
        interrupt, after all threads have let go.
        """
        if self.threads == 1 or items == 1:
            for item in range(items):
                work(0, item)
            return
        lock = threading.Lock()
        upcoming = iter(range(items))
        stopped = False

        def labour(worker: int) -> None:
            nonlocal stopped
            try:
                while True:
                    with lock:
                        item = None if stopped else next(upcoming, None)
                    if item is None:
                        return
                    work(worker, item)
            except BaseException:
                stopped = True
                raise

        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads - 1, thread_name_prefix="genepool")
        helpers = min(self.threads, items) - 1
        futures: list[Future[None]] = []
        try:
            futures.extend(self._pool.submit(labour, worker) for worker in range(1, helpers + 1))
            labour(0)
        finally:
            stopped = True
            errors = [future.exception() for future in futures]
        for error in errors:
            if error is not None:
                raise error
