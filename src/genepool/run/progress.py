"""What a run tells whoever watches it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from genepool.core.examples import Examples

TaskScores = tuple[tuple[str, float], ...]


def task_scores(examples: Examples, scores: NDArray[np.float32]) -> TaskScores:
    """Name and mean of each task of which something is known.

    Args:
        examples: N examples.
        scores: float32[N] in [0, 1], NaN where not known.
    """
    means = zip(examples.tasks, examples.known_means(scores), strict=True)
    return tuple((task.name, mean) for task, mean in means if mean is not None)


@dataclass(frozen=True, slots=True)
class SeedReport:
    """A seed that was scored.

    Attributes:
        name: of the seed.
        score: mean over all tasks, in [0, 1].
        tasks: task by task.
        seconds: that it took, of all workers together.
    """

    name: str
    score: float
    tasks: TaskScores
    seconds: float


@dataclass(frozen=True, slots=True)
class StepReport:
    """Where a run stands after absorbing a child.

    Attributes:
        evaluations, budget: children absorbed, and to be absorbed.
        session: children absorbed since this call started.
        accepted: of this session's children.
        examples, examples_total: examples asked of this session's children that could be scored,
            and that there were.
        champion: best selection score so far, in [0, 1].
        held_out: the champion's held-out score, where known.
        seconds: since the first child of this session was proposed.
        tasks: the champion's selection score task by task.
    """

    evaluations: int
    budget: int
    session: int
    accepted: int
    examples: int
    examples_total: int
    champion: float
    held_out: float | None
    seconds: float
    tasks: TaskScores = ()


class Progress(Protocol):
    """Who wants to watch."""

    def stage(self, text: str) -> None:
        """Something that takes a while begins."""

    def notice(self, text: str) -> None:
        """Something that is good to know, in one line."""

    def seed(self, report: SeedReport) -> None:
        """A seed was scored."""

    def begin(self, children: int, seconds: float, abreast: int) -> None:
        """So many children are to be scored, so many at a time, each in about so many seconds, had
        it to be asked all examples that it competes for."""

    def asked(self, examples: int, of: int) -> None:
        """So many examples of the model that is being scored are known, of so many."""

    def step(self, report: StepReport) -> None:
        """A child was absorbed; called for each, so it should return quickly."""


class Silence(Progress):
    """Nobody watches."""
