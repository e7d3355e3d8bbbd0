"""Evaluation plans: what to ask a model, block by block, and when to stop."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genepool.core.checks import float32
from genepool.errors import InputError

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]


class EvaluationPlan(Protocol):
    """What to ask a model, and when to stop: `while not plan.done: plan.record(next, scores)`.

    Not a value: `record` moves it on. What it asks is a function of how it was made and of the
    answers, so that the partial scores of a stopped child repeat like everything else of a run.

    Attributes:
        scores: float32[N], NaN where the model has not been asked.
    """

    scores: Float32

    @property
    def done(self) -> bool:
        """Nothing is left to ask."""
        ...

    def next(self) -> Int64:
        """The examples to ask next, int64[n]; empty when done."""
        ...

    def record(self, indices: Int64, scores: Float32) -> None:
        """Take in the answers to `next()`: float32[n] for int64[n], in any order.

        Raises:
            InputError: see `answered`.
        """
        ...


def answered(indices: Int64, scores: ArrayLike, before: Float32) -> Float32:
    """The answers to what a plan has asked, float32[n] for int64[n].

    A NaN among them would count as not asked: a child would be stopped for it, or asked for ever.
    What was answered before would count twice.

    Args:
        indices: int64[n].
        scores: float32[n].
        before: float32[N], NaN where there is no answer yet.

    Raises:
        InputError: there is not one score in [0, 1] for each example, or there was one before.
    """
    given = float32(scores, "scores")
    if given.shape != indices.shape:
        raise InputError(
            f"expected {indices.size} scores, one for each example that was asked; got shape "
            f"{given.shape}"
        )
    wrong = ~((given >= 0) & (given <= 1))
    if wrong.any():
        raise InputError(f"scores must be in [0, 1]; got {given[wrong][0]}")
    known = before[indices]
    if (known == known).any():
        raise InputError("scores of an example are recorded once; it has some already")
    return given


class FullPlan:
    """Every example not yet known, in stored order, in one block: there is no early stop."""

    def __init__(self, known: Float32) -> None:
        """Prepare to ask for what is not known, float32[N] with NaN there."""
        self.scores = known.copy()

    @property
    def done(self) -> bool:
        """Every example is answered."""
        return not bool(np.isnan(self.scores).any())

    def next(self) -> Int64:
        """All that is left, int64[n]."""
        return np.flatnonzero(np.isnan(self.scores))

    def record(self, indices: Int64, scores: Float32) -> None:
        """Take in the answers to `next()`."""
        self.scores[indices] = answered(indices, scores, self.scores)


class Selected:
    """A plan for some of the examples, with these numbered as among all of them."""

    def __init__(self, plan: EvaluationPlan, indices: Int64, known: Float32) -> None:
        """Wrap a plan.

        Args:
            plan: for n examples.
            indices: int64[n], rising, where these are among all N.
            known: float32[N], NaN where not asked.
        """
        self.scores = known.copy()
        self._plan, self._indices = plan, indices

    @property
    def done(self) -> bool:
        """Nothing is left to ask."""
        return self._plan.done

    def next(self) -> Int64:
        """The examples to ask next, int64[m], among all N."""
        return self._indices[self._plan.next()]

    def record(self, indices: Int64, scores: Float32) -> None:
        """Take in the answers to `next()`."""
        self._plan.record(self._indices.searchsorted(indices), scores)
        self.scores[indices] = scores
