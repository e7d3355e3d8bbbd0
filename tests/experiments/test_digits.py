"""The paper's first experiment runs, at a tiny size, and its page says what was recorded."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genepool.study.comparison import Curve

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments"


# MNIST takes longer: other strategies make no difference to its data.
@pytest.mark.parametrize(
    ("data", "variants"),
    [
        ("digits", "m2n2,cma-es,m2n2-archive-5,m2n2-alpha-2.0"),
        ("mnist", "m2n2"),
    ],
)
def test_the_experiment_runs(
    data: str, variants: str, tmp_path: Path, shared: Callable[[str], Path]
) -> None:
    reference = shared("reference/digits.json")
    shared("data/mnist/t10k-images-idx3-ubyte.gz")
    words = [sys.executable, str(FOLDER / "digits/run.py"), "--smoke", "--data", data]
    words += ["--variants", variants]
    words += ["--jobs", "1", "--out", str(tmp_path), "--shared", str(reference.parents[1])]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    for start in ("pre_trained", "from_scratch"):
        assert set(found["runs"][start]) == set(variants.split(","))
        for row in found["runs"][start].values():
            assert (row["seeds"], row["budget"]) == ([0], 30)
            assert 0.05 < row["final"]["test"][0] <= 1
    swept = {"competition.png"} if "archive" in variants else set[str]()
    plots = {"accuracy.png", "diversity.png", *swept}
    assert {path.name for path in tmp_path.glob("*.png")} == plots
    if data == "mnist":
        return
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


def test_runs_of_other_seeds_are_pooled_as_if_made_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER / "digits"))
    results = importlib.import_module("results")
    draws = np.random.default_rng(0)

    def curve(seed: int) -> Curve:
        rising = np.sort(draws.random((6, 201)), axis=1)
        steps = np.arange(201)
        best = (np.array([0, 200]), np.sort(draws.random(2)), draws.random(2))
        return Curve("x", seed, 50, steps, *rising[:4], (rising[4] * 1000).astype(int), *best)

    labels = ("m2n2", "ga")
    found = {label: {seed: curve(seed) for seed in range(10)} for label in labels}
    empty: dict[str, dict[int, Curve]] = {label: {} for label in labels}

    def summary(keep: range) -> dict[str, Any]:
        some = {
            label: {s: c for s, c in rows.items() if s in keep} for label, rows in found.items()
        }
        return results.summarise({"pre_trained": some, "from_scratch": empty}, {})

    whole, pooled = summary(range(10)), summary(range(4))
    results.pool_rows(pooled, summary(range(4, 10)))
    for label in labels:
        one, two = whole["runs"]["pre_trained"][label], pooled["runs"]["pre_trained"][label]
        for key in ("seeds", "final", "budget", "evaluations"):
            assert one[key] == two[key], key
        # Final scores are recorded to five digits, which may turn one of 1,024 signs.
        assert one["p"] is two["p"] is None or one["p"] == pytest.approx(two["p"], abs=0.005)
        for name in ("train", "test", "coverage", "entropy"):
            for kind in ("mean", "sd"):
                np.testing.assert_allclose(one[name][kind], two[name][kind], atol=2.5e-4)
    with pytest.raises(ValueError, match="cannot be pooled"):
        results.pool_rows(pooled, summary(range(4, 10)))


def test_every_run_on_mnist_has_ten_seeds() -> None:
    recorded = json.loads((FOLDER / "mnist/results.json").read_text())
    for start, count in (("pre_trained", 15), ("from_scratch", 16)):
        rows = recorded["runs"][start]
        assert len(rows) == count
        assert {len(row["seeds"]) for row in rows.values()} == {10}
