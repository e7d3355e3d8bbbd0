"""Numbers computed by the reference implementation (SakanaAI/natural_niches), in float32."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genepool.core.competition import attraction, fitness, survivor
from genepool.core.slerp import merge_vectors

# The reference computes in float32: 1e-5 of the vector's largest value is its own rounding.
CLOSE = 1e-5


@pytest.fixture(scope="module")
def oracle(shared: Callable[[str], Path]) -> dict[str, Any]:
    return json.loads(shared("reference/oracle.json").read_text())


def assert_close(got: np.ndarray, expected: list[float], what: str) -> None:
    wanted = np.asarray(expected, dtype=np.float64)
    assert got.shape == wanted.shape, what
    error = float(np.abs(got - wanted).max())
    assert error <= CLOSE * float(np.abs(wanted).max()), f"{what}: off by {error}"


@pytest.mark.parametrize("single", [True, False], ids=["float32", "float64"])
def test_merge(oracle: dict[str, Any], single: bool) -> None:
    dtype = np.float32 if single else np.float64
    assert len(oracle["merge"]) >= 45
    for number, case in enumerate(oracle["merge"]):
        a, b = np.array(case["a"], dtype), np.array(case["b"], dtype)
        for key, split in (("child", case["split"]), ("child_no_split", a.size)):
            child = merge_vectors(a, b, case["ratio"], split)
            assert child.dtype == dtype
            assert_close(child, case[key], f"merge {number} ({case['kind']}) {key}")


def test_competition(oracle: dict[str, Any]) -> None:
    assert len(oracle["competition"]) >= 24
    for number, case in enumerate(oracle["competition"]):
        capacity = None if case["capacity"] == "all ones" else case["capacity"]
        alpha, what = case["alpha"], f"competition {number} (alpha {case['alpha']})"
        values = fitness(case["scores"], capacity, alpha)
        assert_close(values, case["fitness"], f"{what} fitness")
        assert_close(values / values.sum(), case["parent1_probability"], f"{what} probability")
        for first, row in enumerate(case["attraction"]):
            got = attraction(case["scores"], first, capacity, alpha)
            assert_close(got, row, f"{what} attraction of {first}")


def test_survival_and_ties(oracle: dict[str, Any]) -> None:
    assert len(oracle["survival"]) >= 26
    assert any("note" in case for case in oracle["survival"])
    for number, case in enumerate(oracle["survival"]):
        slot = survivor(case["scores"], case["child"], None, case["alpha"])
        assert slot == case["replaced_slot"], f"survival {number}: {case.get('note', '')}"
