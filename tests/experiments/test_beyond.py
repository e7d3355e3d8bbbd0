"""The trials beyond the paper run, at a tiny size, and go on where they were."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "experiments/beyond"


@pytest.mark.slow
def test_the_variants_run_from_scratch(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    command = [sys.executable, str(FOLDER / "run.py"), "--start", "scratch", "--steps", "40"]
    command += ["--seeds", "1", "--work", str(tmp_path / "work")]
    for _ in range(2):  # the second time nothing is left to do
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "work").glob("*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 8
    # Nobody has asked for more than there is, and somebody for less.
    assert all(0 < row["asked"] <= 1 for row in rows)
    assert min(row["asked"] for row in rows) < 0.99


@pytest.mark.parametrize("name", ["plain", "(b) four splits"])
def test_the_public_loop_gives_what_was_recorded(
    name: str, shared: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    specialists = shared("reference/digits_specialists.npz")
    monkeypatch.setenv("GENEPOOL_SHARED", str(specialists.parents[1]))
    place = importlib.util.spec_from_file_location("beyond_run", FOLDER / "run.py")
    assert place is not None and place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    lines = (FOLDER / "results/variants-digits-pre-5000.jsonl").read_text().splitlines()
    recorded = next(r for r in map(json.loads, lines) if (r["variant"], r["seed"]) == (name, 0))
    found = module.run("pre", 0, module.VARIANTS[name], 250)
    assert list(found["curve"][250]) == recorded["curve"]["250"]


def test_the_page_says_what_the_tables_do() -> None:
    files = sorted(map(str, (FOLDER / "results").glob("fewer-*.jsonl")))
    command = [sys.executable, str(FOLDER / "table.py"), *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (FOLDER / "README.md").read_text().splitlines()
    # The means over shares and the comparison of all data sets together, as they were printed.
    printed = [line for line in done.stdout.splitlines() if line.startswith("|") and "(p" in line]
    printed += [line for line in done.stdout.splitlines() if line.startswith("| `")]
    assert len(printed) > 20
    assert [line for line in printed if line not in page] == []
