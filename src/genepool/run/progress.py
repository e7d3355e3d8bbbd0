"""What a run tells whoever watches it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StepReport:
    """Where a run stands after absorbing a child.

    Attributes:
        evaluations, budget: children absorbed, and to be absorbed.
        session: children absorbed since this call started.
        accepted: of this session's children.
        examples, examples_total: examples asked of this session's children, and that there were.
        champion: best training score so far, in [0, 1].
        held_out: the champion's held-out score, where known.
        seconds: since the first child of this session was proposed.
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


class Progress(Protocol):
    """Who wants to watch."""

    def stage(self, text: str) -> None:
        """Something that takes a while begins."""
        ...

    def notice(self, text: str) -> None:
        """Something that is good to know, in one line."""
        ...

    def step(self, report: StepReport) -> None:
        """A child was absorbed; called for each, so it should return quickly."""
        ...


class Silence:
    """Nobody watches."""

    def stage(self, text: str) -> None:
        """Ignore."""

    def notice(self, text: str) -> None:
        """Ignore."""

    def step(self, report: StepReport) -> None:
        """Ignore."""
