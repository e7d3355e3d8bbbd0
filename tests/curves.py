"""Comparisons made up by hand, so that everything in their tables can be worked out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from genepool.study.comparison import Comparison, Curve, assemble


def curve(strategy: str, seed: int, train: float, held_out: float) -> Curve:
    """A run of 100 children: 0.25 at first, half way up at 10 + seed, the final score at 60."""
    at = np.array([0, 50, 100])
    half = (0.25 + train) / 2
    return Curve(
        strategy,
        seed,
        8,
        at,
        np.array([0.25, half, train]),
        np.array([0.25, 0.25, held_out]),
        np.array([0.5, 0.6, 0.7]),
        np.array([0.1, 0.2, 0.3]),
        at * 4,
        np.array([0, 10 + seed, 60]),
        np.array([0.25, half, train]),
        np.array([0.25, 0.25, held_out]),
    )


def comparison(seeds: int, gains: dict[str, float], directory: Path = Path("x")) -> Comparison:
    """Strategy a, and others that are better by so much on every seed."""
    runs = [curve("a", seed, 0.5, 0.5 + seed / 100) for seed in range(seeds)]
    for label, gain in gains.items():
        runs += [curve(label, k, 0.75, 0.5 + k / 100 + gain) for k in range(seeds)]
    return assemble(directory, runs, 100)
