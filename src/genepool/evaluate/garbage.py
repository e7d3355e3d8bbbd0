"""Answers that no sane model gives: nothing, or one thing over and over."""

from __future__ import annotations

from collections.abc import Sequence

from genepool.errors import EvaluationError
from genepool.weights.wording import one_line

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


def refuse_garbage(answers: Sequence[str], what: str) -> None:
    """Fail a model if more than half of the answers are garbage.

    A seed that does so fails as well, before anything is bred.

    Raises:
        EvaluationError: it says how many of which kind, and shows one.
    """
    empty = [answer for answer in answers if not answer.strip()]
    stuck = [answer for answer in answers if repeats(answer)]
    if 2 * (len(empty) + len(stuck)) <= len(answers):
        return
    shown = f", such as '...{one_line(stuck[0][-24:])}'" if stuck else ""
    raise EvaluationError(
        f"{what}: of {len(answers)} answers in a block {len(empty)} are empty and {len(stuck)} "
        f"repeat without end{shown}; if seeds do so too, 'garbage: false' lets it pass"
    )
