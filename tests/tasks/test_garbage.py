"""Garbage: what counts as such, and that a model is judged by what the seeds answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from genepool.errors import EvaluationError
from genepool.models.language import LanguageModel, repeats
from genepool.tasks.garbage import GarbageCheck


@pytest.mark.parametrize(
    ("text", "endless"),
    [
        ("", False),
        ("the answer is 42", False),
        ("0" * 47, False),
        ("0" * 48, True),
        ("so it is 7. " + "I think so. " * 8, True),
        ("I think so. " * 3, False),
        (" ".join(map(str, range(60))), False),
        ("a long phrase of more than thirty-two characters, " * 9, False),
    ],
)
def test_what_repeats_without_end(text: str, endless: bool) -> None:
    assert repeats(text) == endless


SANE, EMPTY, STUCK = "7", " \n", "0" * 99


class Asked:
    """A live model that answers as its seeds do, and counts how often it was asked."""

    def __init__(self, *seeds: Sequence[str]) -> None:
        self._now: Sequence[str] = ()
        self._seeds = seeds
        self.count = 0
        self.model = LanguageModel(None, None, Path(), self._each if seeds else None)

    def _each(self, ask: Callable[[], Any]) -> list[Any]:
        found: list[Any] = []
        for seed in self._seeds:
            self._now = seed
            found.append(ask())
        return found

    def __call__(self) -> Sequence[str]:
        self.count += 1
        if not self._now:
            raise EvaluationError("the model's logits hold NaN or infinity")
        return self._now


def test_garbage_needs_a_majority() -> None:
    check, seeds = GarbageCheck("task"), Asked()
    check([EMPTY, STUCK, SANE, SANE], 0, seeds.model, seeds)
    check([], 0, seeds.model, seeds)
    with pytest.raises(EvaluationError, match="task: of 4 answers in a block 1 are empty and 2 re"):
        check([EMPTY, STUCK, STUCK, SANE], 0, seeds.model, seeds)


def test_a_model_may_answer_as_the_seeds_do() -> None:
    check, seeds = GarbageCheck("task"), Asked([SANE] * 4, [EMPTY, SANE, SANE, SANE], [])
    check([EMPTY, STUCK, STUCK, SANE], 0, seeds.model, seeds)
    with pytest.raises(EvaluationError, match=r"4 are empty and 0 repeat .*, and 25% of a seed's"):
        check([EMPTY] * 4, 0, seeds.model, seeds)
    # The seeds were asked once for this block.
    assert seeds.count == 3
    hopeless = Asked([SANE] * 4, [EMPTY, STUCK, STUCK, SANE])
    check([EMPTY] * 4, 1, hopeless.model, hopeless)
    assert hopeless.count == 2


def test_nobody_asks_the_seeds_about_a_sane_model() -> None:
    check, seeds = GarbageCheck("task"), Asked([SANE])
    check([SANE, EMPTY], 0, seeds.model, seeds)
    assert seeds.count == 0
