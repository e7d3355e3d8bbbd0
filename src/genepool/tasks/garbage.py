"""Answers that no sane model gives: nothing, or one thing over and over; unless the seeds do."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from genepool.errors import EvaluationError
from genepool.messages import one_line
from genepool.models.language import LanguageModel

# An answer repeats without end if its last characters, at least so many, are a unit of at most so
# many characters again and again, at least so many times.
_TAIL, _UNIT, _TIMES = 48, 32, 4


def repeats(text: str) -> bool:
    """Whether a text ends in endless repetition: of a character, a word or a short phrase."""
    text = text.rstrip()
    for unit in range(1, min(_UNIT, len(text) // _TIMES) + 1):
        length = max(_TAIL, _TIMES * unit)
        tail = text[-length:]
        if len(tail) == length and tail[unit:] == tail[:-unit]:
            return True
    return False


class GarbageCheck:
    """Fails models that answer with garbage where the seeds do not.

    The seeds are asked only about blocks in which a model looks broken, and once for each block.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._seeds: dict[Hashable, float] = {}

    def __call__(
        self,
        answers: Sequence[str],
        block: Hashable,
        model: LanguageModel,
        ask: Callable[[], Sequence[str]],
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
        empty, stuck = _garbage(answers)
        if 2 * (len(empty) + len(stuck)) <= len(answers):
            return
        if block not in self._seeds:
            self._seeds[block] = self._worst(model, ask)
        usual = self._seeds[block]
        if (len(empty) + len(stuck)) / len(answers) <= usual + 0.5:
            return
        shown = f", such as '...{one_line(stuck[0][-24:])}'" if stuck else ""
        raise EvaluationError(
            f"{self._what}: of {len(answers)} answers in a block {len(empty)} are empty and "
            f"{len(stuck)} repeat without end{shown}, and {usual:.0%} of a seed's at most; if that "
            "is as it should be, 'garbage: false' lets it pass"
        )

    def _worst(self, model: LanguageModel, ask: Callable[[], Sequence[str]]) -> float:
        """The largest share of garbage in a seed's answers; 0 where there are no seeds to ask."""

        def share() -> float:
            try:
                answers = ask()
            except EvaluationError:
                # It is told when that seed is scored.
                return 0.0
            return sum(map(len, _garbage(answers))) / max(len(answers), 1)

        return 0.0 if model.of_seeds is None else max(model.of_seeds(share), default=0.0)


def _garbage(answers: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those that are empty, and those that repeat."""
    empty = [answer for answer in answers if not answer.strip()]
    return empty, [answer for answer in answers if repeats(answer)]
