"""Messages agree with the numbers in them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from genepool.messages import agreeing, children, count
from genepool.tasks.stored import copies_told


@pytest.mark.parametrize(
    ("told", "one", "several"),
    [
        (lambda number: count(number, "tensor"), "1 tensor", "1,000 tensors"),
        (lambda number: count(number, "strategy", "strategies"), "1 strategy", "1,000 strategies"),
        (children, "1 child", "1,000 children"),
        (lambda number: agreeing(number, "is", "are"), "is", "are"),
    ],
)
def test_nouns_and_verbs_agree(told: Callable[[int], str], one: str, several: str) -> None:
    assert (told(1), told(1000)) == (one, several)


@pytest.mark.parametrize(
    ("held_out", "expected"),
    [
        ("a", "1 of 1 held-out example also stands among"),
        ("ax", "1 of 2 held-out examples also stands among"),
        ("ab", "2 of 2 held-out examples also stand among"),
    ],
)
def test_copies_are_counted(held_out: str, expected: str) -> None:
    (told,) = copies_told("abc", held_out)
    assert told.startswith(expected)
