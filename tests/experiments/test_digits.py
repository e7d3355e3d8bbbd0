"""The paper's first experiment runs, at a tiny size, and its page says what was recorded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shared import shared

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments"


@pytest.mark.parametrize("data", ["digits", "mnist"])
def test_the_experiment_runs(data: str, tmp_path: Path) -> None:
    reference = shared("reference/digits.json")
    shared("data/mnist/t10k-images-idx3-ubyte.gz")
    words = [sys.executable, str(FOLDER / "digits/run.py"), "--smoke", "--data", data]
    words += ["--variants", "m2n2,map-elites,cma-es,m2n2-archive-5,m2n2-alpha-2.0"]
    words += ["--out", str(tmp_path), "--shared", str(reference.parents[1])]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    for start in ("pre_trained", "from_scratch"):
        labels = {"m2n2", "map-elites", "cma-es", "m2n2-archive-5", "m2n2-alpha-2.0"}
        assert set(found["runs"][start]) == labels
        for row in found["runs"][start].values():
            assert (row["seeds"], row["budget"]) == ([0], 30)
            assert 0.05 < row["final"]["test"][0] <= 1
    plots = {"accuracy.png", "diversity.png", "competition.png"}
    assert {path.name for path in tmp_path.glob("*.png")} == plots
    before = (tmp_path / "results.json").read_bytes()
    done = subprocess.run([*words, "--collect"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results.json").read_bytes() == before


def test_the_recorded_result_is_what_its_page_says() -> None:
    recorded = json.loads((FOLDER / "digits/results.json").read_text())
    runs = recorded["runs"]["pre_trained"]
    assert all(len(runs[label]["seeds"]) == 10 for label in ("m2n2", "ga", "map-elites", "cma-es"))
    test = {label: sum(row["final"]["test"]) / len(row["seeds"]) for label, row in runs.items()}
    order = ["m2n2", "m2n2-without-attraction", "cma-es-by-tensor", "map-elites", "cma-es"]
    order += ["m2n2-without-split-point", "ga"]
    assert sorted(order, key=lambda label: -test[label]) == order
    # At least the reference's mean less two of its standard errors, where three runs of it have
    # proved too few over more of them.
    assert len(recorded["checks"]) == 11
    assert all(row[kind]["ok"] for row in recorded["checks"] for kind in ("train", "test"))
    runs_of_it = {
        row["variant"]: row["train"]["reference_seeds"]
        for row in recorded["checks"]
        if row["start"] == "from_scratch"
    }
    assert [runs_of_it[k] for k in ("m2n2", "m2n2-without-attraction", "map-elites")] == [
        23,
        13,
        13,
    ]
    # And within two standard errors of the difference everywhere.
    assert all(row[kind]["z"] >= -2 for row in recorded["checks"] for kind in ("train", "test"))
    for race in recorded["races"]:
        if race["rival"].startswith("cma-es"):
            assert (race["m2n2_reached"], race["rival_reached"]) == (10, 0)
