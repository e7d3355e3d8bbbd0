"""Small real pools, made once per test process and not to be changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from genepool.run.evolve import evolve
from tests.runs import write_data, write_run


@pytest.fixture(scope="session")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of 60 children of two seeds, without mutation."""
    folder = tmp_path_factory.mktemp("recipes")
    evolve(write_run(folder, track_held_out=True))
    return folder / "pool"


@pytest.fixture(scope="session")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of 60 children of two seeds, with mutation."""
    folder = tmp_path_factory.mktemp("vectors")
    strategy = {"name": "m2n2", "archive": 6, "mutation": 0.05}
    evolve(write_run(folder, strategy=strategy))
    return folder / "pool"


@pytest.fixture(scope="session")
def two_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of three seeds judged by two tasks, one of them with scores between 0 and 1."""
    folder = tmp_path_factory.mktemp("two-tasks")
    (folder / "smooth.py").write_text(
        "import numpy as np\n"
        "examples = [float(x) for x in np.linspace(-1, 1, 40)]\n"
        "def score(model, chosen):\n"
        "    slope = float(model['output.weight'].mean())\n"
        "    return [1 / (1 + np.exp(-9 * slope * x)) for x in chosen]\n"
    )
    tasks = [
        {"name": "clouds", "evaluator": "classifier", "data": "data.npz"},
        {"name": "smooth", "evaluator": "function", "function": "smooth:score", "held_out": 0.2},
    ]
    seeds = [f"seed{number}.safetensors" for number in (1, 2, 3)]
    evolve(write_run(folder, tasks=tasks, seeds=seeds))
    return folder / "pool"


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of two seeds with a guard that turned children away."""
    folder = tmp_path_factory.mktemp("guarded")
    write_data(folder / "others.npz", seed=1)
    task = {"name": "clouds", "evaluator": "classifier", "data": "data.npz"}
    guard = {**task, "name": "others", "data": "others.npz", "guard": True, "tolerance": 0.02}
    evolve(write_run(folder, tasks=[task, guard]))
    return folder / "pool"
