"""How much of a genome comes from each seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genepool.core.genome import Recipe
from genepool.errors import InputError

Float64 = NDArray[np.float64]


def seed_shares(genome: Recipe, bins: int = 1) -> Float64:
    """How much of each stretch of weights comes from each seed, by the size of its coefficients.

    Args:
        genome: over K seeds.
        bins: number of equal stretches into which the parameter axis is divided.

    Returns:
        float64[bins, K]; each row sums to 1, or is 0 where every coefficient is.
    """
    if bins < 1:
        raise InputError(f"bins must be at least 1; got {bins}")
    return shares_between(genome, np.linspace(0, genome.size, bins + 1))


def shares_between(genome: Recipe, edges: NDArray[np.int64] | Float64) -> Float64:
    """Like `seed_shares`, over the stretches between given positions.

    Args:
        genome: over K seeds.
        edges: int64 or float64[B+1], strictly increasing, in [0, D].

    Returns:
        float64[B, K].
    """
    sizes = np.abs(genome.coefs)
    totals = sizes.sum(axis=1, keepdims=True)
    shares = np.divide(sizes, totals, out=np.zeros_like(sizes), where=totals > 0)
    # The integral of the shares at the bounds is piecewise linear, so its differences are exact.
    lengths = np.diff(genome.bounds)[:, None]
    integral = np.concatenate([np.zeros((1, genome.sources)), np.cumsum(shares * lengths, axis=0)])
    columns = [np.interp(edges, genome.bounds, integral[:, k]) for k in range(genome.sources)]
    return np.diff(np.stack(columns, axis=1), axis=0) / np.diff(edges)[:, None]
