"""Jobs whose workers are lost, or broken: asked again elsewhere, with the same result, or told."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from genepool.core.early_stop.evaluation_plan import FullPlan
from genepool.core.genome import seed_recipe
from genepool.errors import EvaluationError, GenepoolError
from genepool.run.executors import jobs
from genepool.run.executors.executor import Evaluation, SerialExecutor
from genepool.run.executors.remote import Lost, RemoteExecutor, Worker, answer
from genepool.run.executors.scorer import Scorer
from genepool.run.inputs import open_inputs
from genepool.run.run_file import Run, load_run
from genepool.testing import check_executor
from tests.runs import write_run

Fails = Callable[[bytes, int], bytes | None]


class Near:
    """A worker with a live model of its own in this process; `fails` may answer instead of it."""

    def __init__(self, run: Run, number: int, fails: Fails) -> None:
        self.place = f"machine {number}"
        self._scorer = Scorer(open_inputs(run))
        self._number, self._fails = number, fails

    def ask(self, message: bytes) -> bytes:
        return self._fails(message, self._number) or answer(lambda: self._scorer, message)


def lost() -> Lost:
    return Lost(GenepoolError("machine: the worker was lost"))


def executor(
    run: Run, fails: Fails, workers: int = 2, losses: int = 3, blocks: int = 0
) -> RemoteExecutor:
    """Examples are in so many blocks; with none, a question is one part."""
    # Not in threads: some releases of Python 3.11 cannot parse in several at once (gh-106905), as
    # NumPy does to read a file.
    hired = [Near(run, number, fails) for number in range(workers)]
    size = open_inputs(run).examples.size
    parts = np.arange(size) * blocks // size if blocks else None
    return RemoteExecutor(hired.__getitem__, workers, blocks=parts, losses=losses, confirm=True)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle workers help at once, and ask what others are being asked."""
    monkeypatch.setattr(jobs, "_HELPED", (0.0, 0.0))
    monkeypatch.setattr(jobs, "_TWICE", (0.0, 0.0))


@pytest.mark.slow
@pytest.mark.parametrize("helping", [False, True])
def test_the_contract_holds_while_workers_are_lost(
    tmp_path: Path, request: pytest.FixtureRequest, helping: bool
) -> None:
    if helping:
        request.getfixturevalue("eager")
    draws, lock, count = random.Random(4), threading.Lock(), [0]

    def fails(message: bytes, number: int) -> None:
        with lock:
            # Before a load, and between the blocks of one job.
            if draws.random() < 0.15:
                count[0] += 1
                raise lost()

    workers, blocks = (4, 7) if helping else (2, 0)
    check_executor(lambda run: executor(run, fails, workers, 1000, blocks), tmp_path)
    assert count[0] > 10


def scored(run: Run, made: RemoteExecutor) -> list[float]:
    inputs = open_inputs(run)
    genome = seed_recipe(inputs.layout.axis.size, 1, 2)
    unknown = np.full(inputs.examples.size, np.nan, dtype=np.float32)
    try:
        made.submit(5, genome, FullPlan(unknown))
        found = made.result(5)
        again = SerialExecutor(Scorer(inputs)).score(genome, "train", np.arange(unknown.size))
        assert found.scores is not None
        assert found.scores.tobytes() == again.tobytes()
        return found.scores.tolist()
    finally:
        made.close()


def test_a_job_that_loses_its_workers_ends_the_run(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path))
    asked: list[int] = []

    def fails(message: bytes, number: int) -> None:
        if message[:4] == b"scor":
            asked.append(number)
            raise lost()

    with pytest.raises(GenepoolError, match="3 workers were lost one after another") as caught:
        scored(run, executor(run, fails))
    assert "\n" not in str(caught.value)
    assert len(asked) == 3


def test_a_job_that_loses_fewer_goes_on(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path))
    left = [lost(), lost()]

    def fails(message: bytes, number: int) -> None:
        if message[:4] == b"scor" and left:
            raise left.pop()

    assert len(scored(run, executor(run, fails))) > 0
    assert not left


