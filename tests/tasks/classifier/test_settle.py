"""The early stop in compiled code asks, answers and ends as asking block by block does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.core.archive import Archive
from genepool.core.early_stop.evaluation_plan import EvaluationPlan, FullPlan
from genepool.core.early_stop.lossless import LosslessPlan
from genepool.core.examples import examples_of
from genepool.errors import EvaluationError
from genepool.tasks.classifier.evaluator import Classifier, ClassifierOptions
from genepool.tasks.classifier.settle import settle

FEATURES, HIDDEN, CLASSES, SIZE = 6, 9, 4, 150
Model = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    draws = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("data")
    x = draws.standard_normal((SIZE, FEATURES)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=np.arange(SIZE) % CLASSES)
    return Classifier(
        ClassifierOptions.model_validate({"data": "data.npz", "held_out": 0.0}), folder
    )


def network(draws: np.random.Generator) -> Model:
    sizes = {"a.weight": (FEATURES, HIDDEN), "a.bias": (HIDDEN,)}
    sizes |= {"b.weight": (HIDDEN, CLASSES), "b.bias": (CLASSES,)}
    return {name: draws.standard_normal(size).astype(np.float32) for name, size in sizes.items()}


def archive(draws: np.random.Generator, level: float, alpha: float, grain: int) -> Archive:
    """Members that are about as good as chance, or much better; one solves the first example."""
    rows = (draws.random((5, SIZE)) < level).astype(np.float64)
    rows[:, 0] = 1.0
    capacity = draws.choice([0.5, 1.0, 2.0], size=SIZE)
    examples = examples_of(SIZE, binary=True, capacity=capacity)
    object.__setattr__(examples, "grain", grain)
    return Archive((None,) * 5, rows, examples, alpha)


def block_by_block(task: Classifier, model: Model, plan: EvaluationPlan) -> None:
    while not plan.done:
        block = plan.next()
        plan.record(block, task.score(model, block))


UNKNOWN = np.full(SIZE, np.nan, dtype=np.float32)


@given(
    seed=st.integers(0, 2**32 - 1),
    level=st.sampled_from([0.05, 0.2, 0.3, 0.5, 0.9]),
    alpha=st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]),
    grain=st.sampled_from([1, 7, 16, 64]),
    shares=st.lists(
        st.tuples(st.sampled_from([None, 0, 1, 4]), st.floats(0.0, 1.0)), min_size=1, max_size=2
    ),
)
def test_both_agree(
    task: Classifier,
    seed: int,
    level: float,
    alpha: float,
    grain: int,
    shares: list[tuple[int | None, float]],
) -> None:
    draws = np.random.default_rng(seed)
    model, met = network(draws), archive(draws, level, alpha, grain)
    # Of all that a child is made of.
    whole = max(1.0, sum(share for _, share in shares))
    parents = [(slot, share / whole) for slot, share in shares]
    one, two = (LosslessPlan(met, parents, UNKNOWN) for _ in range(2))
    assert settle([task], model, one)
    block_by_block(task, model, two)
    assert one.done and two.done
    assert one.scores.tobytes() == two.scores.tobytes()
    assert one.next().size == 0


def test_children_are_stopped_and_others_are_asked_everything(task: Classifier) -> None:
    draws = np.random.default_rng(2)
    asked = {
        level: int(np.count_nonzero(~np.isnan(plan.scores)))
        for level in (0.0, 0.9)
        for plan in [LosslessPlan(archive(draws, level, 1.0, 1), [(0, 1.0)], UNKNOWN)]
        if settle([task], network(draws), plan)
    }
    assert 0 < asked[0.9] < SIZE == asked[0.0]


def test_where_it_cannot_be_done_nothing_is(task: Classifier) -> None:
    class Own(Classifier):
        """Scores in its own way, perhaps."""

    draws = np.random.default_rng(3)
    model, met = network(draws), archive(draws, 0.5, 1.0, 1)
    known = UNKNOWN.copy()
    known[4] = 1.0
    own = object.__new__(Own)
    for tasks, plan in (
        ([task], FullPlan(UNKNOWN)),
        ([task, task], LosslessPlan(met, [(0, 1.0)], UNKNOWN)),
        ([own], LosslessPlan(met, [(0, 1.0)], UNKNOWN)),
        ([task], LosslessPlan(met, [(0, 1.0)], known)),
    ):
        before = plan.scores.tobytes()
        assert not settle(tasks, model, plan)
        assert plan.scores.tobytes() == before and not plan.done
    assert not settle([task], object(), LosslessPlan(met, [(0, 1.0)], UNKNOWN))


def test_a_broken_model_is_told(task: Classifier, tmp_path: Path) -> None:
    draws = np.random.default_rng(4)
    model = network(draws)
    model["b.bias"][1] = np.nan
    with pytest.raises(EvaluationError, match=r"layer 'b' of the model holds NaN"):
        settle([task], model, LosslessPlan(archive(draws, 0.5, 1.0, 1), [(0, 1.0)], UNKNOWN))
