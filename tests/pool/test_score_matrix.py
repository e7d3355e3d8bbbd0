"""Who solves what: the order of the examples, their columns, and who is best at each."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from genepool.pool.reader import Pool
from genepool.pool.score_matrix import best_members, in_columns, score_matrix
from genepool.run.evolve import evolve
from tests.runs import write_run


@pytest.fixture(scope="module")
def two_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("matrix")
    task = {"evaluator": "classifier", "data": "data.npz"}
    tasks = [{**task, "name": "a", "held_out": 0.5}, {**task, "name": "b", "held_out": 0.9}]
    evolve(write_run(folder, tasks=tasks, budget=30))
    return folder / "pool"


def test_examples_stand_by_task_then_by_seeds_then_by_members(two_tasks: Path) -> None:
    with Pool(two_tasks) as pool:
        found, slots = score_matrix(pool), pool.slots()
        seeds = np.stack([r.scores for r in pool.records(last=1) if r.scores is not None])
        alive = pool.chosen(found.members)
        archive = np.stack([r.scores for r in alive.values() if r.scores is not None])
        trains = [record.train or 0.0 for record in alive.values()]
    assert sorted(found.members) == sorted(slots.values())
    assert trains == sorted(trains, reverse=True)
    assert found.edges.tolist() == [0, 75, 90]
    order: list[int] = []
    for start, stop in ((0, 75), (75, 90)):
        rows = zip(-seeds[0], -seeds[1], -archive.sum(axis=0), range(90), strict=True)
        order += [number for *_, number in sorted(list(rows)[start:stop])]
    np.testing.assert_array_equal(found.seeds, seeds[:, order])
    np.testing.assert_array_equal(found.archive, archive[:, order])
    # So that it is an order at all: both seeds solve some that the other does not.
    assert {(1.0, 0.0), (0.0, 1.0)} <= {tuple(pair) for pair in seeds.T.tolist()}


@pytest.mark.parametrize(("examples", "columns"), [(10, 3), (7, 7), (3, 10), (1000, 7)])
def test_columns_are_means_of_neighbours(examples: int, columns: int) -> None:
    scores = np.random.default_rng(0).random((2, examples)).astype(np.float32)
    found = in_columns(scores, columns)
    count = min(examples, columns)
    edges = [number * examples // count for number in range(count + 1)]
    means = [scores[:, start:stop].mean(axis=1) for start, stop in pairwise(edges)]
    np.testing.assert_allclose(found, np.array(means).T, rtol=1e-5)


def test_who_is_best_at_an_example(tmp_path: Path) -> None:
    """With subsets some are not known on it: these are not the best."""
    strategy = {"name": "m2n2", "archive": 6, "share": 0.25, "renew": 20}
    evolve(write_run(tmp_path, strategy=strategy, budget=30))
    with Pool(tmp_path / "pool") as pool:
        alive = {number: pool.record(number).scores for number in sorted(pool.slots().values())}
        indices = np.arange(pool.examples.size)
        found = best_members(pool, indices)
    unknown = 0
    for index, member in enumerate(found.tolist()):
        scores = {n: float(row[index]) for n, row in alive.items() if row is not None}
        known = {number: score for number, score in scores.items() if score == score}
        unknown += len(known) < len(scores)
        assert member == min(known, key=lambda number: (-known[number], number))
    assert unknown
