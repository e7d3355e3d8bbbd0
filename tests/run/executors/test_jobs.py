"""Jobs that workers share: in whatever order things happen, each is answered once, and alike."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genepool.core.early_stop.evaluation_plan import FullPlan
from genepool.core.genome import seed_recipe
from genepool.errors import EvaluationError, GenepoolError
from genepool.run.executors import jobs as module
from genepool.run.executors.executor import Evaluation
from genepool.run.executors.jobs import Job, Jobs, Question

_SCORES = np.linspace(0, 1, 12, dtype=np.float32)
_NEVER, _AT_ONCE = (math.inf, math.inf), (0.0, 0.0)


class _Blocks:
    """A plan that asks blocks of examples of these sizes, one after another."""

    def __init__(self, sizes: list[int]) -> None:
        self.scores = np.full(_SCORES.size, np.nan, dtype=np.float32)
        self.left = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1]) if sizes else []

    @property
    def done(self) -> bool:
        return not self.left

    def next(self) -> NDArray[np.int64]:
        return self.left[0]

    def record(self, indices: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
        assert indices is self.left.pop(0)
        self.scores[indices] = scores


def _job(step: int, sizes: list[int]) -> Job:
    return Job(step, seed_recipe(4, 0, 2), _Blocks(sizes))


class _Workers:
    """Workers that arrive, answer and are lost; and what always holds of what `Jobs` says to it."""

    def __init__(self, jobs: list[Job], unfit: set[int], *, twice: bool) -> None:
        self.jobs, self.unfit, self.twice, self.now = jobs, unfit, twice, 0.0
        self.table = Jobs(np.arange(_SCORES.size) // 2, losses=10**6, confirm=True)
        for job in jobs:
            self.table.add(job)
        self.present: dict[int, Question | None] = {}
        self.loaded: dict[int, Job] = {}
        self.asked, self.lost = Counter[Question](), Counter[Question]()

    def move(self, worker: int, *, lost: bool = False) -> None:
        """What happens next to one worker."""
        self.now += 1
        before = [job.answer for job in self.jobs]
        if worker not in self.present:
            self.table.arrive(worker, f"machine {worker}")
            self.present[worker] = None
        elif (question := self.present[worker]) is None:
            self._ask(worker)
        elif lost:
            assert self.table.lost(worker, question, GenepoolError("lost")) is None
            self.lost[question] += 1
            self.loaded.pop(worker, None)
            del self.present[worker]
        else:
            wrong = self.unfit.intersection(question.indices.tolist())
            scores = _SCORES[question.indices].tobytes()
            reply = EvaluationError(f"example {min(wrong)}") if wrong else scores
            self.table.answered(worker, question, reply, self.now)
            self.present[worker] = None
        assert all(
            answer is None or answer is job.answer
            for job, answer in zip(self.jobs, before, strict=True)
        )

    def _ask(self, worker: int) -> None:
        alone = len(self.present) == 1
        own = [
            job for job in self.jobs if alone or job.refused is None or job.refused.worker != worker
        ]
        waiting = [job for job in own if job.answer is None and job.waits]
        loaded = self.loaded.get(worker)
        question = self.table.next(worker, self.now, loaded)
        if question is None:
            assert not waiting
            return
        assert loaded not in waiting or question.job is loaded
        assert question.job in own and question.job.answer is None
        assert self.twice or question not in self.present.values()
        self.present[worker], self.loaded[worker] = question, question.job
        self.asked[question] += 1


@pytest.mark.parametrize(
    ("helped", "twice"), [(_NEVER, _NEVER), (_AT_ONCE, _NEVER), (_AT_ONCE, _AT_ONCE)]
)
def test_every_job_is_answered_once(
    monkeypatch: pytest.MonkeyPatch, helped: tuple[float, float], twice: tuple[float, float]
) -> None:
    monkeypatch.setattr(module, "_HELPED", helped)
    monkeypatch.setattr(module, "_TWICE", twice)

    @settings(max_examples=50)
    @given(
        plans=st.lists(st.lists(st.integers(1, 6), max_size=2), min_size=1, max_size=4),
        unfit=st.sets(st.integers(0, 11), max_size=2),
        count=st.integers(1, 3),
        moves=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=60),
    )
    def run(
        plans: list[list[int]], unfit: set[int], count: int, moves: list[tuple[int, bool]]
    ) -> None:
        jobs = [_job(step, sizes) for step, sizes in enumerate(plans)]
        workers = _Workers(jobs, unfit, twice=twice == _AT_ONCE)
        for worker, lost in moves:
            workers.move(worker % count, lost=lost)
        for number in range(500):
            workers.move(number % count)
        for job, sizes in zip(jobs, plans, strict=True):
            asked = _Blocks(sizes).left
            wrong = [min(found) for block in asked if (found := unfit.intersection(block.tolist()))]
            assert isinstance(job.answer, Evaluation)
            # Nor is an example that was asked elsewhere again told twice.
            assert job.known <= sum(sizes)
            assert job.answer.error == (f"example {wrong[0]}" if wrong else None)
            if not wrong:
                expected = np.where(np.arange(12) < sum(sizes), _SCORES, np.float32(np.nan))
                assert job.answer.scores is not None
                assert job.answer.scores.tobytes() == expected.tobytes()
                # Nobody was asked in vain but those who were lost.
                mine = [question for question in workers.asked if question.job is job]
                assert workers.twice or all(
                    workers.asked[one] == 1 + workers.lost[one] for one in mine
                )
        began = [job.began for job in jobs]
        assert began == sorted(began)

    run()


def _shared(monkeypatch: pytest.MonkeyPatch, *, losses: int = 3) -> tuple[Jobs, Job]:
    """A job that workers 0 and 1 are at, of five questions; one before it is over."""
    monkeypatch.setattr(module, "_HELPED", _AT_ONCE)
    monkeypatch.setattr(module, "_TWICE", _NEVER)
    table, job = Jobs(np.arange(12) // 2, losses=losses, confirm=True), _job(1, [10])
    for worker in (0, 1):
        table.arrive(worker, f"machine {worker}")
    table.add(_job(0, []))
    first = table.next(0, 0.0)
    assert first is not None
    table.answered(0, first, b"", 1.0)
    table.add(job)
    return table, job


def test_of_two_who_are_at_a_job_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    table, job = _shared(monkeypatch)
    held = [table.next(worker, 2.0 + worker) for worker in (0, 1)]
    other = _job(2, [1])
    table.add(other)
    for worker, question in enumerate(held):
        assert question is not None and question.job is job
        table.answered(worker, question, _SCORES[question.indices].tobytes(), 4.0)
        held[worker] = table.next(worker, 5.0, job)
    assert [question and question.job for question in held] == [other, job]


def test_a_job_that_loses_too_many_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    table, job = _shared(monkeypatch, losses=2)
    held = [table.next(worker, 2.0 + worker) for worker in (0, 1)]
    error = GenepoolError("gone")
    assert held[0] is not None and held[1] is not None
    assert table.lost(0, held[0], error) is None
    assert "2 workers were lost" in str(table.lost(1, held[1], error))
    assert job.waits and job.answer is None


def test_an_error_ends_its_job_but_of_who_was_not_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second worker without memory ended a run over a question that was answered already."""
    table, job = _shared(monkeypatch)
    monkeypatch.setattr(module, "_TWICE", _AT_ONCE)
    held: list[Question] = []
    for number in range(6):
        table.arrive(number, f"machine {number}")
        question = table.next(number, 2.0 + number)
        assert question is not None and question.job is job
        held.append(question)
    assert held[0] is held[5]
    table.answered(0, held[0], _SCORES[held[0].indices].tobytes(), 10.0)
    error = GenepoolError("no memory left")
    table.answered(5, held[5], error, 11.0)
    assert job.answer is None
    # It is met again where an answer is needed.
    table.answered(1, held[1], error, 12.0)
    assert job.answer is error
    table.answered(2, held[2], GenepoolError("and another"), 13.0)
    table.answered(3, held[3], b"", 14.0)
    assert job.answer is error and table.next(4, 15.0) is None


