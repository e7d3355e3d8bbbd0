"""Jobs whose workers are lost, or broken: asked again elsewhere, with the same result, or told."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from genepool.core.early_stop.evaluation_plan import FullPlan
from genepool.core.genome import seed_recipe
from genepool.errors import EvaluationError, GenepoolError
from genepool.run.executors.executor import SerialExecutor
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


def executor(run: Run, fails: Fails, workers: int = 2, losses: int = 3) -> RemoteExecutor:
    def hire(number: int) -> Worker:
        return Near(run, number, fails)

    return RemoteExecutor(hire, workers, losses=losses, confirm=True)


def test_the_contract_holds_while_workers_are_lost(tmp_path: Path) -> None:
    draws, lock, count = random.Random(4), threading.Lock(), [0]

    def fails(message: bytes, number: int) -> None:
        with lock:
            # Before a load, and between the blocks of one job.
            if draws.random() < 0.15:
                count[0] += 1
                raise lost()

    check_executor(lambda run: executor(run, fails, losses=1000), tmp_path)
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