def test_a_broken_machine_is_not_taken_for_a_broken_model(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path))

    def fails(message: bytes, number: int) -> bytes | None:
        return b"evalno memory left" if number == 0 and message[:4] == b"scor" else None

    made = executor(run, fails)
    genome = seed_recipe(open_inputs(run).layout.axis.size, 0, 2)
    try:
        # Some of these come to machine 0 first, unless it is never free.
        with pytest.raises(GenepoolError, match="machine 0: a model could not be scored") as told:
            for step in range(200):
                made.submit(step, genome, FullPlan(np.full(3, np.nan, dtype=np.float32)))
            for step in range(200):
                made.result(step)
    finally:
        made.close()
    assert not isinstance(told.value, EvaluationError)
    assert "no memory left" in str(told.value)


def test_a_model_that_no_machine_can_score_has_failed(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path))
    numbers: list[int] = []

    def fails(message: bytes, number: int) -> bytes | None:
        if message[:4] != b"scor":
            return None
        numbers.append(number)
        return b"evalnot a number"

    made = executor(run, fails)
    try:
        genome = seed_recipe(open_inputs(run).layout.axis.size, 0, 2)
        made.submit(1, genome, FullPlan(np.full(3, np.nan, dtype=np.float32)))
        found = made.result(1)
    finally:
        made.close()
    assert (found.scores, found.error) == (None, "not a number")
    assert len(numbers) == 2


def test_a_worker_that_cannot_be_had_ends_the_run(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path))

    def hire(number: int) -> Worker:
        raise GenepoolError("node 7: seed 'a' has another digest")

    with pytest.raises(GenepoolError, match="node 7"):
        scored(run, RemoteExecutor(hire, 2))


def test_after_an_interruption_no_child_is_begun(tmp_path: Path) -> None:
    """All that were in flight were, however many: hours, where a child takes its time."""
    run, interrupted, asked = load_run(write_run(tmp_path)), threading.Event(), threading.Event()

    def fails(message: bytes, number: int) -> None:
        if message[:4] == b"scor" and not asked.is_set():
            asked.set()
            interrupted.wait(60)

    inputs, hired = open_inputs(run), Near(run, 0, fails)
    made = RemoteExecutor([hired].__getitem__, 1, interrupted=interrupted)
    unknown = np.full(inputs.examples.size, np.nan, dtype=np.float32)
    genome = seed_recipe(inputs.layout.axis.size, 1, 2)
    try:
        for step in (1, 2, 3):
            made.submit(step, genome, FullPlan(unknown))
        assert asked.wait(60)
        interrupted.set()
        assert made.result(1).scores is not None
        assert made.pending(2) and made.pending(3)
        # More of a child that has been begun, and what is asked besides.
        made.submit(1, genome, FullPlan(unknown))
        assert made.result(1).scores is not None
        assert made.score(genome, "train", np.arange(3)).size == 3
        with pytest.raises(KeyboardInterrupt):
            made.result(2)
    finally:
        made.close()


# Idle workers help.


def submitted(run: Run, made: RemoteExecutor, steps: int) -> list[Evaluation]:
    """The same child so many times, one after another."""
    inputs = open_inputs(run)
    genome = seed_recipe(inputs.layout.axis.size, 1, 2)
    out: list[Evaluation] = []
    for step in range(steps):
        unknown = np.full(inputs.examples.size, np.nan, dtype=np.float32)
        made.submit(step, genome, FullPlan(unknown))
        out.append(made.result(step))
    return out


@pytest.mark.usefixtures("eager")
def test_a_worker_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    run, ended, hanging = load_run(write_run(tmp_path)), threading.Event(), threading.Event()

    def fails(message: bytes, number: int) -> None:
        if message[:4] == b"scor" and number == 0 and not hanging.is_set():
            hanging.set()
            ended.wait(60)

    made = executor(run, fails, workers=3)
    try:
        # Which worker comes first is chance; nobody is helped before the first answer.
        hanging.set()
        first = submitted(run, made, 1)[0]
        hanging.clear()
        found: list[Evaluation] = []
        while not hanging.is_set():
            found += submitted(run, made, 5)
        assert not ended.is_set()
        assert {one.scores.tobytes() for one in (first, *found) if one.scores is not None} == {
            first.scores.tobytes() if first.scores is not None else b""
        }
        assert all(one.error is None for one in found)
    finally:
        ended.set()
        made.close()


