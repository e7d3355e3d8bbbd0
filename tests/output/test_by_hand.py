"""Merges by hand as values: what is refused, and that what 21445ff wrote is made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.errors import InputError
from genepool.output.by_hand import Opening, merge_models
from genepool.output.methods.registry import METHODS, specify
from genepool.output.methods.specification import Options, WrongOptions
from genepool.output.rebuild import rebuild
from genepool.output.write.weights import Writing
from tests.output.recipes_21445ff import MERGES, sha256, write_models

WRITTEN: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).parent / "recipes_21445ff.json").read_text()
)


@pytest.mark.parametrize("name", MERGES)
def test_a_recipe_of_21445ff_is_rebuilt_to_the_same_bytes(tmp_path: Path, name: str) -> None:
    models = write_models(tmp_path)
    (tmp_path / "genepool.json").write_text(WRITTEN[name]["recipe"])
    seeds = {model.stem: model for model in models}
    if "base" not in WRITTEN[name]["recipe"]:
        del seeds["base"]
    done = rebuild(tmp_path / "genepool.json", tmp_path / "out", seeds=seeds)
    assert sha256(done.directory / "model.safetensors") == WRITTEN[name]["weights"]
    assert (done.directory / "genepool.json").read_text() == WRITTEN[name]["recipe"]


@pytest.mark.parametrize("name", MERGES)
def test_a_merge_is_written_down_as_21445ff_did(tmp_path: Path, name: str) -> None:
    done = MERGES[name](write_models(tmp_path), tmp_path / "out")
    if name.startswith("ties"):
        # Which of equal changes are kept is another, and the recipe says so.
        recipe = json.loads(WRITTEN[name]["recipe"])
        assert {**done.details, "genome": ""} == {**recipe, "equals": "mixed", "genome": ""}
        return
    assert (done.directory / "genepool.json").read_text() == WRITTEN[name]["recipe"]
    assert sha256(done.directory / "model.safetensors") == WRITTEN[name]["weights"]


GIVEN: dict[str, Any] = {
    "ratio": 0.3, "split": 0.5, "angle": "side", "base": "base.safetensors", "weights": (0.5, 1.5),
    "density": (0.2, 0.7), "seed": 3, "normalise": True, "scale": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_what_it_says_and_is_a_value(tmp_path: Path, method: str) -> None:
    *pair, base = write_models(tmp_path)
    options = Options(**{option: GIVEN[option] for option in METHODS[method].takes})
    one, same = specify(method, options, 2), specify(method, options, 2)
    assert one == same
    models = [*pair, base] if "base" in METHODS[method].takes else pair
    done = merge_models(models, one, Opening(), tmp_path / "out", Writing("F32"))
    assert done.details["method"] == method
    for option in METHODS[method].takes:
        if option not in ("base", "split"):
            assert (
                done.details[option] == GIVEN[option]
                or tuple(done.details[option]) == (GIVEN[option])
            ), option
    again = rebuild(done.directory, tmp_path / "again", seeds={m.stem: m for m in models})
    assert open_checkpoint(again.directory).digest() == open_checkpoint(done.directory).digest()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("option", GIVEN)
def test_what_a_method_does_not_take_is_refused(method: str, option: str) -> None:
    takes = METHODS[method].takes
    if option in takes:
        return
    given = {other: GIVEN[other] for other in (*takes, option)}
    with pytest.raises(WrongOptions, match=rf"{method} takes no .*not for {method}"):
        specify(method, Options(**given), 2)


@pytest.mark.parametrize(
    "ratio", [1.5, -0.5, float("nan"), "x", [0, 2], {"fc": [0.5], "": 3}, [[0.5]]]
)
def test_a_ratio_out_of_range_is_named(ratio: Any) -> None:
    with pytest.raises(WrongOptions, match=r"^ratio: expected numbers from 0 .* to 1 .*; got "):
        specify("slerp", Options(ratio=ratio), 2)


@pytest.mark.parametrize(
    ("method", "plain", "given"),
    [
        ("slerp", {"ratio": 0.5}, {"ratio": np.float32(0.5)}),
        ("slerp", {"ratio": 0.5}, {"ratio": np.array(0.5)}),
        ("slerp", {"ratio": [0.0, 0.5, 1.0]}, {"ratio": np.linspace(0, 1, 3)}),
        ("slerp", {"ratio": [0.0, 0.5]}, {"ratio": (np.float32(0), np.float16(0.5))}),
        (
            "slerp",
            {"ratio": {"mlp": [0.0, 1.0], "": 0.5}},
            {"ratio": {"mlp": np.arange(2.0), "": np.float32(0.5)}},
        ),
        ("slerp", {"ratio": 0.5, "split": 100}, {"ratio": 0.5, "split": np.int64(100)}),
        ("slerp", {"ratio": 0.5, "split": 0.5}, {"ratio": 0.5, "split": np.float32(0.5)}),
        ("linear", {"normalise": False}, {"normalise": np.bool_(False)}),
        ("linear", {"weights": [1, 1]}, {"weights": np.ones(2)}),
        ("task-arithmetic", {"normalise": True}, {"normalise": np.bool_(True)}),
        ("task-arithmetic", {"scale": 0.5}, {"scale": np.float32(0.5)}),
        ("ties", {"density": [0.5, 0.25]}, {"density": np.array([0.5, 0.25])}),
        ("ties", {"normalise": False, "scale": 2}, {"normalise": np.bool_(0), "scale": np.int8(2)}),
        ("dare-ties", {"seed": 3}, {"seed": np.int64(3)}),
        ("dare-linear", {"seed": 2**63}, {"seed": np.uint64(2**63)}),
    ],
)
def test_numbers_of_numpy_are_those_of_python(
    tmp_path: Path, method: str, plain: dict[str, Any], given: dict[str, Any]
) -> None:
    *pair, base = write_models(tmp_path)
    based = "base" in METHODS[method].takes
    told: list[str] = []
    for name, options in (("one", plain), ("two", given)):
        whole = Options(**options, **({"base": base} if based else {}))
        models = [*pair, base] if based else pair
        opening = Opening(partial=cast("bool", np.bool_(False)))
        done = merge_models(models, specify(method, whole, 2), opening, tmp_path / name, Writing())
        told.append((done.directory / "genepool.json").read_text())
    assert told[0] == told[1]


def test_numbers_of_numpy_out_of_range_are_refused() -> None:
    for ratio in (np.array([[0.5]]), np.array([0.5, 2]), np.float32("nan"), {"": np.array(["x"])}):
        with pytest.raises(WrongOptions, match=r"^ratio: expected numbers from 0"):
            specify("slerp", Options(ratio=cast("Any", ratio)), 2)


def test_a_base_for_adapters_where_there_are_none(tmp_path: Path) -> None:
    *pair, base = write_models(tmp_path)
    for method in ("slerp", "linear"):
        options = Options(ratio=0.5) if method == "slerp" else Options()
        opening = Opening(adapter_base=str(base))
        with pytest.raises(InputError, match=r"none of the models is an adapter"):
            merge_models(pair, specify(method, options, 2), opening, tmp_path / "out", Writing())
    assert not (tmp_path / "out").exists()


def test_a_method_that_there_is_not_and_no_models() -> None:
    with pytest.raises(WrongOptions, match=r"expected one of slerp, linear, .*; got 'stir'"):
        specify("stir", Options(), 2)
    with pytest.raises(WrongOptions, match="at least one"):
        specify("linear", Options(), 0)
    with pytest.raises(InputError, match=r"dtype: expected one of .*; got 'I8'"):
        Writing("I8")
