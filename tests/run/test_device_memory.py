"""Where a device has no memory left, a run ends with one line that says what would fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from genepool.errors import DeviceMemoryError
from genepool.materialise.device_memory import (
    Taken,
    device_needed,
    seeds_fit,
    told,
    work_bytes,
)
from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from tests.cli import run_cli
from tests.run.test_smallest import one_example
from tests.runs import CLASSES, FEATURES, HIDDEN

TRIED = "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 79 GiB"

# What the functions below are to do, by the names of what happens.
FULL: set[str] = set()


class Net(torch.nn.Module):
    """The network that the seeds of `write_run` are of."""

    def __init__(self) -> None:
        super().__init__()
        for name, shape in {"hidden": (FEATURES, HIDDEN), "output": (HIDDEN, CLASSES)}.items():
            layer = torch.nn.Module()
            layer.weight = torch.nn.Parameter(torch.zeros(*shape))
            layer.bias = torch.nn.Parameter(torch.zeros(shape[1]))
            self.add_module(name, layer)

    def to(self, *given: Any, **named: Any) -> Any:
        if "building" in FULL:
            raise torch.OutOfMemoryError(TRIED)
        return super().to(*given, **named)


def scored(model: Any, examples: list[Any]) -> list[float]:
    if "scoring" in FULL:
        raise torch.OutOfMemoryError(TRIED)
    weights = model.state_dict() if isinstance(model, torch.nn.Module) else model
    return [min(1.0, abs(float(weights["hidden.bias"][0]))) for _ in examples]


def run_file(folder: Path, network: bool) -> Path:
    model = {"model": {"network": f"{__name__}:Net", "dtype": "float32"}} if network else {}
    folder.mkdir(exist_ok=True)
    return one_example(folder, "scored", **model)


@pytest.fixture(autouse=True)
def _empty(monkeypatch: pytest.MonkeyPatch) -> None:
    FULL.clear()
    # The functions are named by this module.
    monkeypatch.setattr("tests.run.test_smallest.__name__", __name__)


@pytest.mark.slow
def test_memory_that_ends_while_a_child_is_scored_ends_the_run_and_the_child_is_asked_again(
    tmp_path: Path,
) -> None:
    path = run_file(tmp_path, network=True)
    evolve(path, budget=6)
    FULL.add("scoring")
    code, _, error = run_cli(["evolve", str(path)])
    assert code == 1
    lines = [line for line in error.splitlines() if line.startswith("genepool:")]
    assert len(lines) == 1
    assert "no memory left to score on device 'cpu': the model takes 0.0 GB" in lines[0]
    assert (
        "may help: in a new pool a smaller 'batch' of the task; in a new pool 'model: {dtype: bf"
        in lines[0]
    )
    with Pool(tmp_path / "pool") as pool:
        assert pool.status()["evaluations"] == 6  # No score is made up.
    FULL.clear()
    resumed = evolve(path).status
    whole = evolve(run_file(tmp_path / "whole", network=True)).status
    assert resumed["archive"] == whole["archive"]


def test_memory_that_ends_while_the_model_is_built(tmp_path: Path) -> None:
    path = run_file(tmp_path, network=True)
    FULL.add("building")
    with pytest.raises(DeviceMemoryError, match="no memory left to build the model on device"):
        evolve(path)


def test_other_models_are_told_the_same(tmp_path: Path) -> None:
    path = run_file(tmp_path, network=False)
    FULL.add("scoring")
    with pytest.raises(DeviceMemoryError, match="no memory left to score"):
        evolve(path)


def test_what_would_fit_is_said() -> None:
    large = Taken("cuda:0", 80 * 10**9, 28 * 10**9, 14 * 10**9, 42 * 10**9)
    text = told("to make a child", large)
    assert "which has 80.0 GB in all: the model takes 28.0 GB, the seeds on the device 42.0" in text
    assert "'model: {seeds: host}' (42.0 GB less)" in text
    assert "'model: {dtype: bfloat16}' (the model in 14.0 GB)" in text
    assert "batch" not in text
    # A model that does not fit in whatever dtype.
    text = told("to build the model", Taken("cuda", 24 * 10**9, 140 * 10**9, 140 * 10**9, 0))
    assert text.endswith("What may help: a device of 280.0 GB or more")
    assert "\n" not in text and "dtype" not in text


@pytest.mark.parametrize(("model", "seeds"), [(14, 28), (14, 0), (10, 200), (2 * 10**9, 8 * 10**9)])
def test_the_smallest_device_that_does_is_the_smallest(model: int, seeds: int) -> None:
    """What the table of docs/devices.md says is what decides where seeds lie."""
    needed = device_needed(model, seeds)
    assert seeds_fit(seeds, model, (needed - model, needed))
    assert not seeds_fit(seeds, model, (needed - 1 - model, needed - 1))


def test_seeds_leave_room_for_the_work_of_the_model() -> None:
    assert work_bytes(10, 1000) == 100 and work_bytes(300, 1000) == 300
    assert seeds_fit(200, 300, (500, 1000))
    assert not seeds_fit(201, 300, (500, 1000))
    assert not seeds_fit(1, 1, None)
