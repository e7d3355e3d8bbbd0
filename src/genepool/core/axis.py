"""The parameter axis: mergeable parameters in depth order, and what core asks of seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from genepool.errors import InputError


@dataclass(frozen=True, eq=False, slots=True)
class Axis:
    """Positions 0..D and where they divide.

    Attributes:
        tensors: int64[T+1], increasing from 0 to D; tensor t holds tensors[t]..tensors[t+1].
        chromosomes: int64[C+1], a subset of `tensors`; each stretch splits on its own.
        names: the C chromosome names.
        cuts: `chromosomes` as plain numbers.
    """

    tensors: NDArray[np.int64]
    chromosomes: NDArray[np.int64]
    names: tuple[str, ...]
    cuts: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cuts", tuple(self.chromosomes.tolist()))
        self.tensors.setflags(write=False)
        self.chromosomes.setflags(write=False)

    @property
    def size(self) -> int:
        """Number D of mergeable parameters."""
        return int(self.tensors[-1])


def axis(size: int, tensors: list[int] | None = None) -> Axis:
    """A parameter axis of one chromosome; `tensors` are the inner tensor boundaries, if any."""
    if size < 1:
        raise InputError(f"a parameter axis needs at least one parameter; got {size}")
    inner = sorted(set(tensors or []) - {0, size})
    if inner and not 0 < inner[0] <= inner[-1] < size:
        raise InputError(f"tensor boundaries must lie inside 0..{size}; got {inner}")
    return Axis(
        np.array([0, *inner, size], dtype=np.int64), np.array([0, size], dtype=np.int64), ("all",)
    )


class InnerProducts(Protocol):
    """Inner products of the K seeds over stretches of their parameter axis (the prefix Gram)."""

    def between(self, edges: NDArray[np.int64]) -> NDArray[np.float64]:
        """Inner products over each stretch between neighbouring edges.

        Args:
            edges: int64[n+1], not decreasing, inside 0..D.

        Returns:
            float64[n, K, K]: `sum(seed_i[a:b] * seed_j[a:b])` for each stretch a..b, with the
            precision of that stretch (not of a difference of sums over all weights). One call
            with many edges costs little more than one with few: recipes have thousands of
            segments, and an edge inside a block is read from the seeds once and remembered.
        """
        ...


_BLOCK = 4096


class ArrayProducts:
    """Inner products of seeds that are held in memory."""

    def __init__(self, seeds: Sequence[NDArray[np.float32]]) -> None:
        """Take the seeds, float32[D] each, and sum their products block by block."""
        self._seeds = np.stack(seeds)
        starts = np.arange(0, int(self._seeds.shape[1]), _BLOCK, dtype=np.int64)
        sums = np.empty((len(seeds), len(seeds), starts.size))
        for i, one in enumerate(self._seeds.astype(np.float64)):
            for j, other in enumerate(self._seeds):
                np.add.reduceat(one * other, starts, out=sums[i, j])
        self._sums = sums

    def between(self, edges: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `InnerProducts`."""
        return np.stack([self._sum(a, b) for a, b in pairwise(edges.tolist())])

    def _sum(self, start: int, stop: int) -> NDArray[np.float64]:
        """float64[K, K] over one stretch: whole blocks as they were summed, the ends anew."""
        first, last = -(-start // _BLOCK), stop // _BLOCK
        if first >= last:
            return self._dots(start, stop)
        whole = self._sums[:, :, first:last].sum(axis=2)
        return whole + self._dots(start, first * _BLOCK) + self._dots(last * _BLOCK, stop)

    def _dots(self, start: int, stop: int) -> NDArray[np.float64]:
        part = self._seeds[:, start:stop].astype(np.float64)
        return part @ part.T
