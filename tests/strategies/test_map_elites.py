"""The cells of MAP-Elites' grid are pyribs', bit for bit."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.core.archive import Member
from genepool.core.examples import TaskExamples, examples_of, lay_out
from genepool.core.genome import seed_recipe
from genepool.errors import ConfigError
from genepool.strategies.map_elites import MapElites, Measure, cell_of
from genepool.strategies.problem import Problem


@cache
def grid(cells: int, dimensions: int) -> Any:
    archives = pytest.importorskip("ribs.archives")
    return archives.GridArchive(
        solution_dim=0, dims=[cells] * dimensions, ranges=[(0.0, 1.0)] * dimensions
    )


def theirs(measures: list[float], cells: int) -> int:
    return int(grid(cells, len(measures)).index_of(np.array([measures]))[0])


@st.composite
def near_edges(draw: st.DrawFn) -> tuple[int, list[float]]:
    """Numbers of cells, and measures on, just below or just above the edges of cells."""
    cells = draw(st.sampled_from([2, 3, 7, 10, 20, 100]))
    edge = st.integers(0, cells).map(lambda k: k / cells)
    shift = st.sampled_from([0.0, 1e-16, -1e-16, 1e-9, -1e-9, 1e-8, -1e-8, 1.1e-7, -1.1e-7, 1e-6])
    on = st.tuples(edge, shift).map(lambda pair: min(1.0, max(0.0, pair[0] + pair[1])))
    below = edge.map(lambda value: max(0.0, float(np.nextafter(value, 0.0))))
    # As they come about: means of float32 scores.
    mean = st.tuples(st.integers(1, 400), st.integers(0, 400)).map(
        lambda pair: float(np.float32(min(pair) / pair[0]))
    )
    anything = st.floats(0.0, 1.0)
    measures = draw(st.lists(st.one_of(on, below, mean, anything), min_size=1, max_size=4))
    return cells if cells ** len(measures) <= 100_000 else 10, measures


@pytest.mark.slow
@given(near_edges())
def test_the_cell_is_the_one_of_pyribs(case: tuple[int, list[float]]) -> None:
    cells, measures = case
    assert cell_of(measures, cells) == theirs(measures, cells)


def grid_of(labels: tuple[str, ...], wanted: list[str], cells: int = 100) -> tuple[Any, Any]:
    """A strategy over one task, and its state at the beginning."""
    scored = lay_out([TaskExamples("a", len(labels), labels=labels)], binary=True)
    problem = Problem.of_vectors([np.ones(3)], scored)
    strategy = MapElites(measures=[Measure(task="a", labels=wanted)], cells=cells)
    return strategy, strategy.begin(problem, 1)


def test_every_share_of_a_hundred_examples_has_its_cell() -> None:
    strategy, state = grid_of(("x",) * 100, ["x"])
    for solved in range(101):
        scores = (np.arange(100) < solved).astype(np.float32)
        member = Member(solved, seed_recipe(3, 0, 1), (), solved / 100)
        _, outcome = strategy.absorb(state, member, 1, scores)
        assert outcome.slot == min(solved, 99)


@pytest.mark.parametrize("wanted", [["z"], ["x", "z"], ["x", "z", "y"]])
def test_a_label_that_there_is_not_is_named(wanted: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"no examples labelled z; its labels: x, y$"):
        grid_of(("x", "y", "x"), wanted)


@pytest.mark.parametrize("cells", [2, 3, 7, 10, 33, 100])
def test_borders(cells: int) -> None:
    assert cell_of([0.0], cells) == 0 and cell_of([1.0], cells) == cells - 1
    assert cell_of([1.0, 0.0], cells) == cells * (cells - 1)
    for k in range(cells + 1):
        # pyribs adds a millionth of a cell, so that a product's rounding does not matter; a value
        # that lies further below an edge is in the cell below.
        for value in (k / cells, k / cells - 0.9e-6 / cells, k / cells - 1.1e-6 / cells):
            if value >= 0:
                assert cell_of([value], cells) == theirs([value], cells)
        assert cell_of([k / cells], cells) == min(k, cells - 1)


def test_who_is_no_better_than_the_occupant_of_a_cell_does_not_replace_it() -> None:
    problem = Problem.of_vectors([np.zeros(2), np.ones(2)], examples_of(4, binary=True))
    strategy = MapElites(measures=[Measure(task="examples")], cells=2)
    state = strategy.begin(problem, 1)
    told: list[tuple[str, int | None, int | None]] = []
    for number, solved in enumerate([2, 2, 1, 3, 3]):
        scores = np.array([1.0] * solved + [0.0] * (4 - solved), dtype=np.float32)
        member = Member(number, seed_recipe(2, 0, 2), (), solved / 4)
        state, outcome = strategy.absorb(state, member, number, scores)
        told.append((outcome.verdict.value, outcome.slot, outcome.evicted))
    assert told == [
        ("accepted", 1, None),
        ("rejected", None, None),
        ("accepted", 0, None),
        ("accepted", 1, 0),
        ("rejected", None, None),
    ]
