"""Small models and data for the tests of evaluators."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.float32]]


def mlp(widths: Sequence[int], seed: int = 0) -> Arrays:
    """An MLP of these widths with random weights, named layer0, layer1, ..."""
    draws = np.random.default_rng(seed)
    arrays: Arrays = {}
    for layer, (depth, width) in enumerate(pairwise(widths)):
        weight = draws.normal(size=(depth, width)) / np.sqrt(depth)
        arrays[f"layer{layer}.weight"] = weight.astype(np.float32)
        arrays[f"layer{layer}.bias"] = draws.normal(size=width).astype(np.float32)
    return arrays


def inputs(count: int, features: int, zeros: float, seed: int = 0) -> NDArray[np.float32]:
    """float32[count, features] of which a share `zeros` is 0."""
    draws = np.random.default_rng(seed)
    values = draws.normal(size=(count, features)).astype(np.float32)
    values[draws.random(values.shape) < zeros] = 0
    return values


def clouds(
    count: int = 120, features: int = 6, classes: int = 3
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Overlapping clouds of points and the number of the cloud."""
    draws = np.random.default_rng(1)
    centres = draws.normal(size=(classes, features))
    y = np.arange(count) % classes
    return (centres[y] + draws.normal(size=(count, features))).astype(np.float32), y


def specialist(flat: NDArray[np.float32]) -> Arrays:
    """The reference's 64-256-10 network from its flat order W1, b1, W2, b2."""
    return {
        "hidden.weight": flat[:16384].reshape(64, 256).copy(),
        "hidden.bias": flat[16384:16640].copy(),
        "output.weight": flat[16640:19200].reshape(256, 10).copy(),
        "output.bias": flat[19200:].copy(),
    }