def test_a_slow_child_is_shared_and_every_part_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_HELPED", (0.0, 0.0))
    monkeypatch.setattr(jobs, "_TWICE", (1e9, 1e9))
    run = load_run(write_run(tmp_path))
    asked: list[tuple[int, bytes]] = []

    def fails(message: bytes, number: int) -> None:
        if message[:4] == b"scor":
            asked.append((number, message))
            time.sleep(0.05)

    made = executor(run, fails, workers=3, blocks=12)
    try:
        first, second = submitted(run, made, 2)
    finally:
        made.close()
    assert first.scores is not None and second.scores is not None
    assert first.scores.tobytes() == second.scores.tobytes()
    # Of the first child alone nobody knows yet how long one takes.
    assert len({number for number, _ in asked[:12]}) == 1
    assert len({number for number, _ in asked[12:]}) == 3
    assert len(asked) == 24 and len({message for _, message in asked}) == 12


@pytest.mark.usefixtures("eager")
def test_what_is_told_of_a_model_does_not_depend_on_who_was_first(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path))
    refusing, parts = threading.Event(), list[bytes]()

    def fails(message: bytes, number: int) -> bytes | None:
        if message[:4] != b"scor":
            return None
        if not refusing.is_set():
            parts.append(message)
            return None
        place = parts.index(message)
        if place < 3:
            time.sleep(0.1)
        return None if place < 2 else b"evalpart %d" % place

    made = executor(run, fails, workers=4, blocks=12)
    try:
        submitted(run, made, 1)
        assert len(parts) == 12
        refusing.set()
        found = submitted(run, made, 1)[0]
    finally:
        made.close()
    assert (found.scores, found.error) == (None, "part 2")


# Workers that score otherwise.


@pytest.mark.parametrize("way", ["other", "random", "cannot"])
def test_a_worker_that_scores_otherwise_ends_the_run(tmp_path: Path, way: str) -> None:
    run, draws = load_run(write_run(tmp_path)), random.Random(1)

    def fails(message: bytes, number: int) -> bytes | None:
        if number == 0 or message[:4] != b"scor":
            return None
        size = (len(message) - 4) // 4
        if way == "cannot":
            return b"evalnot there"
        value = draws.random() if way == "random" else 0.25
        return b"fine" + np.full(size, value, dtype="<f4").tobytes()

    ready, hired = threading.Event(), [Near(run, number, fails) for number in range(2)]

    def hire(number: int) -> Worker:
        if number:
            ready.wait(60)
        return hired[number]

    made = RemoteExecutor(hire, 2, sample=lambda scores: np.arange(5))
    try:
        submitted(run, made, 1)
        ready.set()
        until = time.monotonic() + 240
        if way == "random":
            # Nobody could tell who is right.
            submitted(run, made, 20)
            return
        expected = (
            "what machine 0 has scored cannot" if way == "cannot" else "scores otherwise than"
        )
        with pytest.raises(GenepoolError, match=f"machine 1: {expected}") as told:
            while time.monotonic() < until:
                submitted(run, made, 1)
        assert "\n" not in str(told.value)
    finally:
        made.close()


@pytest.mark.usefixtures("eager")
def test_a_worker_that_is_compared_while_others_answer_is_compared_again(tmp_path: Path) -> None:
    """It went on uncompared: what was found was told of a question that had its answer."""
    run = load_run(write_run(tmp_path))
    ready, comparing, answered = threading.Event(), threading.Event(), threading.Event()

    def fails(message: bytes, number: int) -> bytes | None:
        if number == 0:
            return None
        comparing.set()
        answered.wait(60)
        size = (len(message) - 4) // 4
        return (
            b"fine" + np.full(size, 0.25, dtype="<f4").tobytes() if message[:4] == b"scor" else None
        )

    hired = [Near(run, number, fails) for number in range(2)]

    def hire(number: int) -> Worker:
        if number:
            ready.wait(60)
        return hired[number]

    made = RemoteExecutor(hire, 2, sample=lambda scores: np.arange(5))
    try:
        submitted(run, made, 1)
        ready.set()
        while not comparing.is_set():
            submitted(run, made, 1)
        answered.set()
        with pytest.raises(GenepoolError, match="machine 1: scores otherwise than machine 0"):
            submitted(run, made, 1000)
    finally:
        made.close()
