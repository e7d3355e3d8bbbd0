"""Runs compute what they computed before the source tree was rebuilt, bit for bit (see runs.py).

A difference here means that pools in the field would go on in another way than they began. Mean
scores alone may differ in their last bits.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterable
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import pytest

from tests.golden import record, runs
from tests.quick import quick


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    return record.load()


def test_what_is_recorded(golden: dict[str, Any]) -> None:
    assert list(golden["runs"]) == list(runs.RUNS)
    assert list(golden["pools"]) == list(runs.POOLS)


# One of each kind; `pytest tests/golden` and `make test-all` run the others too.
QUICK = {
    "recipes", "scratch", "map-elites", "cma-es-in-flight", "random-tensor", "sweep", "splits",
    "chromosomes", "in-flight-dense", "no-early-stop", "half-exported", "language", "pieces-dense",
}  # fmt: skip


@pytest.fixture(autouse=True)
def sums_as_recorded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let cma add up as it did where the runs were recorded: the built-in `sum` rounds otherwise
    from Python 3.12 on."""
    if "cma-es" in request.node.name and sys.version_info >= (3, 12):
        importlib.import_module("cma")
        for name in [name for name in sys.modules if name.partition(".")[0] == "cma"]:
            monkeypatch.setattr(sys.modules[name], "sum", _one_by_one, raising=False)


def _one_by_one(values: Iterable[Any], start: Any = 0) -> Any:
    return reduce(add, values, start)


@pytest.mark.parametrize("name", quick(runs.RUNS, map([*runs.RUNS].index, QUICK)))
def test_a_run_computes_what_it_did(name: str, golden: dict[str, Any], tmp_path: Path) -> None:
    if name in runs.OF_THIS_CPU and record.fingerprint() != golden["fingerprint"]:
        pytest.skip("LAPACK's last bits differ on this machine from those it was recorded with")
    found = record.observe(*runs.run(name, tmp_path))
    assert not record.differences(found, golden["runs"][name])


@pytest.mark.parametrize("name", runs.POOLS)
def test_an_old_pool_goes_on(name: str, golden: dict[str, Any], tmp_path: Path) -> None:
    found = record.observe(*runs.go_on(name, tmp_path))
    assert not record.differences(found, golden["pools"][name])


@pytest.mark.parametrize("name", runs.POOLS)
def test_an_old_pool_can_be_read(name: str, golden: dict[str, Any], tmp_path: Path) -> None:
    pool = str(runs.copy_pool(name, tmp_path).parent / "pool")
    status = json.loads(_genepool("status", pool, "--json"))
    assert status["evaluations"] == runs.OLD
    assert status["champion"]["genome"] in _genepool("show", pool, "best")


def _genepool(*arguments: str) -> str:
    """What the command line prints."""
    command = [sys.executable, "-m", "genepool", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
