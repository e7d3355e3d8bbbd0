"""The digits experiment runs, at a tiny size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.shared import shared

ROOT = Path(__file__).parents[2]


def test_the_experiment_runs(tmp_path: Path) -> None:
    reference = shared("reference/digits.json")
    subprocess.run(
        [
            *(sys.executable, str(ROOT / "experiments/digits/run.py"), "--smoke"),
            *("--work", str(tmp_path / "work"), "--out", str(tmp_path)),
            *("--shared", str(reference.parents[1])),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    found = json.loads((tmp_path / "results.json").read_text())
    assert set(found["runs"]) == {"pre_trained", "from_scratch"}
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_the_recorded_result_is_what_its_page_says() -> None:
    recorded = json.loads((ROOT / "experiments/digits/results.json").read_text())
    assert recorded["seeds"] == 10
    ends = {(row["start"], row["variant"]): row for row in recorded["checks"]}
    first, second = ends["pre_trained", "m2n2"], ends["from_scratch", "m2n2"]
    assert (first["evaluations"], second["evaluations"]) == (5000, 20000)
    assert first["train"]["ok"] and first["test"]["ok"]
    # From scratch one run of ten is stuck, which the page says: training falls short of the mark.
    assert second["test"]["ok"] and not second["train"]["ok"]
    order = ["m2n2", "m2n2 without attraction", "m2n2 without split point", "ga"]
    tests = [ends["pre_trained", variant]["test"]["genepool"] for variant in order]
    assert tests == sorted(tests, reverse=True)
