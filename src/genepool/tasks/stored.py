"""Tasks over a stored list of examples, of which the last are held out."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from genepool.errors import ConfigError
from genepool.messages import agreeing, count
from genepool.tasks.checks import checked_indices

Int64 = NDArray[np.int64]
Labels = NDArray[np.int64] | NDArray[np.str_]
_Found = TypeVar("_Found")


def train_size(size: int, held_out: float) -> int:
    """How many of `size` examples stay for selection: int(size * (1 - held_out)).

    Raises:
        ConfigError: none would stay.
    """
    # A little more than 0, so that 10 examples less a share of 0.9 leave 1 in spite of rounding.
    n = math.floor(size * (1 - held_out) + 1e-9)
    if n < 1:
        raise ConfigError(
            f"held_out: a share of {held_out} of {size} examples leaves none to select by"
        )
    return n


def divided(
    stored: list[_Found],
    held_out: float | None,
    held_out_examples: str | None,
    read: Callable[[str], list[_Found]],
) -> tuple[list[_Found], list[_Found]]:
    """Examples for selection and held-out ones, as the options of these two names say.

    Args:
        stored: examples.
        held_out: a share of them, from the end.
        held_out_examples: where others are, which are held out.
        read: reads these.

    Raises:
        ConfigError: both options are given, or none would stay for selection.
    """
    if held_out_examples is None:
        n = train_size(len(stored), held_out or 0.0)
        return stored[:n], stored[n:]
    if held_out is not None:
        raise ConfigError("'held_out' and 'held_out_examples' exclude each other; give one of them")
    return stored, read(held_out_examples)


def class_by_class(stored: Labels, selection: Labels, held_out: Labels) -> tuple[str, ...]:
    """A line where examples are stored class by class, so that parts of them are of few classes.

    Args:
        stored: labels, in their stored order.
        selection: labels of the first of these.
        held_out: labels; may be empty.
    """
    found, known = np.unique(selection), np.unique(stored)
    others = np.unique(held_out) if held_out.size else known
    mixed = np.count_nonzero(stored[1:] != stored[:-1]) >= known.size
    # Where each example has a label of its own, these are no classes.
    if mixed or 2 * known.size > stored.size or np.array_equal(found, others):
        return ()
    held = ", and the held-out ones" if held_out.size else " of"
    return (
        f"the examples are stored class by class: those for selection have "
        f"{count(found.size, 'label')}{held} {others.size}; store them in a mixed order",
    )


def copies_told(selection: Iterable[Hashable], held_out: Sequence[Hashable]) -> tuple[str, ...]:
    """A line where held-out examples are selection examples under another id.

    Args:
        selection: the content of each, without its id.
        held_out: likewise.
    """
    known = set(selection)
    if not (copies := sum(content in known for content in held_out)):
        return ()
    return (
        f"{copies:,} of {count(len(held_out), 'held-out example')} also "
        f"{agreeing(copies, 'stands', 'stand')} among the selection examples, so that "
        "held-out scores promise too much; leave them out on one side",
    )


class StoredTask(ABC):  # noqa: B024 (what is left to do is in the protocol `Task`)
    """The part of a `Task` that follows from its list of examples."""

    def __init__(self, ids: tuple[str, ...], train: int, digest: str) -> None:
        """Take the list over.

        Args:
            ids: of all examples, all different; the `train` first ones are the selection examples.
            train: their number N.
            digest: of ids, content, and settings that change scores.
        """
        self._ids = ids
        self._n = train
        self._digest = digest

    @property
    def samples(self) -> tuple[str, ...]:
        """Ids of the N selection examples, in their stored order."""
        return self._ids[: self._n]

    @property
    def held_out(self) -> tuple[str, ...]:
        """Ids of the held-out examples, likewise."""
        return self._ids[self._n :]

    @property
    def digest(self) -> str:
        """Other data, another order or other settings that change scores give another."""
        return self._digest

    def _range(self, held_out: bool) -> tuple[int, int]:
        """Where the training, or the held-out, examples begin and end in the list."""
        return (self._n, len(self._ids)) if held_out else (0, self._n)


class BlockedTask(StoredTask):
    """A stored task that scores fixed blocks of consecutive examples, whatever is asked.

    Attributes:
        _batch: examples in a block; the last block of a set may have fewer.
    """

    _batch: int

    @property
    def blocks(self) -> Int64:
        """See `Blocked`; read-only."""
        out = np.arange(self._n, dtype=np.int64) // self._batch
        out.setflags(write=False)
        return out

    def _blocks_of(self, indices: Int64, held_out: bool) -> list[list[int]]:
        """The whole blocks in which examples lie, as places in the list of all.

        Args:
            indices: int64[n], positions among the selection, or the held-out, examples.
            held_out: which of the two.

        Raises:
            EvaluationError: a position is out of range.
        """
        first, last = self._range(held_out)
        numbers: list[int] = np.unique(
            checked_indices(indices, last - first) // self._batch
        ).tolist()
        starts = [first + number * self._batch for number in numbers]
        return [list(range(start, min(start + self._batch, last))) for start in starts]

    def _by_blocks(
        self, indices: Int64, held_out: bool, give: Callable[[list[int]], Iterable[_Found]]
    ) -> list[_Found]:
        """What there is for each example that is asked, in their order.

        Args:
            indices, held_out: as `_blocks_of` takes them; any order, repeats allowed.
            give: gives it for the examples of a block, which lie at these places.
        """
        found: dict[int, _Found] = {}
        for places in self._blocks_of(indices, held_out):
            found.update(zip(places, give(places), strict=True))
        first, _ = self._range(held_out)
        return [found[first + position] for position in indices.tolist()]
