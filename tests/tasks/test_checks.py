"""Scores are taken as they are or refused; ids and digests tell examples apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from genepool.errors import ConfigError, EvaluationError
from genepool.messages import cause
from genepool.tasks.checks import checked_indices, checked_scores, content_digest, require_unique


@pytest.mark.parametrize(
    "raw",
    [
        [0, 1, 0.25],
        (False, True, 0.25),
        np.array([0, 1, 0.25], dtype=np.float16),
        torch.tensor([0, 1, 0.25], dtype=torch.float64),
        [np.float32(0), 1, 0.25],
    ],
)
def test_lists_of_numbers_are_taken(raw: Any) -> None:
    got = checked_scores(raw, 3)
    assert got.dtype == np.float32 and got.tolist() == [0, 1, 0.25]


def test_the_array_given_is_not_kept() -> None:
    raw = np.array([0.5, 1], dtype=np.float32)
    got = checked_scores(raw, 2)
    raw[:] = 0
    assert got.tolist() == [0.5, 1]


def test_zero_has_no_sign() -> None:
    assert checked_scores([-0.0, 0.0], 2).tobytes() == bytes(8)


def test_no_examples_no_scores() -> None:
    assert checked_scores([], 0).shape == (0,)
    with pytest.raises(EvaluationError, match="expected 0 scores"):
        checked_scores([1.0], 0)


@given(hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1)))
def test_scores_in_range_are_rounded_once(raw: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    got = checked_scores(raw, raw.size)
    assert not np.signbit(got).any()
    np.testing.assert_array_equal(got, raw.astype(np.float32))


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=20),
    st.floats(allow_nan=True, allow_infinity=True).filter(lambda value: not 0 <= value <= 1),
    st.integers(0, 20),
)
def test_one_bad_score_is_named(fine: list[float], bad: float, at: int) -> None:
    at = min(at, len(fine))
    raw = [*fine[:at], bad, *fine[at:]]
    with pytest.raises(EvaluationError, match=rf"example {at} is "):
        checked_scores(raw, len(raw))
    with pytest.raises(EvaluationError, match=rf"example 'e{at}' is "):
        checked_scores(raw, len(raw), ids=[f"e{i}" for i in range(len(raw))])


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (None, "NoneType of shape"),
        ("0.5", "str of shape"),
        (0.5, "float of shape"),
        ([0.5], "one per example; got list of shape (1,)"),
        ([[0.5], [0.5]], "shape (2, 1)"),
        ([0.5, None], "example 1 is not a number: None"),
        ([0.5, "1"], "example 1 is not a number: '1'"),
        ([0.5, 1j], "example 1 is not a number"),
        ([[0.5], [0.5, 1]], "not a list of numbers"),
        ({"a": 1, "b": 0}, "dict of shape"),
        (iter([0.5, 1]), "of shape ()"),
        (torch.ones(2, requires_grad=True), "not a list of numbers"),
    ],
)
def test_anything_else_is_refused(raw: Any, words: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        checked_scores(raw, 2)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_binary_scores_are_held_to_it() -> None:
    assert checked_scores([0, 1, True], 3, binary=True).tolist() == [0, 1, 1]
    with pytest.raises(EvaluationError, match=r"example 1 is 0\.5; expected 0 or 1"):
        checked_scores([0, 0.5], 2, binary=True)


def test_positions_are_checked() -> None:
    assert checked_indices(np.array([2, 0], dtype=np.uint8), 3).dtype == np.int64
    assert checked_indices(np.array([], dtype=np.int64), 3).size == 0
    for wrong in ([3], [-1], [[1]], [0.5]):
        with pytest.raises(EvaluationError, match=r"example positions|list of example"):
            checked_indices(np.array(wrong), 3)


def test_ids_must_differ() -> None:
    require_unique(["a", "b"], "data")
    with pytest.raises(ConfigError, match="data: examples 0 and 2 have the same id 'a'"):
        require_unique(["a", "b", "a"], "data")


def test_a_digest_depends_on_content_kind_shape_and_order() -> None:
    base: list[Any] = ["ab", b"c", np.arange(6)]
    variants: list[list[Any]] = [
        base,
        ["a", "b", b"c", np.arange(6)],
        [b"ab", b"c", np.arange(6)],
        ["ab", "c", np.arange(6)],
        [b"c", "ab", np.arange(6)],
        ["ab", b"c", np.arange(6).reshape(2, 3)],
        ["ab", b"c", np.arange(6).astype(np.int32)],
        ["ab", b"c", np.arange(6).astype(np.float64)],
        ["ab", b"c", np.arange(6)[::-1]],
    ]
    assert len({content_digest(parts) for parts in variants}) == len(variants)
    swapped = np.arange(6).astype(">i8")
    assert content_digest(["ab", b"c", swapped]) == content_digest(base)


def test_a_cause_is_one_line() -> None:
    assert cause(ValueError("first\nsecond")) == "ValueError: first"
    assert cause(KeyError()) == "KeyError"
    assert cause(RuntimeError("\x1b[31mred")) == r"RuntimeError: \x1b[31mred"


@pytest.mark.parametrize(
    "raw",
    [
        np.ma.masked_array([0.5, 0.25, 1.0], mask=[False, True, False]),
        np.ma.masked_invalid([0.5, np.nan, 1.0]),
        [0.5, np.ma.masked, 1.0],
        (0.5, np.ma.masked_array(0.25, mask=True), 1.0),
        np.ma.masked_array([1, 1, 0], mask=[0, 1, 0]),
    ],
    ids=["array", "invalid", "constant", "item", "integers"],
)
def test_a_masked_score_is_not_the_number_behind_the_mask(raw: Any) -> None:
    with pytest.raises(EvaluationError, match="the score of example 'b' is masked"):
        checked_scores(raw, 3, ids=["a", "b", "c"])


def test_a_mask_that_hides_nothing_is_no_mask() -> None:
    scores = checked_scores(np.ma.masked_array([0.5, 1.0], mask=False), 2)
    assert scores.tolist() == [0.5, 1.0]
    assert type(scores) is np.ndarray
