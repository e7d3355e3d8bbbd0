"""The history of a pool against a fold that keeps everything, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genepool.core import competition as niches
from genepool.errors import InputError
from genepool.pool.history import history
from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from tests.runs import write_run

VARIANTS: list[dict[str, Any]] = [
    {"track_held_out": True},
    {"strategy": {"name": "m2n2", "archive": 6, "mutation": 0.05}},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=["recipes", "vectors"])
def test_history_is_what_the_archive_was_after_each_child(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    evolve(write_run(tmp_path, **changes))
    with Pool(tmp_path / "pool") as pool:
        past = history(pool)
        measured = pool.held_out()
        assert past.evaluations.tolist() == list(range(61))
        assert past.accepted[-1] == pool.status()["accepted"]
        for point in (0, 1, 2, 7, 30, 59, 60):
            last = len(pool.seeds()) - 1 + point
            alive = [pool.record(member) for member in pool.slots(last).values()]
            matrix = np.stack([record.scores for record in alive if record.scores is not None])
            assert past.coverage[point] == niches.coverage(matrix)
            assert past.entropy[point] == pytest.approx(niches.entropy(matrix), rel=1e-12)
            ever = [r for r in pool.records(accepted=True) if r.id <= last and r.train is not None]
            best = max(ever, key=lambda record: (record.train or 0.0, -record.id))
            assert past.train[point] == best.train
            assert past.accepted[point] == sum(record.step > 0 for record in ever)
            known = measured.get(best.id, float("nan"))
            assert past.held_out[point] == known or (
                np.isnan(known) and np.isnan(past.held_out[point])
            )
        champion = pool.status()["champion"]
        assert past.train[-1] == champion["train"]
        if changes.get("track_held_out"):
            assert not np.isnan(past.held_out[1:]).any()


def test_fewer_points_are_points_of_the_full_history(tmp_path: Path) -> None:
    evolve(write_run(tmp_path))
    with Pool(tmp_path / "pool") as pool:
        full, thin = history(pool), history(pool, points=7)
    assert thin.evaluations.tolist() == [0, 10, 20, 30, 40, 50, 60]
    for name in ("accepted", "train", "coverage", "entropy"):
        assert np.array_equal(getattr(thin, name), getattr(full, name)[thin.evaluations])
    with pytest.raises(ValueError, match="read-only"):
        thin.train[0] = 1.0


def test_a_pool_of_seeds_alone_has_one_point(tmp_path: Path) -> None:
    evolve(write_run(tmp_path, budget=0))
    with Pool(tmp_path / "pool") as pool:
        past = history(pool)
        assert past.evaluations.tolist() == [0]
        assert past.train[0] == max(seed["train"] for seed in pool.status()["seeds"])
        with pytest.raises(InputError, match="at least 2 points; got 1"):
            history(pool, points=1)
