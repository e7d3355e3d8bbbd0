"""Tasks over a stored list of examples, of which the last are held out."""

from __future__ import annotations

import math
from abc import ABC

from genepool.errors import ConfigError


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
