"""The executors keep the shipped contract, and the contract finds every promise broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genepool.errors import EvaluationError
from genepool.run.executors.executor import Evaluation, SerialExecutor
from genepool.run.executors.process import ProcessExecutor
from genepool.run.executors.scorer import Scorer
from genepool.run.inputs import open_inputs
from genepool.run.run_file import Run
from genepool.testing import check_executor


def serial(run: Run) -> SerialExecutor:
    return SerialExecutor(Scorer(open_inputs(run)))


def test_the_serial_executor_keeps_the_contract(tmp_path: Path) -> None:
    check_executor(serial, tmp_path)


@pytest.mark.slow
def test_the_process_executor_keeps_the_contract(tmp_path: Path) -> None:
    check_executor(lambda run: ProcessExecutor(run, 2), tmp_path)


class Good:
    """Keeps the contract; the rest each break one promise of it."""

    def __init__(self, run: Run) -> None:
        self.inner = serial(run)
        self.jobs: dict[int, tuple[Any, Any]] = {}
        self.closed = False

    def submit(self, step: int, genome: Any, questions: Any) -> None:
        self.jobs[step] = genome, questions
        self.inner.submit(step, genome, questions)

    def result(self, step: int) -> Any:
        return self.inner.result(step)

    def pending(self, step: int) -> Any:
        return self.inner.pending(step)

    def score(self, genome: Any, part: Any, indices: Any) -> Any:
        return self.inner.score(genome, part, indices)

    def measures(self, genome: Any) -> Any:
        return self.inner.measures(genome)

    def pictures(self, genome: Any, task: int, indices: Any, *, held_out: bool) -> Any:
        return self.inner.pictures(genome, task, indices, held_out=held_out)

    def transcripts(self, genome: Any, task: int, indices: Any, *, held_out: bool) -> Any:
        return self.inner.transcripts(genome, task, indices, held_out=held_out)

    def close(self) -> None:
        self.closed = True


def changed(answer: Evaluation, **changes: Any) -> Evaluation:
    return Evaluation(**{"scores": answer.scores, "error": answer.error, "seconds": 0.0, **changes})


class Rounded(Good):
    def result(self, step: int) -> Any:
        answer = self.inner.result(step)
        if answer.scores is None:
            return answer
        return changed(answer, scores=answer.scores.astype(np.float16).astype(np.float32))


class Wide(Good):
    def result(self, step: int) -> Any:
        answer = self.inner.result(step)
        return changed(answer, scores=np.asarray(answer.scores, dtype=np.float64))


class Swapped(Good):
    """Answers a job with what belongs to the one after it."""

    def result(self, step: int) -> Any:
        genome, questions = self.jobs.get(step + 1, self.jobs[step])
        self.inner.submit(step, genome, questions)
        return self.inner.result(step)


class Once(Good):
    """Knows a step for ever."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.answers: dict[int, Evaluation] = {}

    def result(self, step: int) -> Any:
        if step not in self.answers:
            self.answers[step] = self.inner.result(step)
        return self.answers[step]


class Thorough(Good):
    """Asks everything, whatever the questions want."""

    def result(self, step: int) -> Any:
        genome, questions = self.jobs[step]
        self.inner.result(step)
        everything = np.arange(questions.scores.size)
        return Evaluation(self.inner.score(genome, "train", everything), None, 0.0)


class Copying(Good):
    """Asks a copy of the questions, so that what was submitted hears nothing."""

    def submit(self, step: int, genome: Any, questions: Any) -> None:
        from copy import deepcopy

        self.inner.submit(step, genome, deepcopy(questions))


class Forgiving(Good):
    """Takes an error of the questions for one of the child."""

    def result(self, step: int) -> Any:
        try:
            return self.inner.result(step)
        except ArithmeticError as error:
            return Evaluation(None, str(error), 0.0)


class Raising(Good):
    def result(self, step: int) -> Any:
        answer = self.inner.result(step)
        if answer.scores is None:
            raise EvaluationError(answer.error)
        return answer


