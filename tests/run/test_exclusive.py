"""Environments that keep one episode for all who ask are played in by one process at a time."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from genepool.errors import ConfigError
from genepool.run.evolve import evolve
from tests.quick import quick
from tests.runs import write_run
from tests.tasks.agent.environments.test_openenv import KEYS, Protocol, Server, serving

pytest.importorskip("websockets")

_NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def _marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "cache"))


_POLICY = """
def act(model, asked):
    return [str(int(abs(float(model["hidden.bias"].sum())) * 10) % 3) for _ in asked]
"""


def _run(directory: Path, server: Server, task: dict[str, Any], **settings: Any) -> Path:
    module = f"exclusive_{next(_NUMBERS)}"
    (directory / f"{module}.py").write_text(_POLICY)
    played = {
        "name": "guess",
        "evaluator": "agent",
        "environment": "openenv",
        "policy": f"{module}:act",
        "settings": {"url": server.url, "transport": "http", "splits": {"train": "0-5"}, **KEYS},
        "batch": 1,
        "rounds": 2,
        **task,
    }
    clouds = {"name": "clouds", "evaluator": "classifier", "data": "data.npz"}
    tasks = [clouds, played] if task.get("guard") else [played]
    return write_run(directory, tasks=tasks, budget=3, **settings)


@pytest.mark.parametrize("task", [{}, {"guard": True, "tolerance": 1.0}])
@pytest.mark.parametrize(
    "settings",
    [
        {"executor": "process", "workers": 2, "in_flight": 2},
        {"executor": "process", "devices": ["cpu"], "workers": 3, "in_flight": 3},
        {"executor": "ray", "in_flight": 2},
    ],
    ids=["workers", "devices", "ray"],
)
def test_several_workers_are_refused_before_anything_is_written(
    settings: dict[str, Any], task: dict[str, Any], tmp_path: Path
) -> None:
    with serving(Protocol()) as server:
        file = _run(tmp_path, server, task, **settings)
        with pytest.raises(ConfigError, match=r"several workers, and task 'guess'.*'workers: 1'"):
            evolve(file)
    assert not (tmp_path / "pool").exists()


@pytest.mark.parametrize("settings", quick([{}, {"executor": "process", "workers": 1}]))
def test_one_process_plays_there(settings: dict[str, Any], tmp_path: Path) -> None:
    with serving(Protocol()) as server:
        assert evolve(_run(tmp_path, server, {}, **settings)).status["evaluations"] == 3


def test_episodes_that_are_played_together_are_refused_at_opening(tmp_path: Path) -> None:
    with serving(Protocol()) as server:
        with pytest.raises(ConfigError, match=r"'openenv' keeps no more than one .*'batch: 1'"):
            evolve(_run(tmp_path, server, {"batch": 4}))
        assert not any("reset" in one for one in server.asked)
