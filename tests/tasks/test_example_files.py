"""The examples run as their README says, breed something better, and keep the contract."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from genepool.tasks.task import open_task
from genepool.testing.tasks import check_task
from tests.cli import run_cli

_EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example, and its modules importable in this test only."""
    copied = tmp_path / request.param
    ignored = shutil.ignore_patterns("__pycache__", "pool", "digits", "*.safetensors")
    shutil.copytree(_EXAMPLES / request.param, copied, ignore=ignored)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for module in ("topics", "rank"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return copied


def run(folder: Path, *arguments: str) -> str:
    """What a Python command prints, run in a folder."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def genepool(folder: Path, *arguments: str) -> str:
    """What a command prints that is typed in a folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        code, out, error = run_cli(list(arguments))
    finally:
        os.chdir(before)
    assert code == 0, error
    return out


def improvement(folder: Path) -> float:
    """How much better the champion is than the best seed, on the training examples."""
    status: dict[str, Any] = json.loads(genepool(folder, "status", "pool", "--json"))
    return status["champion"]["train"] - max(seed["train"] for seed in status["seeds"])


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["function_task"], indirect=True)
def test_a_task_that_is_one_function(folder: Path) -> None:
    run(folder, "make_seeds.py")
    genepool(folder, "evolve", "run.yaml")
    assert improvement(folder) > 0.05

    def open_it() -> Any:
        options = {"function": "topics:score", "examples": "messages.jsonl", "held_out": 0.25}
        return open_task("function", options, folder)

    check_task(open_it(), load_file(folder / "shop.safetensors"), reopen=open_it)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["own_evaluator"], indirect=True)
def test_an_evaluator_of_ones_own(folder: Path) -> None:
    genepool(folder, "demo", "digits", "--budget", "0", "--pool", "digits")
    genepool(folder, "evolve", "run.yaml", "--budget", "60")
    assert improvement(folder) > 0.05

    def open_it() -> Any:
        return open_task("rank:ReciprocalRank", {"train": 40, "held_out": 20}, folder)

    check_task(open_it(), load_file(folder / "digits/seeds/digits-0-4.safetensors"), reopen=open_it)
    # Who says the same of all digits has found none of them.
    np.testing.assert_allclose(open_it().score(_tied(), np.arange(40)), 0.1)


def _tied() -> dict[str, Any]:
    """A network that gives every digit the same logit."""
    shapes = {"hidden": (64, 256), "output": (256, 10)}
    return {
        f"{name}.{part}": np.zeros(shape if part == "weight" else shape[1:], dtype=np.float32)
        for name, shape in shapes.items()
        for part in ("weight", "bias")
    }