class Inventing(Good):
    """Takes a child that cannot be scored for one that scores nothing."""

    def result(self, step: int) -> Any:
        answer = self.inner.result(step)
        if answer.scores is None:
            return Evaluation(np.zeros(40, dtype=np.float32), None, 0.0)
        return answer


class Silent(Good):
    def result(self, step: int) -> Any:
        answer = self.inner.result(step)
        return answer if answer.scores is not None else changed(answer, error="")


class Wordy(Good):
    def result(self, step: int) -> Any:
        answer = self.inner.result(step)
        return answer if answer.error is None else changed(answer, error=answer.error + "\nmore")


class Sorted(Good):
    def score(self, genome: Any, part: Any, indices: Any) -> Any:
        return self.inner.score(genome, part, np.sort(indices))


class Training(Good):
    """Knows no examples but those that members compete for."""

    def score(self, genome: Any, part: Any, indices: Any) -> Any:
        return self.inner.score(genome, "train", indices)


class Hopeful(Good):
    def score(self, genome: Any, part: Any, indices: Any) -> Any:
        try:
            return self.inner.score(genome, part, indices)
        except EvaluationError:
            return np.zeros(indices.size, dtype=np.float32)


class Numbered(Good):
    def pending(self, step: int) -> Any:
        return int(self.inner.pending(step))


class Restless(Good):
    """Says that a job has begun, and then that it has not."""

    calls = 0

    def pending(self, step: int) -> Any:
        self.calls += 1
        return self.calls > 3


class Rewound(Good):
    """Took less than no time."""

    def result(self, step: int) -> Any:
        return changed(self.inner.result(step), seconds=-1.0)


class Mistaken(Good):
    """Measures another model."""

    def measures(self, genome: Any) -> Any:
        return tuple(measure._replace(value=0.25) for measure in self.inner.measures(genome))


class Upturned(Good):
    """Draws in another order."""

    def pictures(self, genome: Any, task: int, indices: Any, *, held_out: bool) -> Any:
        return super().pictures(genome, task, indices, held_out=held_out)[::-1]


class Mute(Good):
    """Tells nothing of episodes."""

    def transcripts(self, genome: Any, task: int, indices: Any, *, held_out: bool) -> Any:
        return []


class Unseen(Good):
    """Draws selection examples in place of held-out ones."""

    def pictures(self, genome: Any, task: int, indices: Any, *, held_out: bool) -> Any:
        return super().pictures(genome, task, indices, held_out=False)


class Fragile(Good):
    """Cannot be closed twice."""

    def close(self) -> None:
        if self.closed:
            raise AssertionError("closed twice")
        self.closed = True


def test_a_good_executor_passes(tmp_path: Path) -> None:
    made: list[Good] = []

    def make(run: Run) -> Good:
        made.append(Good(run))
        return made[-1]

    check_executor(make, tmp_path)
    assert len(made) == 3 and all(executor.closed for executor in made)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Rounded, "differ from the serial executor's"),
        (Wide, r"expected scores float32\[40\]"),
        (Swapped, "differ from the serial executor's"),
        (Once, "asked other examples than its questions|differ from the serial"),
        (Thorough, "asked other examples than its questions"),
        (Copying, r"record\(\) was called 0 times"),
        (Forgiving, "must raise that error"),
        (Raising, r"belongs in its answer; result\(\) raised"),
        (Inventing, "was given scores"),
        (Silent, "in one line why"),
        (Wordy, "in one line why"),
        (Sorted, r"score\(\) of 20 train examples differs"),
        (Training, r"score\(\) of 12 held-out examples differs"),
        (Hopeful, "must raise EvaluationError"),
        (Numbered, "must return a bool; got 1"),
        (Restless, "said to be pending again"),
        (Rewound, "must not be negative"),
        (Mistaken, r"measures\(\) differ"),
        (Upturned, r"pictures\(\) of 3 examples differ"),
        (Mute, r"transcripts\(\) of 3 examples differ"),
        (Unseen, r"pictures\(\) of 3 examples differ"),
        (Fragile, "closed twice"),
    ],
)
def test_a_broken_promise_is_found(
    broken: Callable[[Run], Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=words):
        check_executor(broken, tmp_path)