def test_a_shared_job_took_the_seconds_of_all_who_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed that all workers helped with told that a child takes a part of its time."""
    table, job = _shared(monkeypatch)
    table.arrive(2, "machine 2")
    now = 10.0
    while job.answer is None:
        asked = [(w, question) for w in range(3) if (question := table.next(w, now, job))]
        now += 2.0
        for worker, question in asked:
            table.answered(worker, question, _SCORES[question.indices].tobytes(), now)
    assert now <= 16.0
    # Five questions of two seconds each.
    assert isinstance(job.answer, Evaluation) and job.answer.seconds == 10.0


def test_who_was_not_first_spends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    table, _ = _shared(monkeypatch)
    monkeypatch.setattr(module, "_TWICE", _AT_ONCE)
    job = _job(2, [2])
    table.add(job)
    for _ in range(5):
        question = table.next(0, 1.0)
        assert question is not None and question.job is not job
        table.answered(0, question, _SCORES[question.indices].tobytes(), 1.0)
    one, two = table.next(0, 2.0), table.next(1, 3.0)
    assert one is two and one is not None
    table.answered(1, one, _SCORES[one.indices].tobytes(), 4.0)
    assert isinstance(job.answer, Evaluation) and job.answer.seconds == 1.0


def test_what_a_plan_knew_before_counts_as_known() -> None:
    plan = FullPlan(np.array([0.0, np.nan, 1.0, np.nan], dtype=np.float32))
    job, table = Job(1, seed_recipe(4, 0, 2), plan), Jobs(None, losses=3, confirm=True)
    assert job.known == 2
    table.add(job)
    for worker in (0, 1):
        table.arrive(worker, f"machine {worker}")
        question = table.next(worker, 0.0)
        assert question is not None
        reply = EvaluationError("broken") if worker == 0 else np.ones(2, dtype="<f4").tobytes()
        table.answered(worker, question, reply, 1.0)
        # Asked elsewhere again, it is not told twice.
        assert job.known == (2 if worker == 0 else 4)


def test_no_further_child_is_begun_once_the_run_is_interrupted() -> None:
    table = Jobs(np.arange(12) // 2, losses=3, confirm=True)
    begun, waiting, again = _job(1, [4]), _job(2, [4]), _job(1, [2])
    begun.spared = waiting.spared = True
    for worker, job in enumerate((begun, waiting)):
        table.arrive(worker, f"machine {worker}")
        table.add(job)
    first = table.next(0, 0.0)
    assert first is not None and first.job is begun
    assert table.next(1, 1.0, interrupted=True) is None
    # What has been begun is finished, also where its worker is lost, and asked on where need be.
    table.lost(0, first, GenepoolError("lost"))
    for job, number in ((begun, 2), (again, 1)):
        if job is again:
            table.add(again)
        for _ in range(number):
            question = table.next(1, 2.0, interrupted=True)
            assert question is not None and question.job is job
            table.answered(1, question, _SCORES[question.indices].tobytes(), 3.0)
        assert isinstance(job.answer, Evaluation)
    assert table.next(1, 4.0, interrupted=True) is None and waiting.began == math.inf
