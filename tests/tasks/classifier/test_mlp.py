"""MLPs given as arrays: matched, checked, scored alone and together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from genepool.errors import EvaluationError
from genepool.tasks.classifier import mlp_kernels as kernels
from genepool.tasks.classifier.mlp import Mlp
from tests.nets import Arrays, clouds, mlp


def _scorer(count: int = 120) -> Mlp:
    x, y = clouds(count)
    return Mlp(x, y, [f"e{i}" for i in range(count)])


def _expected(model: Arrays) -> NDArray[np.bool_]:
    x, y = clouds()
    values = x.astype(np.float64)
    layers = sorted(name.removesuffix(".weight") for name in model if name.endswith(".weight"))
    for layer in layers:
        values = values @ model[f"{layer}.weight"] + model[f"{layer}.bias"]
        values = values if layer == layers[-1] else np.maximum(values, 0)
    return values.argmax(axis=1) == y


@pytest.mark.parametrize("widths", [(6, 3), (6, 20, 3), (6, 16, 32, 3), (6, 5, 5, 5, 4)])
def test_scores_are_those_of_plain_numpy(widths: tuple[int, ...]) -> None:
    model = mlp(widths)
    got = _scorer().correct(model, np.arange(120), 0, 120)
    assert got.dtype == np.float32 and got.shape == (120,)
    np.testing.assert_array_equal(got.astype(bool), _expected(model))


def test_new_weights_in_the_same_arrays_are_seen() -> None:
    scorer, model, other = _scorer(), mlp((6, 20, 3), 1), mlp((6, 20, 3), 2)
    rows = np.arange(120)
    before = scorer.correct(model, rows, 0, 120)
    for name, array in model.items():
        array[:] = other[name]
    after = scorer.correct(model, rows, 0, 120)
    assert before.tobytes() != after.tobytes()
    np.testing.assert_array_equal(after.astype(bool), _expected(other))


def test_an_array_that_replaces_another_is_seen() -> None:
    scorer, model, other = _scorer(), mlp((6, 20, 3), 1), mlp((6, 20, 3), 2)
    rows = np.arange(120)
    scorer.correct(model, rows, 0, 120)
    model |= other
    np.testing.assert_array_equal(
        scorer.correct(model, rows, 0, 120).astype(bool), _expected(other)
    )


def test_models_of_other_shapes_may_follow_each_other() -> None:
    scorer, rows = _scorer(), np.arange(120)
    for widths in ((6, 20, 3), (6, 40, 40, 3), (6, 3), (6, 20, 3)):
        model = mlp(widths)
        got = scorer.correct(model, rows, 0, 120)
        np.testing.assert_array_equal(got.astype(bool), _expected(model))


def test_models_that_take_turns() -> None:
    scorer, rows = _scorer(), np.arange(120)
    models = [mlp((6, 4, 3), seed) for seed in range(150)]
    for _ in range(2):
        for model in models:
            got = scorer.correct(model, rows, 0, 120)
            np.testing.assert_array_equal(got.astype(bool), _expected(model))


@pytest.mark.parametrize("kind", ["read-only", "strided", "int32"])
def test_any_kind_of_index_array(kind: str) -> None:
    model, rows = mlp((6, 20, 3)), np.arange(0, 120, 2)
    if kind == "read-only":
        given = rows.copy()
        given.setflags(write=False)
    else:
        given = np.arange(120)[::2] if kind == "strided" else rows.astype(np.int32)
    expected = _scorer().correct(model, rows, 0, 120)
    compiled: Any = kernels.score_rows
    before = len(compiled.signatures)
    assert _scorer().correct(model, given, 0, 120).tobytes() == expected.tobytes()
    assert len(compiled.signatures) == before, "seconds were spent on compiling for this kind"


def test_layers_run_in_depth_order() -> None:
    model = mlp((6, *[8] * 10, 3))
    named = {name.replace("layer", "net.layers."): array for name, array in model.items()}
    backwards = dict(reversed(named.items()))
    got = _scorer().correct(backwards, np.arange(120), 0, 120)
    values = clouds()[0].astype(np.float64)
    for layer in range(11):
        values = values @ model[f"layer{layer}.weight"] + model[f"layer{layer}.bias"]
        values = np.maximum(values, 0) if layer < 10 else values
    np.testing.assert_array_equal(got.astype(bool), values.argmax(axis=1) == clouds()[1])


def test_a_second_set_is_out_of_reach() -> None:
    scorer, model = _scorer(), mlp((6, 20, 3))
    rows = np.arange(20)
    shifted = scorer.correct(model, rows, 100, 120)
    expected = scorer.correct(model, rows + 100, 0, 120)
    assert shifted.tobytes() == expected.tobytes()
    with pytest.raises(EvaluationError, match=r"must lie in 0..99; got 100"):
        scorer.correct(model, np.array([100]), 0, 100)
    with pytest.raises(EvaluationError, match="got -1"):
        scorer.correct(model, np.array([-1]), 100, 120)
