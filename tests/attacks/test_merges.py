"""Abuses of merge, export and rebuild: exit code 1 or 2, one clear line, and nothing is written."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from genepool.output.by_hand import blend, merge
from tests.cli import run_cli
from tests.quick import quick
from tests.runs import seed_file as seed
from tests.runs import write_run


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_run(tmp_path)
    return tmp_path


def refused(place: Path, arguments: list[str], word: str, codes: tuple[int, ...] = (1, 2)) -> None:
    out = place / "refused"
    code, _, error = run_cli([*arguments, "-o", str(out)])
    assert code in codes, error
    assert "Traceback" not in error
    assert len([line for line in error.splitlines() if line.strip()]) == 1, error
    assert word in error
    assert not out.exists()
    assert not list(place.glob(".refused*"))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--method", "ties"], "needs the base"),
        (["--method", "dare-ties"], "needs the base"),
        (["--method", "task-arithmetic"], "needs the base"),
        (["--method", "linear", "--base", "3"], "takes no base"),
        (["--method", "ties", "--base", "3", "--density", "0"], "density"),
        (["--method", "ties", "--base", "3", "--density", "1.5"], "density"),
        (["--method", "dare-linear", "--base", "3", "--density", "nan"], "density"),
        (["--method", "ties", "--base", "3", "--density", "0", "--density", "0.5"], "density"),
        (["--method", "ties", "--base", "3", *["--density", "0.5"] * 3], "2, one for each; got 3"),
        (["--method", "linear", "--density", "0.5"], "takes no density"),
        (["--ratio", "0.5", "--density", "0.5", "--density", "0.2"], "not for slerp"),
        (["--method", "linear", "--weight", "1"], "expected 2, one for each model; got 1"),
        (["--method", "linear", "--weight", "1", "--weight", "-1"], "sum to 0"),
        (["--method", "linear", "--weight", "1", "--weight", "inf"], "finite"),
        (["--method", "linear", "--weight", "1", "--weight", "nan"], "finite"),
        (["--method", "linear", "--weight", "1e308", "--weight", "1e308"], "up to 1e30"),
        (["--method", "linear", "--weight", "1", "--weight", "much"], "--weight"),
        (["--method", "linear", "--ratio", "0.5"], "--ratio is for slerp"),
        (["--method", "ties", "--base", "none.safetensors"], "none.safetensors"),
        (["--method", "stir"], "method: expected one of"),
        (["--ratio", "0.5", "--base", "3"], "not for slerp"),
        ([], "--ratio"),
        (["--ratio", "1.5"], "got 1.5"),
        (["--ratio", "nan"], "got nan"),
        (["--ratio", "0.1,,0.2"], "expected a number (0.4)"),
        (["--ratio", ""], "expected a number (0.4)"),
        (["--ratio", "mlp="], "expected a number (0.4)"),
        (["--ratio", "0.1", "--ratio", "0.2"], "more than one for all"),
        (["--ratio", "x=0.1", "--ratio", "x=0.2"], "more than one for 'x'"),
        (["--ratio", "zzz=0.1", "--ratio", "0.2"], "no tensor's value comes from 'zzz'"),
        (["--ratio", "zzz=0.1"], "there is no value for"),
        (["--ratio", "0.1,0.2", "--split", "0.5"], "a split point goes with one number"),
        (["--ratio", "0.5", "--shard-size", "big"], "--shard-size"),
        (["--ratio", "0.5", "--shard-size", "0"], "--shard-size"),
    ],
)
def test_merges_that_make_no_sense(place: Path, options: list[str], word: str) -> None:
    given = [seed(place, 3) if option == "3" else option for option in options]
    refused(place, ["merge", seed(place, 1), seed(place, 2), *given], word)


def test_weights_that_sum_to_zero_but_for_rounding(place: Path) -> None:
    weights = [word for weight in ("0.1", "0.2", "-0.3") for word in ("--weight", weight)]
    models = [seed(place, n) for n in (1, 2, 3)]
    refused(place, ["merge", *models, "--method", "linear", *weights], "sum to 0")
    method = ["--method", "task-arithmetic", "--base", models[2], "--normalise"]
    refused(place, ["merge", *models, *method, *weights], "sum to 0")


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_results_beyond_the_range_of_their_dtype(place: Path, dtype: str) -> None:
    models = [seed(place, n) for n in (1, 2)]
    weights = ["--method", "linear", "--weight", "1e30", "--weight", "1e29"]
    given = ["merge", *models, *weights, "--no-normalise", "--dtype", dtype]
    if dtype != "F16":
        for n in (1, 2):
            tensors = {
                name: x * np.float32(1e9 * n) for name, x in load_file(models[n - 1]).items()
            }
            save_file(tensors, models[n - 1])
    refused(place, given, "beyond the range of", (1,))


@pytest.mark.parametrize(
    "method", quick(["ties", "dare-ties", "dare-linear", "task-arithmetic"], (3,))
)
def test_task_vectors_beyond_the_range_of_float16(place: Path, method: str) -> None:
    models = [word for n in (1, 2) for word in (seed(place, n), "--weight", "1e9")]
    given = ["merge", *models, "--method", method, "--base", seed(place, 3), "--no-normalise"]
    refused(place, [*given, "--dtype", "F16"], "beyond the range of float16", (1,))


@pytest.mark.parametrize("method", ["ties", "dare-ties", "dare-linear", "task-arithmetic"])
@pytest.mark.parametrize("damaged", [1, 3])
def test_models_with_nan(place: Path, method: str, damaged: int) -> None:
    tensors = load_file(seed(place, damaged))
    name = sorted(tensors)[-1]
    tensors[name].flat[-1] = np.nan
    save_file(tensors, seed(place, damaged))
    models = [seed(place, n) for n in (1, 2)]
    given = ["merge", *models, "--base", seed(place, 3), "--method", method]
    given += [] if method == "task-arithmetic" else ["--density", "0.1"]
    refused(place, given, f"seed{damaged}.safetensors: tensor '{name}' holds NaN", (1,))


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("weight", ["0", "0.5"])
def test_a_linear_merge_of_a_model_that_is_damaged(place: Path, value: float, weight: str) -> None:
    tensors = load_file(seed(place, 2))
    name = sorted(tensors)[0]
    tensors[name].flat[3] = value
    save_file(tensors, seed(place, 2))
    given = ["merge", seed(place, 1), seed(place, 2), "--method", "linear"]
    given += ["--weight", "1", "--weight", weight]
    if weight == "0":
        code, _, error = run_cli([*given, "-o", str(place / "out")])
        assert code == 0, error
        found = load_file(place / "out" / "model.safetensors")
        assert all(np.isfinite(x).all() for x in found.values()), "of weight 0, it is not in it"
    else:
        what = "NaN" if np.isnan(value) else "infinity"
        refused(place, given, f"seed2.safetensors: tensor '{name}' holds {what}", (1,))


def test_slerp_of_three_and_linear_of_one(place: Path) -> None:
    three = [seed(place, n) for n in (1, 2, 3)]
    refused(place, ["merge", *three, "--ratio", "0.5"], "two models", (2,))
    refused(place, ["merge", three[0], "--method", "linear"], "at least two", (2,))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"format": 2}, "format 2"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [{"name": "seed1"}]}, "digest"),
        ({"dtype": "F8"}, "dtype"),
        ({"layout": "0" * 64}, "lays the tensors out differently"),
        ({"chromosomes": {"a": 3}}, "chromosomes"),
        ({"recipe": {"bounds": [0, 5], "coefs": [[1.0]]}}, "damaged"),
        ({"recipe": {"bounds": [0, 195], "coefs": [["x", 1]]}}, "damaged"),
        ({"recipe": {"bounds": [0, 195], "coefs": [[0.5, 0.5]]}}, "its digest"),
        ({"recipe": 5}, "recipe"),
        ({"genome": None}, "genome"),
    ],
)
def test_damaged_recipes(place: Path, change: dict[str, Any], word: str) -> None:
    done = merge(seed(place, 1), seed(place, 2), place / "out", ratio=0.3)
    file = place / "damaged.json"
    file.write_text(json.dumps({**done.details, **change}))
    places = [f"seed{n}={seed(place, n)}" for n in (1, 2)]
    refused(place, ["rebuild", str(file), *places], word, (1,))


@pytest.mark.parametrize(
    "change",
    [{"density": 2}, {"density": 0.4}, {"weights": [1]}, {"weights": "x"}, {"scale": None}],
)
def test_damaged_settings_of_a_blend(place: Path, change: dict[str, Any]) -> None:
    one, two, base = (seed(place, n) for n in (1, 2, 3))
    done = blend([one, two], place / "out", method="ties", base=base, density=0.5)
    file = place / "damaged.json"
    file.write_text(json.dumps({**done.details, **change}))
    places = [f"seed{n}={seed(place, n)}" for n in (1, 2, 3)]
    refused(place, ["rebuild", str(file), *places], "settings are damaged", (1,))


def test_recipes_that_are_none(place: Path) -> None:
    (place / "text.json").write_text("{")
    (place / "list.json").write_text("[]")
    for name, word in (
        ("text.json", "JSON"),
        ("list.json", "object"),
        ("nowhere.json", "cannot be read"),
        ("seed1.safetensors", "no recipe"),
    ):
        refused(place, ["rebuild", str(place / name)], word, (1,))
    for entry in ("seed1", "=x", "seed1="):
        refused(place, ["rebuild", str(place / "text.json"), entry], "NAME=PATH", (2,))


@pytest.mark.slow
def test_a_full_disk_while_blending(place: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

    models = [seed(place, 1), seed(place, 2), "--base", seed(place, 3)]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "genepool", "merge", *models),
            *("--method", "ties", "-o", str(place / "out")),
        ],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place / "out").exists()
    assert not list(place.glob(".out*"))
