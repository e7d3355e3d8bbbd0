"""The archive: the P members that currently compete, as a value.

Members are never changed in place; `replaced` returns a new archive. What follows from the scores
(contest, fitness, attraction, the bounds of `exam`) is computed when first asked for and kept with
the value, since most children are rejected and leave the archive as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from genepool.core import competition as niches
from genepool.core.genome import Genome

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class Member:
    """A genome with its ancestry.

    Attributes:
        id: number in order of absorption; the seeds come first, from 0.
        genome: how it is made.
        parents: ids of its parents; empty for a seed.
        train: mean training score, weighted by capacity, in [0, 1].
    """

    id: int
    genome: Genome
    parents: tuple[int, ...]
    train: float


@dataclass(frozen=True, eq=False, slots=True)
class Resources:
    """The scored examples that members compete for.

    Attributes:
        weights: float64[N], above 0: capacity of each example when fully solved.
        binary: every score is 0 or 1. Otherwise an example's capacity is scaled by the best score
            that any competitor reaches on it.
        grain: number of examples that are scored at once: it is best to ask for multiples of it.
        blocks: int64[N], the block that each example belongs to, numbered from 0; a block is always
            asked for as a whole. None where every example stands alone.
    """

    weights: Float64
    binary: bool
    grain: int = 1
    blocks: Int64 | None = None

    def capacity(self, best: Float64) -> Float64:
        """float64[N], given the best score on each example."""
        return self.weights if self.binary else self.weights * best

    def mean(self, scores: NDArray[np.floating]) -> float:
        """Mean score weighted by capacity."""
        return float(np.dot(self.weights, scores) / self.weights.sum())


def capacities(weights: Sequence[float], sizes: Sequence[int]) -> Float64:
    """Capacity of each example: tasks weigh alike whatever their size; the mean is 1.

    Args:
        weights: of the tasks, above 0.
        sizes: examples of each task; one at least has some.

    Returns:
        float64[N], the tasks' examples laid end to end.
    """
    held = [weight if size else 0.0 for weight, size in zip(weights, sizes, strict=True)]
    scale = sum(sizes) / sum(held)
    return np.concatenate(
        [
            np.full(size, scale * weight / size) if size else np.zeros(0)
            for weight, size in zip(held, sizes, strict=True)
        ]
    )


@dataclass(frozen=True, eq=False)
class Archive:
    """P slots; an empty slot scores 0 everywhere and loses to anything that solves something.

    Attributes:
        members: P entries, None where a slot is empty.
        scores: float64[P, N], read-only, exactly the float32 values that were measured.
        resources: what is competed for.
        alpha: strength of competition.
    """

    members: tuple[Member | None, ...]
    scores: Float64
    resources: Resources
    alpha: float
    _offers: dict[int, Float64] = field(default_factory=dict[int, Float64])

    def __post_init__(self) -> None:
        self.scores.setflags(write=False)

    @cached_property
    def contest(self) -> Float64:
        """z_j, float64[N]."""
        return self.scores.sum(axis=0)

    @cached_property
    def best(self) -> Float64:
        """Best score on each example, float64[N]."""
        return self.scores.max(axis=0)

    @cached_property
    def price(self) -> Float64:
        """What a full score on each example pays at present, float64[N]."""
        return niches.prices(self.contest, self.resources.capacity(self.best), self.alpha)

    @cached_property
    def fitness(self) -> Float64:
        """float64[P] (eqs. 3 and 5)."""
        return np.add.reduce(self.scores * self.price, axis=1)

    @cached_property
    def occupied(self) -> NDArray[np.bool_]:
        """bool[P]."""
        return np.array([member is not None for member in self.members])

    def offers(self, first: int) -> Float64:
        """Attraction of every member for the one in slot `first`, float64[P] (eq. 4)."""
        if first not in self._offers:
            self._offers[first] = niches.offers(
                self.scores, self.scores[first], self.price, binary=self.resources.binary
            )
        return self._offers[first]

    def challenge(self, child: NDArray[np.floating]) -> tuple[int | None, float]:
        """The slot that a child with these scores takes (None: it is the worst), and its fitness.

        Args:
            child: float[N].
        """
        row = child.astype(np.float64)
        capacity = self.resources.capacity(
            self.best if self.resources.binary else np.maximum(self.best, row)
        )
        slot, fitness = niches.weakest(self.scores, self.contest, row, capacity, self.alpha)
        if slot is not None and None in self.members:
            # An empty slot has fitness 0, as low as any: nobody need leave for the child.
            slot = self.members.index(None)
        return slot, fitness

    def replaced(self, slot: int, member: Member, scores: NDArray[np.floating]) -> Archive:
        """A new archive with `member` in `slot`."""
        matrix = self.scores.copy()
        matrix[slot] = scores
        members = (*self.members[:slot], member, *self.members[slot + 1 :])
        return Archive(members, matrix, self.resources, self.alpha)

    @cached_property
    def slots(self) -> dict[int, int]:
        """Member id -> slot."""
        return {entry.id: slot for slot, entry in enumerate(self.members) if entry is not None}


def empty_archive(size: int, resources: Resources, alpha: float) -> Archive:
    """An archive of `size` empty slots, as the reference starts."""
    return Archive(
        (None,) * size, np.zeros((size, resources.weights.size)), resources, float(alpha)
    )
