"""`in_flight: auto`: a number when a run begins, and the same one ever after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genepool.errors import ConfigError
from genepool.pool.reader import Pool
from genepool.run.evolve import _abreast, evolve
from genepool.run.progress import Silence
from genepool.run.run_file import load_run, settled
from tests.runs import contents, write_run


def pinned(pool: Path) -> int:
    with Pool(pool) as opened:
        return opened.meta()["pins"]["in_flight"]


def test_one_worker_has_one_in_flight(tmp_path: Path) -> None:
    evolve(write_run(tmp_path / "auto", in_flight="auto"))
    evolve(write_run(tmp_path / "one"))
    assert pinned(tmp_path / "auto/pool") == 1
    assert contents(tmp_path / "auto/pool") == contents(tmp_path / "one/pool")


@pytest.mark.parametrize(
    ("settings", "devices", "abreast"),
    [
        ({"in_flight": 8}, (), 1),
        ({"in_flight": 8, "executor": "process", "workers": 2}, (), 2),
        ({"in_flight": 2, "executor": "process", "workers": 8}, (), 2),
        ({"in_flight": 8, "executor": "process", "workers": 2}, ("cpu",) * 4, 4),
        ({"in_flight": 8, "executor": "ray", "workers": 3}, (), 3),
        # A cluster's room is not known before it answers.
        ({"in_flight": 8, "executor": "ray"}, (), 8),
    ],
)
def test_no_more_are_scored_at_a_time_than_there_are_workers(
    tmp_path: Path, settings: dict[str, Any], devices: tuple[str, ...], abreast: int
) -> None:
    """What a run is expected to take was told as if all in flight were scored at once."""
    assert _abreast(load_run(write_run(tmp_path, **settings)), devices) == abreast


@pytest.mark.slow
def test_worker_processes_are_told_as_such(tmp_path: Path) -> None:
    begun: list[tuple[int, int]] = []

    class Begun(Silence):
        def begin(self, children: int, seconds: float, abreast: int) -> None:
            begun.append((children, abreast))

    file = write_run(tmp_path, in_flight=4, executor="process", workers=2, budget=8)
    evolve(file, progress=Begun())
    assert begun == [(8, 2)]


@pytest.mark.slow
def test_a_run_keeps_the_number_that_it_began_with(tmp_path: Path) -> None:
    evolve(write_run(tmp_path / "whole", in_flight=4, budget=40))
    auto: dict[str, Any] = {"in_flight": "auto"}
    evolve(write_run(tmp_path / "auto", **auto, executor="process", workers=2, budget=20))
    evolve(write_run(tmp_path / "auto", **auto, executor="process", workers=1, budget=30))
    evolve(write_run(tmp_path / "auto", **auto, budget=40))
    assert pinned(tmp_path / "auto/pool") == 4
    # All but the held-out scores of what was the champion at the end of each call.
    *rows, _, slots = contents(tmp_path / "auto/pool")
    *expected, _, expected_slots = contents(tmp_path / "whole/pool")
    assert (rows, slots) == (expected, expected_slots)
    # Done: nothing is opened again.
    assert evolve(write_run(tmp_path / "auto", **auto, budget=40)).session == 0


@pytest.mark.parametrize(
    ("strategy", "number"),
    [
        ({"name": "m2n2"}, 40),
        ({"name": "m2n2", "share": 0.5, "renew": 7}, 7),
        ({"name": "cma-es", "population": 9}, 9),
    ],
)
def test_no_more_than_the_strategy_allows(
    tmp_path: Path, strategy: dict[str, Any], number: int
) -> None:
    if strategy["name"] == "cma-es":
        pytest.importorskip("cma")
    settings = {"strategy": strategy, "in_flight": "auto", "executor": "process", "workers": 20}
    run = load_run(write_run(tmp_path, **settings))
    assert settled(run, 20, None).config.in_flight == number
    # What a pool began with is not changed by what would be right for more workers.
    assert settled(run, 20, 3).config.in_flight == 3


def test_workers_of_a_cluster_must_be_counted(tmp_path: Path) -> None:
    file = write_run(tmp_path, in_flight="auto", executor="ray")
    with pytest.raises(ConfigError, match=r"run.yaml, line \d+: in_flight: 'auto' needs a number"):
        evolve(file)
