"""Competing for a part of the examples at a time, renewed every so often.

Members are comparable only on the same examples. So the archive and every child are asked the same
subset; when it has served its number of children another is drawn, and whoever is in the archive is
asked what is new to it before the next child is bred.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from genepool.core.early_stop.evaluation_plan import EvaluationPlan, Selected
from genepool.core.examples import Examples
from genepool.core.rng import generator

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]

_STREAM = 1 << 33


@dataclass(frozen=True, slots=True)
class Subsets:
    """How examples are spent.

    Attributes:
        share: part of the examples that a subset has, in (0, 1).
        renew: number of children after which others are drawn, at least 1.
        finalists: members of the archive that are scored on all examples in the end, so that the
            best of them is known for certain.
    """

    share: float
    renew: int
    finalists: int = 5

    def number_after(self, done: int) -> int:
        """The number of the subset that the last of this many children belongs to, from 0."""
        return max(0, done - 1) // self.renew


@dataclass(frozen=True, eq=False, slots=True)
class Subset:
    """The examples that members compete for, while it lasts.

    Attributes:
        number: from 0.
        start: number of children before it.
        stop: number of children after which it is over; None: it never is.
        indices: int64[n], rising, positions among all N examples; None: all of them.
        examples: the same n examples with their capacities.
    """

    number: int
    start: int
    stop: int | None
    indices: Int64 | None
    examples: Examples

    @property
    def size(self) -> int:
        """Number n of examples."""
        return self.examples.size

    def part(self, scores: Float32) -> Float32:
        """The scores on these examples, float32[n], of float32[N]."""
        return scores if self.indices is None else scores[self.indices]

    def mean(self, scores: Float32) -> float:
        """Mean score on these examples, of float32[N]."""
        return self.examples.mean(self.part(scores))

    def whole(self, questions: EvaluationPlan, known: Float32) -> EvaluationPlan:
        """EvaluationPlan about these examples as questions about all, of which `known` is known."""
        return questions if self.indices is None else Selected(questions, self.indices, known)


def everything(examples: Examples) -> Subset:
    """The one subset of a run in which members compete for all examples."""
    return Subset(0, 0, None, None, examples)


def draw_subset(subsets: Subsets, number: int, examples: Examples, seed: int) -> Subset:
    """Subset `number`, a function of its arguments alone.

    From every task the same share is drawn, in whole blocks where examples are asked in blocks, and
    at least one block; a task weighs what it weighs as a whole.

    Args:
        subsets: the share, and for how many children one serves.
        number: from 0.
        examples: all N examples.
        seed: the random seed.
    """
    draws = generator(seed, number, stream=_STREAM)
    blocks = examples.blocks
    chosen: list[Int64] = []
    for start, stop in pairwise(examples.edges):
        names = np.arange(start, stop) if blocks is None else blocks[start:stop]
        found, sizes = np.unique(names, return_counts=True)
        order = draws.permutation(found.size)
        enough = max(1, round(subsets.share * (stop - start)))
        count = int(sizes[order].cumsum().searchsorted(enough)) + 1
        chosen.append(start + np.flatnonzero(np.isin(names, found[order[:count]])))
    indices = np.concatenate(chosen)
    begin = number * subsets.renew
    return Subset(number, begin, begin + subsets.renew, indices, examples.select(indices))
