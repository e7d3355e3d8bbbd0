"""Answers that no sane model gives, unless the seeds give them too."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from genepool.errors import EvaluationError
from genepool.messages import one_line
from genepool.models.live import Answering


class GarbageCheck:
    """Fails models that answer with garbage where the seeds do not.

    The seeds are asked only about blocks in which a model looks broken, and once for each block.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._seeds: dict[Hashable, float] = {}

    def __call__(
        self,
        answers: Sequence[Any],
        block: Hashable,
        model: Answering,
        ask: Callable[[], Sequence[Any]],
    ) -> None:
        """Fail a model if garbage is more than half of its answers beyond what a seed's hold.

        Args:
            answers: the model's, to one block of examples.
            block: which block that is.
            model: the model.
            ask: gives the answers of the live model to this block, whatever weights it holds.

        Raises:
            EvaluationError: it says how many of which kind, and shows one.
        """
        found = model.garbage(answers)
        if 2 * _count(found) <= len(answers):
            return
        if block not in self._seeds:
            self._seeds[block] = self._worst(model, ask)
        usual = self._seeds[block]
        if _count(found) / len(answers) <= usual + 0.5:
            return
        example = next((text for texts in found.values() for text in texts if text), "")
        shown = f", such as '{one_line(example)}'" if example else ""
        kinds = " and ".join(f"{len(texts)} {what}" for what, texts in found.items())
        raise EvaluationError(
            f"{self._what}: of {len(answers)} answers in a block {kinds}{shown}, and {usual:.0%} "
            "of a seed's at most; if that is as it should be, 'garbage: false' lets it pass"
        )

    def _worst(self, model: Answering, ask: Callable[[], Sequence[Any]]) -> float:
        """The largest share of garbage in a seed's answers; 0 where there are no seeds to ask."""

        def share() -> float:
            try:
                answers = ask()
            except EvaluationError:
                # It is told when that seed is scored.
                return 0.0
            return _count(model.garbage(answers)) / max(len(answers), 1)

        return 0.0 if model.of_seeds is None else max(model.of_seeds(share), default=0.0)


def _count(found: Mapping[str, Sequence[str]]) -> int:
    return sum(map(len, found.values()))
