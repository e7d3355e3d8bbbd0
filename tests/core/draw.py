"""Hypothesis strategies for genomes and axes."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st

from genepool.core.axis import Axis
from genepool.core.genome import Recipe, recipe

# Sums and products of these are exact in float64 for a long while, and ties are common.
eighths = st.integers(-16, 16).map(lambda n: n / 8)


@st.composite
def recipes(
    draw: st.DrawFn,
    size: int,
    sources: int,
    values: st.SearchStrategy[float] = eighths,
) -> Recipe:
    """Any recipe over `sources` sources on an axis of `size` positions."""
    inner = draw(st.sets(st.integers(1, size - 1), max_size=6)) if size > 1 else set()
    bounds = [0, *sorted(inner), size]
    return recipe(bounds, draw(hnp.arrays(np.float64, (len(bounds) - 1, sources), elements=values)))


@st.composite
def axes(draw: st.DrawFn, size: int) -> Axis:
    """An axis of up to 6 tensors in up to 3 chromosomes."""
    inner = st.sets(st.integers(1, size - 1), max_size=5) if size > 1 else st.just(set[int]())
    tensors = [0, *sorted(draw(inner)), size]
    cuts = draw(st.sets(st.sampled_from(tensors[1:-1]), max_size=2)) if len(tensors) > 2 else set()
    chromosomes = [0, *sorted(cuts), size]
    return Axis(
        np.array(tensors, dtype=np.int64),
        np.array(chromosomes, dtype=np.int64),
        tuple(f"chromosome {number}" for number in range(len(chromosomes) - 1)),
    )
