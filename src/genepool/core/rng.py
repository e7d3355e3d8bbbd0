"""Random numbers of (random seed, step): nothing to store, so nothing to lose on resuming."""

from __future__ import annotations

from functools import cache
from statistics import NormalDist
from typing import cast

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

Generator = np.random.Generator

_MASK = (1 << 64) - 1


def generator(seed: int, step: int, stream: int = 0) -> Generator:
    """Counter-based generator (Philox) for one step; steps and streams never overlap.

    Args:
        seed: any integer; taken modulo 2**64.
        step: at least 0; each owns 2**192 numbers of the sequence.
        stream: at least 0; independent sequences for independent purposes.
    """
    return np.random.Generator(_bits(seed, step, stream))


class _Key(ISeedSequence):
    """A key as it is: given otherwise, Philox asks the system for entropy and throws it away."""

    def __init__(self, seed: int, stream: int) -> None:
        self._words = np.array([seed & _MASK, stream], dtype=np.uint64)

    def generate_state(self, n_words: int, dtype: object = np.uint32) -> NDArray[np.uint64]:
        """Philox asks for the two 64-bit words of its key."""
        return self._words


def _bits(seed: int, step: int, stream: int) -> np.random.Philox:
    counter = np.array([0, 0, 0, step], dtype=np.uint64)
    # (numpy's stubs know of no other key sequences than its own.)
    return np.random.Philox(cast("np.random.SeedSequence", _Key(seed, stream)), counter=counter)


def noise_words(seed: int, step: int, size: int, stream: int = 1) -> NDArray[np.uint16]:
    """The random bits behind a child's noise, uint16[size]; arguments as for `generator`."""
    words = _bits(seed, step, stream).random_raw(-(-size // 4)).astype("<u8", copy=False)
    return words.view("<u2")[:size].astype(np.uint16, copy=False)


def noise(words: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Standard normal noise, float32 of the shape of `words`, the same on every machine.

    Sixteen random bits choose among 65,536 equally likely quantiles of the normal distribution
    (at the middle of each; variance 0.99998, largest value 4.3): a quarter of the time of exact
    sampling, and no mathematical library whose last place differs between processors.
    """
    return quantiles().take(words)


def pick(draws: Generator, weights: NDArray[np.float64]) -> int:
    """Index drawn in proportion to weights (at least 0, one of them above)."""
    ladder = weights.cumsum()
    top = float(ladder[-1])
    drawn = draws.random() * top
    if drawn < top:
        return int(ladder.searchsorted(drawn, side="right"))
    # Rounding has carried the draw past the last step of the ladder.
    return int(np.flatnonzero(weights)[-1])


@cache
def quantiles() -> NDArray[np.float32]:
    """The middles of 65,536 equally likely slices of the standard normal distribution, rising.

    float32[65536], read-only.
    """
    normal = NormalDist()
    half = np.array([normal.inv_cdf((i + 0.5) / 65536) for i in range(32768)], dtype=np.float32)
    table = np.concatenate([half, -half[::-1]])
    table.setflags(write=False)
    return table
