"""The contract test of executors.

def test_contract(tmp_path):
    def make(run):
        return MyExecutor(run, workers=2)

    check_executor(make, tmp_path)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from genepool.core.early_stop.evaluation_plan import FullPlan
from genepool.core.genome import Genome, Recipe, Vector, seed_recipe
from genepool.errors import EvaluationError
from genepool.run.executors.executor import Evaluation, Executor, SerialExecutor
from genepool.run.executors.scorer import Part, Scorer
from genepool.run.inputs import open_inputs
from genepool.run.run_file import Run, load_run
from genepool.tasks.function import Function
from genepool.testing.require import require

__all__ = ["check_executor"]

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

_SIZE = 6  # parameters of the model
_COUNTS = {"train": 40, "held-out": 12, "guard": 9}  # examples of each part
_UNFIT = 100.0  # a first weight above it cannot be judged


class Sketches(Function):
    """The task of the contract's run, measured besides, and with pictures of its scores."""

    def measures(self, model: Any) -> Mapping[str, float]:
        """The mean of all selection scores."""
        everything = np.arange(len(self.samples), dtype=np.int64)
        return {"mean": float(self.score(model, everything).mean())}

    def drawn(self, model: Any, indices: Int64, *, held_out: bool = False) -> NDArray[np.uint8]:
        """uint8[n, 2, 3, 3], each in the shade of a score."""
        shades = (255 * self.score(model, indices, held_out=held_out)).astype(np.uint8)
        return np.broadcast_to(shades[:, None, None, None], (shades.size, 2, 3, 3)).copy()

    def captions(self, indices: Int64, *, held_out: bool = False) -> Sequence[str]:
        """The examples' numbers."""
        return [str(index) for index in indices.tolist()]

    def references(self, indices: Int64, *, held_out: bool = False) -> None:
        """There are none."""

    def transcripts(
        self, model: Any, indices: Int64, *, held_out: bool = False
    ) -> list[Mapping[str, Any]]:
        """What is told of an example: its number and its score."""
        scores = self.score(model, indices, held_out=held_out).tolist()
        return [
            {"id": str(index), "score": score}
            for index, score in zip(indices.tolist(), scores, strict=True)
        ]


def score(model: Mapping[str, Float32], examples: Sequence[int]) -> list[float]:
    """The task of the contract's run: something that depends on every weight and example.

    Raises:
        ValueError: for weights that it does not want to judge.
    """
    weights = np.concatenate([model[name].ravel() for name in sorted(model)]).astype(np.float64)
    if not abs(weights[0]) < _UNFIT:
        raise ValueError("these weights cannot be judged,\nsays the task")
    angles = np.outer(np.asarray(examples) + 1.0, weights)
    return ((np.sin(angles).sum(axis=1) / _SIZE + 1.0) / 2.0).tolist()


