"""Sharing out work: each item once, errors reach the caller, and nobody works after that."""

from __future__ import annotations

import os
import threading

import pytest

from genepool.threads import Crew, available_threads


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("items", [0, 1, 4, 1000])
def test_each_item_is_done_once(threads: int, items: int) -> None:
    crew = Crew(threads)
    for _ in range(3):
        done: list[tuple[int, int]] = []
        crew.run(items, lambda worker, item: done.append((worker, item)))  # noqa: B023
        assert sorted(item for _, item in done) == list(range(items))
        assert {worker for worker, _ in done} <= set(range(threads))


@pytest.mark.parametrize("culprit", [0, 7])
def test_an_error_is_raised_once_all_have_stopped(culprit: int) -> None:
    crew = Crew(3)
    started: set[int] = set()
    barrier = threading.Barrier(3)

    def work(_worker: int, item: int) -> None:
        started.add(item)
        if item < 3:
            barrier.wait(10)
        if item == culprit:
            raise KeyError(item)

    with pytest.raises(KeyError):
        crew.run(100_000, work)
    assert len(started) < 100_000
    crew.run(3, lambda _worker, _item: barrier.wait(10) and None)


def test_available_threads_is_what_this_process_may_use() -> None:
    assert 1 <= available_threads() <= (os.cpu_count() or 1)
