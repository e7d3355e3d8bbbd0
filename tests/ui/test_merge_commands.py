"""The options of `genepool merge`: what they do to the weights, and what is recorded of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from genepool.run.merge import blend
from tests.cli import run_cli
from tests.runs import seed_file as seed
from tests.runs import write_run


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_run(tmp_path)
    return tmp_path


def merged(place: Path, name: str, *options: str) -> Path:
    """The directory of a merge of the first two seeds."""
    out = place / name
    code, _, error = run_cli(["merge", seed(place, 1), seed(place, 2), *options, "-o", str(out)])
    assert (code, error) == (0, ""), error
    return out


def weights(directory: Path) -> dict[str, bytes]:
    with safe_open(directory / "model.safetensors", "numpy") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("method", ["ties", "dare-ties", "dare-linear"])
def test_a_density_for_each_model(place: Path, method: str) -> None:
    def run(name: str, *densities: str) -> Path:
        given = [word for density in densities for word in ("--density", density)]
        return merged(place, name, "--method", method, "--base", seed(place, 3), *given)

    one, same, each, turned = (
        run("one", "0.2"),
        run("same", "0.2", "0.2"),
        run("each", "0.2", "0.5"),
        run("turned", "0.5", "0.2"),
    )
    # One for all is recorded as before, so that equal merges have equal recipes.
    for file in ("model.safetensors", "genepool.json"):
        assert (one / file).read_bytes() == (same / file).read_bytes()
    assert json.loads((one / "genepool.json").read_text())["density"] == 0.2
    assert len({tuple(weights(path).items()) for path in (one, each, turned)}) == 3
    assert json.loads((each / "genepool.json").read_text())["density"] == [0.2, 0.5]
    assert "density 0.2, 0.5, relative to seed3" in (each / "README.md").read_text()
    assert "density 0.2, relative to seed3" in (one / "README.md").read_text()
    again = blend(
        [seed(place, 1), seed(place, 2)],
        place / "again",
        method=method,
        base=seed(place, 3),
        density=[0.2, 0.5],
    )
    assert weights(again.directory) == weights(each)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *((name, "F64") for name in ("F64", "f64", "float64", "fp64")),
        *((name, "F32") for name in ("F32", "f32", "Float32", "FP32")),
        *((name, "F16") for name in ("F16", "f16", "float16", "fp16")),
        *((name, "BF16") for name in ("BF16", "bf16", "bfloat16", "BFloat16")),
    ],
)
def test_names_of_dtypes(place: Path, name: str, code: str) -> None:
    out = merged(place, "out", "--ratio", "0.5", "--dtype", name)
    assert json.loads((out / "genepool.json").read_text())["dtype"] == code
    with safe_open(out / "model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {code}  # noqa: SIM118


def test_a_name_that_is_no_dtype(place: Path) -> None:
    out = place / "out"
    given = ["merge", seed(place, 1), seed(place, 2), "--ratio", "0.5", "--dtype", "int8"]
    code, _, error = run_cli([*given, "-o", str(out)])
    assert code == 2
    assert "'int8' is not one of 'F64', 'F32', 'F16', 'BF16'" in error
    assert not out.exists()


def test_a_model_given_twice_is_told(place: Path) -> None:
    double = place / "double.safetensors"
    double.write_bytes(Path(seed(place, 1)).read_bytes())
    out = place / "out"
    given = ["merge", seed(place, 1), str(double), "--ratio", "0.5", "-o", str(out)]
    code, shown, error = run_cli(given)
    assert code == 0, error
    text = "seed 'double' holds the very tensors of 'seed1'"
    assert text in " ".join((shown + error).split())
    assert text in (out / "README.md").read_text()
    (notice,) = json.loads((out / "genepool.json").read_text())["notices"]
    assert notice.startswith(text)


def test_an_output_where_no_files_can_be_made(place: Path) -> None:
    given = ["merge", seed(place, 1), seed(place, 2), "--ratio", "0.5", "-o", "/proc/out"]
    code, _, error = run_cli(given)
    assert code == 1
    assert "/proc/out" in error
    assert "GB" not in error, "it is not for want of space"