def examples() -> list[int]:
    """The examples of the tasks that members compete for, and the held-out ones."""
    return list(range(_COUNTS["train"] // 2 + _COUNTS["held-out"] // 2))


def guard_examples() -> list[int]:
    """The examples of the guard."""
    return list(range(1000, 1000 + _COUNTS["guard"]))


def check_executor(make_executor: Callable[[Run], Executor], directory: Path) -> None:
    """Check that an executor keeps the contract of `genepool.run.executors.executor.Executor`.

    Every job that was submitted is answered once, with the scores that the serial executor gives,
    bit for bit, whatever else is in flight. The questions decide what is asked and when to stop,
    block by block, and they are the object that was submitted. A child that cannot be scored is
    reported in its answer, in one line, and does not disturb the others. A step may be submitted
    again once it was answered. `score` answers for training, held-out and guard examples in the
    order asked, between the jobs too, and raises EvaluationError for a child that cannot be
    scored; `measures`, `pictures` and `transcripts` give what the serial executor gives. `pending`
    says of a job whether its work is still to begin; a job that has begun does not go back. A plan
    that fails raises in `result`. `close` may be called twice, and with jobs unanswered.

    Args:
        make_executor: makes the executor for a run file; called three times.
        directory: an empty directory for the run file and its two seeds.

    Raises:
        AssertionError: what is wrong.
    """
    run = _write_run(directory)
    serial = SerialExecutor(Scorer(open_inputs(run)))
    genomes = _genomes()
    unfit = Vector(np.full(_SIZE, 2 * _UNFIT, dtype=np.float32))
    executor = make_executor(run)
    try:
        _check_jobs(executor, serial, genomes)
        _check_questions(executor, serial, genomes)
        _check_failure(executor, serial, genomes, unfit)
        _check_score(executor, serial, genomes, unfit)
    finally:
        executor.close()
    executor.close()
    idle = make_executor(run)
    idle.close()
    busy = make_executor(run)
    for step, genome in enumerate(genomes):
        busy.submit(step, genome, FullPlan(_unknown()))
    busy.close()
    busy.close()


def _check_jobs(executor: Executor, serial: Executor, genomes: Sequence[Genome]) -> None:
    """Several jobs in flight, all asked in full, and the same steps once more."""
    for way in ("", ", submitted again"):
        for step, genome in enumerate(genomes):
            executor.submit(step, genome, FullPlan(_unknown()))
        begun: set[int] = set()
        for step, genome in enumerate(genomes):
            for later in range(step, len(genomes)):
                pending = cast("object", executor.pending(later))
                require(type(pending) is bool, f"pending() must return a bool; got {pending!r}")
                require(
                    not (pending and later in begun),
                    f"job {later} had begun, and is now said to be pending again",
                )
                if not pending:
                    begun.add(later)
            answer = executor.result(step)
            _check_answer(answer, f"job {step}{way}", expected=_full(serial, genome))


def _check_questions(executor: Executor, serial: Executor, genomes: Sequence[Genome]) -> None:
    """The questions are asked in their own order and blocks, and no further than they want."""
    blocks = [np.array(block) for block in ([7, 3, 39], [0], [20, 19, 21, 1, 2], [38], [4, 5])]
    given = [_Asking(blocks, 1 + number % 4) for number in range(len(genomes))]
    for step, (genome, questions) in enumerate(zip(genomes, given, strict=True)):
        executor.submit(step, genome, questions)
    for step, (genome, questions) in enumerate(zip(genomes, given, strict=True)):
        answer = executor.result(step)
        expected = _unknown()
        for block in blocks[: questions.wanted]:
            expected[block] = _full(serial, genome)[block]
        what = f"job {step}, which stops after {questions.wanted} blocks"
        _check_answer(answer, what, expected=expected)
        require(
            len(questions.heard) == questions.wanted,
            f"{what}: record() was called {len(questions.heard)} times on what was submitted",
        )
    executor.submit(0, genomes[0], _Asking(blocks, 0))
    _check_answer(executor.result(0), "a job without questions", expected=_unknown())
    executor.submit(0, genomes[0], _Failing(blocks, 2))
    try:
        executor.result(0)
    except ArithmeticError:
        pass
    else:
        raise AssertionError(
            "questions that raise an error of their own are no fault of the child: result() must "
            "raise that error"
        )


def _check_failure(
    executor: Executor, serial: Executor, genomes: Sequence[Genome], unfit: Genome
) -> None:
    """A child that cannot be scored, between two that can."""
    for step, genome in enumerate((genomes[0], unfit, genomes[1])):
        executor.submit(step, genome, FullPlan(_unknown()))
    _check_answer(executor.result(0), "the job before", expected=_full(serial, genomes[0]))
    try:
        answer = executor.result(1)
    except Exception as error:
        raise AssertionError(
            f"a child that cannot be scored belongs in its answer; result() raised {error!r}"
        ) from error
    require(answer.scores is None, "a child that cannot be scored was given scores")
    text = answer.error
    if not text or "\n" in text or "cannot be judged" not in text:
        raise AssertionError(f"the answer must say in one line why the child failed; got {text!r}")
    require(answer.seconds >= 0, f"seconds must not be negative; got {answer.seconds}")
    _check_answer(
        executor.result(2), "the job after one that failed", expected=_full(serial, genomes[1])
    )


def _check_score(
    executor: Executor, serial: Executor, genomes: Sequence[Genome], unfit: Genome
) -> None:
    """Scores on request, while a job is in flight."""
    executor.submit(7, genomes[2], FullPlan(_unknown()))
    parts: tuple[Part, ...] = ("train", "held-out", "guard")
    for part in parts:
        everything = np.arange(_COUNTS[part], dtype=np.int64)
        for indices in (everything, everything[::-2].copy(), everything[3:4], everything[:0]):
            expected = serial.score(genomes[1], part, indices)
            got = cast("Any", executor.score(genomes[1], part, indices))
            require(
                type(got) is np.ndarray
                and got.dtype == np.float32
                and got.tobytes() == expected.tobytes(),
                f"score() of {indices.size} {part} examples differs from the serial executor's",
            )
    try:
        executor.score(unfit, "held-out", np.arange(3, dtype=np.int64))
    except EvaluationError as error:
        require("\n" not in str(error), f"an error must be one line of text; got {str(error)!r}")
    else:
        raise AssertionError("score() of a child that cannot be scored must raise EvaluationError")
    expected = _full(serial, genomes[2])
    _check_sights(executor, serial, genomes[1])
    _check_answer(executor.result(7), "a job while score() was called", expected=expected)


def _check_sights(executor: Executor, serial: Executor, genome: Genome) -> None:
    """Measures and pictures on request: what the serial executor gives."""
    require(
        executor.measures(genome) == serial.measures(genome),
        "measures() differ from the serial executor's",
    )
    for held_out in (False, True):
        for indices in (np.arange(3, dtype=np.int64), np.array([5, 2]), np.array([], np.int64)):
            got = cast("Any", executor.pictures(genome, 0, indices, held_out=held_out))
            expected = serial.pictures(genome, 0, indices, held_out=held_out)
            require(
                type(got) is np.ndarray
                and (got.dtype, got.shape) == (expected.dtype, expected.shape)
                and got.tobytes() == expected.tobytes(),
                f"pictures() of {indices.size} examples differ from the serial executor's",
            )
            require(
                executor.transcripts(genome, 0, indices, held_out=held_out)
                == serial.transcripts(genome, 0, indices, held_out=held_out),
                f"transcripts() of {indices.size} examples differ from the serial executor's",
            )


def _check_answer(answer: Evaluation, what: str, expected: Float32) -> None:
    require(answer.error is None, f"{what}: failed: {answer.error}")
    got = cast("Any", answer.scores)
    if type(got) is not np.ndarray or got.dtype != np.float32 or got.shape != expected.shape:
        raise AssertionError(f"{what}: expected scores float32[{expected.size}]; got {got!r}")
    unlike = np.flatnonzero(np.isnan(got) != np.isnan(expected))
    require(
        not unlike.size,
        f"{what}: asked other examples than its questions: {unlike[:8].tolist()}",
    )
    fine = ~np.isnan(expected)
    differing = np.flatnonzero(got[fine].view(np.uint32) != expected[fine].view(np.uint32))
    require(
        not differing.size,
        f"{what}: {differing.size} of {fine.sum()} scores differ from the serial executor's",
    )
    require(answer.seconds >= 0, f"{what}: seconds must not be negative; got {answer.seconds}")


class _Asking:
    """Asks the first few examples of some blocks; see `EvaluationPlan`."""

    def __init__(self, blocks: Sequence[Int64], wanted: int) -> None:
        self.scores = _unknown()
        self.wanted = wanted
        self.heard: list[Int64] = []
        self._blocks = blocks

    @property
    def done(self) -> bool:
        return len(self.heard) == self.wanted

    def next(self) -> Int64:
        return self._blocks[len(self.heard)].copy()

    def record(self, indices: Int64, scores: Float32) -> None:
        self.scores[indices] = scores
        self.heard.append(indices)


class _Failing(_Asking):
    """Goes wrong over the first answer."""

    def record(self, indices: Int64, scores: Float32) -> None:
        raise ArithmeticError("the questions went wrong")


def _unknown() -> Float32:
    return np.full(_COUNTS["train"], np.nan, dtype=np.float32)


def _full(serial: Executor, genome: Genome) -> Float32:
    everything: Int64 = np.arange(_COUNTS["train"], dtype=np.int64)
    return serial.score(genome, "train", everything)


def _genomes() -> list[Genome]:
    """The seeds, mixtures of them in one and several segments, and weights of their own."""
    draws = np.random.default_rng(5)
    one = Recipe(np.array([0, _SIZE]), np.array([[0.3, 0.7]]))
    three = Recipe(np.array([0, 2, 3, _SIZE]), draws.random((3, 2)))
    dense = Vector(draws.standard_normal(_SIZE).astype(np.float32))
    return [seed_recipe(_SIZE, 0, 2), one, three, dense, seed_recipe(_SIZE, 1, 2), one]


def _write_run(directory: Path) -> Run:
    directory.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(3)
    for number in range(2):
        weights = draws.standard_normal(_SIZE).astype(np.float32)
        arrays = {"a.weight": weights[:4].reshape(2, 2), "b.weight": weights[4:]}
        (directory / f"seed{number}.safetensors").write_bytes(save(arrays))
    # Two tasks, so that jobs and parts are cut at the seam between them.
    place = f"{__name__}:"
    task = {
        "evaluator": place + "Sketches",
        "function": place + "score",
        "examples": place + "examples",
    }
    guard = {**task, "name": "kept", "guard": True, "examples": place + "guard_examples"}
    share = _COUNTS["held-out"] / (_COUNTS["held-out"] + _COUNTS["train"])
    config = {
        "pool": "pool",
        "seeds": ["seed0.safetensors", "seed1.safetensors"],
        "tasks": [{**task, "name": name, "held_out": share} for name in ("one", "two")] + [guard],
    }
    # YAML is a superset of JSON.
    file = directory / "run.yaml"
    file.write_text(json.dumps(config), "utf-8")
    return load_run(file)
