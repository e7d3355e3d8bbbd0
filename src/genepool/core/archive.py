"""The archive: the P members that currently compete, as a value.

Members are never changed in place; `replaced` returns a new archive. What follows from the scores
(contest, fitness, attraction, the bounds of the early stop) is computed when first asked for and
kept with the value, since most children are rejected and leave the archive as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from genepool.core import competition
from genepool.core.competition import Baseline
from genepool.core.examples import Examples
from genepool.core.genome import Genome

Float64 = NDArray[np.float64]


_Array = TypeVar("_Array", bound="NDArray[Any] | None")


def _kept(made: Callable[[Archive], _Array]) -> cached_property[_Array]:
    """Computed once, and read-only: who scales it for a figure must not change the run."""

    def read_only(archive: Archive) -> _Array:
        array = made(archive)
        if array is not None:
            array.setflags(write=False)
        return array

    return cached_property(read_only)


class Verdict(str, Enum):
    """What became of a model that was to be scored; pools store the text."""

    ACCEPTED = "accepted"
    """It entered the archive."""
    REJECTED = "rejected"
    """Fully scored, and less fit than all of the archive."""
    STOPPED = "stopped"
    """Certain to be rejected before all examples were asked."""
    GUARDED = "guarded"
    """It fell too far below the best seed on a guard: it would have been accepted otherwise, or
    taught its strategy something."""
    FAILED = "failed"
    """It could not be scored."""


@dataclass(frozen=True, eq=False, slots=True)
class Member:
    """A genome with its ancestry.

    Attributes:
        id: number in order of absorption; the seeds come first, from 0.
        genome: how it is made.
        parents: ids of its parents; empty for a seed.
        train: mean score on the examples it competes for, in [0, 1].
    """

    id: int
    genome: Genome
    parents: tuple[int, ...]
    train: float


@dataclass(frozen=True, eq=False, repr=False)
class Archive:
    """P slots; an empty slot scores 0 everywhere and loses to anything that solves something.

    Attributes:
        members: P entries, None where a slot is empty.
        scores: float64[P, N], read-only, exactly the float32 values that were measured.
        examples: what is competed for.
        alpha: strength of competition.
        baseline: what is taken off the scores on an example before anybody competes with them. The
            worst score is that of all members, or of all members and the child that challenges
            them; an empty slot has no part in it, and competes with 0 as ever.
    """

    members: tuple[Member | None, ...]
    scores: Float64
    examples: Examples
    alpha: float
    baseline: Baseline = "none"
    _offers: dict[int, Float64] = field(default_factory=dict[int, Float64])

    def __post_init__(self) -> None:
        self.scores.setflags(write=False)

    def __repr__(self) -> str:
        taken = [member.train for member in self.members if member is not None]
        best = f", best {max(taken):.4g}" if taken else ""
        return f"<Archive: {len(taken)} of {len(self.members)} slots taken{best}>"

    @property
    def scaled(self) -> bool:
        """Whether the best score on an example scales its capacity (paper, section 3.2).

        Not where scores are 0 or 1, nor without competition (alpha 0): nothing is shared out then,
        and fitness is the mean score.
        """
        return self.alpha > 0 and not self.examples.binary

    @_kept
    def worst(self) -> Float64 | None:
        """What the baseline takes off the scores on each example, float64[N]; None: nothing."""
        if self.baseline == "none":
            return None
        return self.scores[self.occupied].min(axis=0, initial=1.0)

    @_kept
    def standing(self) -> Float64:
        """What members compete with, float64[P, N]: scores less the baseline."""
        return self.scores if self.worst is None else competition.above(self.scores, self.worst)

    @_kept
    def contest(self) -> Float64:
        """z_j of what members compete with, float64[N]."""
        return self.standing.sum(axis=0)

    @_kept
    def best(self) -> Float64:
        """The best of it on each example, float64[N]."""
        return self.standing.max(axis=0)

    @_kept
    def average(self) -> Float64:
        """Mean score on each example, float64[N]."""
        return self.scores.sum(axis=0) / len(self.members)

    @_kept
    def price(self) -> Float64:
        """What a full score on each example pays at present, float64[N]."""
        capacity = self.examples.capacity
        capacity = capacity * self.best if self.scaled else capacity
        return competition.prices(self.contest, capacity, self.alpha)

    @_kept
    def fitness(self) -> Float64:
        """float64[P] (eqs. 3 and 5)."""
        return np.add.reduce(self.standing * self.price, axis=1)

    @_kept
    def occupied(self) -> NDArray[np.bool_]:
        """bool[P]."""
        return np.array([member is not None for member in self.members])

    def offers(self, first: int) -> Float64:
        """Attraction of every member for the one in slot `first`, float64[P] (eq. 4)."""
        if first not in self._offers:
            standing, binary = self.standing, self.examples.binary
            found = competition.offers(standing, standing[first], self.price, binary=binary)
            found.setflags(write=False)
            self._offers[first] = found
        return self._offers[first]

    def challenge(self, child: NDArray[np.floating]) -> tuple[int | None, float]:
        """The slot that a child with these scores takes (None: it is the worst), and its fitness.

        Args:
            child: float[N].
        """
        row = child.astype(np.float64)
        standing, contest, best = self.standing, self.contest, self.best
        if self.worst is not None:
            worst = np.minimum(self.worst, row)
            standing, row = competition.above(self.scores, worst), competition.above(row, worst)
            contest, best = standing.sum(axis=0), standing.max(axis=0)
        capacity = self.examples.capacity
        capacity = capacity * np.maximum(best, row) if self.scaled else capacity
        slot, fitness = competition.weakest(standing, contest, row, capacity, self.alpha)
        if slot is not None and None in self.members:
            # An empty slot has fitness 0, as low as any: nobody need leave for the child.
            slot = self.members.index(None)
        return slot, fitness

    def replaced(self, slot: int, member: Member, scores: NDArray[np.floating]) -> Archive:
        """A new archive with `member` in `slot`."""
        matrix = self.scores.copy()
        matrix[slot] = scores
        members = (*self.members[:slot], member, *self.members[slot + 1 :])
        return Archive(members, matrix, self.examples, self.alpha, self.baseline)

    @cached_property
    def slots(self) -> dict[int, int]:
        """Member id -> slot."""
        return {entry.id: slot for slot, entry in enumerate(self.members) if entry is not None}


def empty_archive(
    size: int, examples: Examples, alpha: float, baseline: Baseline = "none"
) -> Archive:
    """An archive of `size` empty slots, as the reference starts."""
    scores = np.zeros((size, examples.size))
    return Archive((None,) * size, scores, examples, float(alpha), baseline)
