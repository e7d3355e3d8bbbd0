"""What adapters share: tasks that are numbers, actions as text, and rewards."""

from __future__ import annotations

import math
from typing import Annotated, Any, cast

from pydantic import Field

from genepool.errors import EpisodeError
from genepool.messages import one_line, shown, some

# An action is given to an environment with at most so many characters.
LONGEST_ACTION = 4_000
# A split may have so many tasks.
MOST_TASKS = 1_000_000

# How agents are to answer; `action_in` of the evaluator's policies reads it.
FORM = """
Answer each observation with a thought and one action, in this form:

Thought: what you think.
Action: the action."""
ACTING = "You act in an environment, one action at a time, until your task is done.\n" + FORM

# Names of splits -> their tasks: "FIRST-LAST", or a list of numbers.
Splits = dict[str, str | list[Annotated[int, Field(ge=0)]]]


def checked_splits(splits: Splits) -> Splits:
    """Splits as a user gives them; for pydantic.

    Raises:
        ValueError: a range is malformed, or a task occurs twice.
    """
    for name, given in splits.items():
        numbers = task_numbers(given)
        if not 0 < len(numbers) <= MOST_TASKS or len(set(numbers)) != len(numbers):
            raise ValueError(
                f"split '{one_line(name)}': expected tasks as 'FIRST-LAST' or as a list of "
                f"numbers, none of them twice, and at most {MOST_TASKS:,}; got {shown(given)}"
            )
    return splits


def task_numbers(given: str | list[int]) -> range | list[int]:
    """The tasks of a split: all from the first to the last, or those listed; [] if malformed."""
    if not isinstance(given, str):
        return given
    first, dash, last = given.partition("-")
    if not dash or not all(part.isascii() and part.isdecimal() for part in (first, last)):
        return []
    return [] if max(len(first), len(last)) > 9 else range(int(first), int(last) + 1)


def tasks_of(splits: Splits, split: str) -> tuple[str, ...]:
    """The ids of a split's tasks: their numbers.

    Raises:
        EpisodeError: there is no such split.
    """
    if split not in splits:
        raise EpisodeError(
            f"there is no split '{one_line(split)}'; there are {some(splits) or 'none'}: name "
            "others with the environment's setting 'splits'"
        )
    return tuple(map(str, task_numbers(splits[split])))


def task_number(id: str) -> int:
    """The number of a task, from its id.

    Raises:
        EpisodeError: it is no number.
    """
    if id.isascii() and id.isdecimal() and len(id) <= 9:
        return int(id)
    raise EpisodeError(f"there is no task '{one_line(id)}': expected a number")


def action_text(text: str) -> str:
    """An action as any server can read it: halves of characters replaced, cut where it is long."""
    return text[:LONGEST_ACTION].encode("utf-8", "replace").decode()


def number(value: Any) -> float | None:
    """A reward as it stands in JSON; None if it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def texts(value: Any) -> tuple[str, ...] | None:
    """A list of texts, each once; None if it is none."""
    if not isinstance(value, (list, tuple)):
        return None
    items = cast("list[Any]", value)
    return tuple(dict.fromkeys(items)) if all(isinstance(one, str) for one in items) else None


def at(value: Any, path: str) -> Any:
    """What objects of JSON hold by keys with dots between them; None if there is nothing."""
    for key in path.split("."):
        value = cast("dict[str, Any]", value).get(key) if isinstance(value, dict) else None
    return value
