"""The experiment with image generators runs, at a tiny size."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "experiments/pictures"


@pytest.mark.slow
def test_the_experiment_runs(tmp_path: Path, shared: Callable[[str], Path]) -> None:
    command = [
        *(sys.executable, str(FOLDER / "run.py"), "smoke"),
        *("--data", str(shared("data/emoji")), "--work", str(tmp_path / "work")),
        *("--out", str(tmp_path)),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())["B"]
    rows = {row["name"]: row for row in found["models"]}
    assert {"japanese", "base", "living", "things", "mean of the four", "M2N2"} <= set(rows)
    assert rows["M2N2"]["runs"] == 2 and rows["M2N2"]["children"] == 2
    measured = {"japanese", "english", "japanese/english consistency"}
    assert set(rows["japanese"]["measures"]) == measured
    assert all(0 < row["japanese"][0] < 1 for row in rows.values())
    assert (tmp_path / "pictures-B.png").stat().st_size > 10_000
    assert "| M2N2 | 2 |" in (tmp_path / "table.md").read_text()
