"""The options of `genepool merge`: what they do to the weights, and what is recorded of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from genepool.output.by_hand import blend, merge
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


def test_a_ratio_for_every_layer(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"model.layers.{n}.{part}.weight" for n in range(3) for part in ("attn", "mlp")]
    names += ["model.embed_tokens.weight", "model.norm.weight"]
    a, b = ({name: rng.standard_normal((4, 5)) for name in names} for _ in range(2))
    for name, tensors in (("a", a), ("b", b)):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    models, out = [str(tmp_path / "a"), str(tmp_path / "b")], tmp_path / "out"
    ratios = ["--ratio", "0.9", "--ratio", "attn=0,1", "--ratio", "mlp=1,0.5,0"]
    code, _, error = run_cli(["merge", *models, *ratios, "--angle", "tensor", "-o", str(out)])
    assert code == 0, error
    found = load_file(out / "model.safetensors")
    for name in names:
        layer = int(name.split(".")[2]) if ".layers." in name else 0
        t = layer / 2 if "attn" in name else 1 - layer / 2 if "mlp" in name else 0.9
        x, y = a[name].astype(np.float32), b[name].astype(np.float32)
        cosine = (x.ravel() @ y.ravel()) / (np.linalg.norm(x) * np.linalg.norm(y))
        omega = np.arccos(cosine)
        expected = (np.sin((1 - t) * omega) * x + np.sin(t * omega) * y) / np.sin(omega)
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)
    details = json.loads((out / "genepool.json").read_text())
    assert details["ratio"] == [["attn", [0, 1]], ["mlp", [1, 0.5, 0]], ["", 0.9]]
    assert (
        "0, 1 along the layers for 'attn'; 1, 0.5, 0 along the layers for 'mlp'; 0.9"
        in (out / "README.md").read_text()
    )
    # The same from Python, and again from its recipe.
    other = merge(*models, tmp_path / "again", ratio=dict(details["ratio"]), angle="tensor")
    assert weights(other.directory) == weights(out)
    built = ["rebuild", str(out / "genepool.json"), "-o", str(tmp_path / "built")]
    seeds = [word for name in ("a", "b") for word in ("--moved", f"{name}={tmp_path / name}")]
    code, _, error = run_cli([*built, *seeds])
    assert code == 0, error
    assert weights(tmp_path / "built") == weights(out)
    # One number alike for all is the merge with that ratio.
    plain, alike = tmp_path / "plain", tmp_path / "alike"
    for place, ratio in ((plain, "0.3"), (alike, "0.3,0.3")):
        code, _, error = run_cli(["merge", *models, "--ratio", ratio, "-o", str(place)])
        assert code == 0, error
    assert weights(plain) == weights(alike)


def test_a_prefix_is_for_those_models_that_need_it(place: Path) -> None:
    folder = place / "wrapped"
    folder.mkdir()
    for number in (1, 2, 3):
        held = load_file(seed(place, number))
        save_file({f"net.{name}": x for name, x in held.items()}, folder / f"{number}.safetensors")
    one, two, three = (str(folder / f"{n}.safetensors") for n in (1, 2, 3))
    plain = merged(place, "plain", "--method", "ties", "--base", seed(place, 3))
    cases = {
        "base": (one, two, seed(place, 3)),
        "both": (one, seed(place, 2), seed(place, 3)),
        "other": (one, seed(place, 2), three),
    }
    for name, (a, b, base) in cases.items():
        out = place / name
        given = ["merge", a, b, "--method", "ties", "--base", base, "--rename", "=net."]
        code, _, error = run_cli([*given, "-o", str(out)])
        assert code == 0, error
        assert {f"net.{key}": data for key, data in weights(plain).items()} == weights(out)
    told = json.loads((place / "base/genepool.json").read_text())["seeds"]
    assert [each["rename"] for each in told] == [{}, {}, {"": "net."}]
    places = [f"1={one}", f"2={two}", f"seed3={seed(place, 3)}"]
    given = ["rebuild", str(place / "base"), "--moved", *places, "-o", str(place / "again")]
    code, _, error = run_cli(given)
    assert code == 0, error
    assert weights(place / "again") == weights(place / "base")


def test_methods_have_the_names_of_mergekit_too(place: Path) -> None:
    base = ("--base", seed(place, 3))
    for name in ("dare-ties", "dare-linear", "task-arithmetic"):
        ours = merged(place, name, "--method", name, *base)
        theirs = merged(place, f"{name}-", "--method", name.replace("-", "_"), *base)
        blended = place / f"{name}_"
        models = [seed(place, 1), seed(place, 2)]
        blend(models, blended, method=name.replace("-", "_"), base=seed(place, 3))
        assert weights(ours) == weights(theirs) == weights(blended)
