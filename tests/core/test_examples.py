"""Examples of several tasks laid end to end: who belongs where, and what a mean is."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.core.examples import Examples, TaskExamples, examples_of, lay_out
from genepool.errors import InputError


def laid(sizes: list[int], weights: list[float] | None = None, binary: bool = True) -> Examples:
    shares = weights or [1.0] * len(sizes)
    tasks = [
        TaskExamples(f"t{k}", n, w) for k, (n, w) in enumerate(zip(sizes, shares, strict=True))
    ]
    return lay_out(tasks, binary=binary)


several = st.lists(st.integers(0, 60), min_size=1, max_size=4).filter(any)
heavy = st.floats(1e-3, 1e3)


@given(several, st.data())
def test_a_perfect_model_scores_one_and_half_of_one_half(
    sizes: list[int], data: st.DataObject
) -> None:
    examples = laid([2 * size for size in sizes], [data.draw(heavy) for _ in sizes])
    assert examples.mean(np.ones(examples.size, dtype=np.float32)) == 1.0
    assert examples.mean(np.zeros(examples.size, dtype=np.float32)) == 0.0
    alternate = (np.arange(examples.size) % 2).astype(np.float32)
    assert examples.mean(alternate) == 0.5


@pytest.mark.parametrize("size", [1437, 360, 7, 3, 1, 1319])
def test_sizes_of_real_tasks(size: int) -> None:
    """The reason for it all: the digits' 1,437 examples gave 0.9999999999999998."""
    for weights in ([1.0, 1.0], [0.3, 0.7], [1e-3, 1e3]):
        examples = laid([size, 128], weights)
        assert examples.mean(np.ones(size + 128, dtype=np.float32)) == 1.0
    assert laid([size]).mean(np.ones(size, dtype=np.float32)) == 1.0
    own = examples_of(size, binary=True, capacity=np.random.default_rng(0).random(size) + 0.1)
    assert own.mean(np.ones(size, dtype=np.float32)) == 1.0


@given(several, st.data())
def test_the_mean_is_that_of_exact_arithmetic(sizes: list[int], data: st.DataObject) -> None:
    weights = [data.draw(heavy) for _ in sizes]
    examples = laid(sizes, weights, binary=False)
    draws = np.random.default_rng(data.draw(st.integers(0, 1000)))
    scores = draws.random(examples.size).astype(np.float32)
    total = Fraction(0)
    parts = examples.split(scores)
    for part, weight in zip(parts, weights, strict=True):
        if part.size:
            total += Fraction(weight) * sum(map(Fraction, part.tolist()), Fraction(0)) / part.size
    total /= sum(Fraction(w) for w, size in zip(weights, sizes, strict=True) if size)
    assert examples.mean(scores) == pytest.approx(float(total), rel=1e-14)
    # Capacities say the same thing.
    by_capacity = (examples.capacity * scores).sum() / examples.capacity.sum()
    assert examples.mean(scores) == pytest.approx(by_capacity, rel=1e-12)
    assert examples.capacity.mean() == pytest.approx(1.0)


@given(several, st.data())
def test_locate_and_split_agree(sizes: list[int], data: st.DataObject) -> None:
    examples = laid(sizes)
    indices = np.array(
        data.draw(st.lists(st.integers(0, examples.size - 1), max_size=30)), dtype=np.int64
    )
    rows = np.arange(examples.size)
    seen = np.full(indices.size, -1)
    for number, mine, positions in examples.locate(indices):
        assert mine.size or len(sizes) == 1
        seen[mine] = examples.split(rows)[number][positions]
    np.testing.assert_array_equal(seen, indices)


def test_unknown_scores_are_never_counted_as_zero() -> None:
    examples = laid([2, 2], [1.0, 3.0])
    scores = np.array([1.0, np.nan, 0.0, 1.0], dtype=np.float32)
    assert np.isnan(examples.mean(scores))
    first, second = examples.means(scores)
    assert np.isnan(first)
    assert second == 0.5
    assert examples.mean_known(scores) == (1.0 * 1.0 + 3.0 * 0.5) / 4.0
    assert np.isnan(examples.mean_known(np.full(4, np.nan, dtype=np.float32)))


@given(several, st.data())
def test_a_task_of_which_less_is_known_weighs_no_less(
    sizes: list[int], data: st.DataObject
) -> None:
    examples = laid(sizes, [data.draw(heavy) for _ in sizes], binary=False)
    draws = np.random.default_rng(data.draw(st.integers(0, 1000)))
    scores = draws.random(examples.size).astype(np.float32)
    scores[draws.random(examples.size) < draws.random()] = np.nan
    parts = [part[~np.isnan(part)] for part in examples.split(scores)]
    weights = [
        task.weight if part.size else 0.0 for task, part in zip(examples.tasks, parts, strict=True)
    ]
    if any(weights):
        means = [part.mean(dtype=np.float64) if part.size else 0.0 for part in parts]
        assert examples.mean_known(scores) == pytest.approx(np.average(means, weights=weights))
    known = np.nan_to_num(scores)
    assert examples.mean_known(known) == examples.mean(known)


def test_a_task_without_examples_weighs_nothing() -> None:
    examples = laid([0, 4], [100.0, 1.0])
    assert examples.mean(np.array([1, 1, 0, 0], dtype=np.float32)) == 0.5
    assert np.isnan(examples.means(np.ones(4, dtype=np.float32))[0])
    np.testing.assert_array_equal(examples.capacity, np.ones(4))


def test_the_examples_of_a_task_by_its_name() -> None:
    examples = laid([3, 2])
    assert examples.where("t1") == slice(3, 5)
    with pytest.raises(InputError, match="no task 't9'; tasks: t0, t1"):
        examples.where("t9")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="at least one task must have examples"):
        laid([0, 0])
    with pytest.raises(InputError, match="weights must be above 0"):
        laid([2, 2], [1.0, 0.0])
    with pytest.raises(InputError, match="one value for each of 3 examples"):
        examples_of(3, binary=True, capacity=np.ones(2))
