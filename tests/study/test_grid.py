"""Many runs at once: what all of them have to say is told once."""

from __future__ import annotations

import logging
import multiprocessing
import threading
from pathlib import Path

import pytest

from genepool.run.progress import Silence
from genepool.study import grid
from genepool.study.compare import compare
from tests.runs import slow_run


class Watcher(Silence):
    def __init__(self) -> None:
        self.told: list[str] = []

    def notice(self, text: str) -> None:
        self.told.append(text)


def test_a_notice_is_told_once() -> None:
    watcher = Watcher()
    total = grid._Total([], watcher)
    for text in ("a", "b", "a"):
        total.notice(text)
    assert watcher.told == ["a", "b"]


def test_a_worker_passes_on_what_tasks_log() -> None:
    ours, theirs = multiprocessing.Pipe()
    log = logging.Logger("genepool.lm_eval")
    log.addHandler(grid._Log(grid._Reporter(theirs, threading.Event())))
    log.warning("%s: %d of 2 prompts", "sums", 1)
    hand = grid._Hand(None, ours)
    told = grid._receive(hand)
    assert (told["kind"], told["text"]) == ("notice", "sums: 1 of 2 prompts")
    ours.close()
    log.warning("the parent is dead")


@pytest.mark.slow
def test_what_tasks_log_is_told_once_for_all_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, watcher = slow_run(tmp_path), Watcher()
    (module,) = tmp_path.glob("slow_*.py")
    logging_ = 'import logging\nlogging.getLogger("genepool.lm_eval").warning("of the task")\n'
    module.write_text(logging_ + module.read_text())
    compare(file, tmp_path / "out", strategies=["ga"], runs=2, budget=1, progress=watcher)
    assert watcher.told == ["of the task"]
    assert "of the task" not in capfd.readouterr().err
