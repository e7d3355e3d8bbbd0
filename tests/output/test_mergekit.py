"""Files that are meant for mergekit are known by their keys, and what to type here is said."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from genepool.errors import ConfigError
from genepool.output.mergekit import mergekit_advice
from genepool.run.run_file import load_run
from tests.cli import run_cli

SLERP = """
slices:
- sources:
  - {model: a, layer_range: [0, 32]}
  - {model: b, layer_range: [0, 32]}
merge_method: slerp
base_model: a
parameters:
  t:
  - {filter: self_attn, value: [0, 0.5, 1]}
  - {filter: mlp, value: [1, 0.5, 0]}
  - value: 0.5
dtype: bfloat16
"""
TIES = """
models:
- model: base
- model: a
  parameters: {density: 0.5, weight: 0.5}
- model: b
  parameters: {density: 0.25, weight: 0.3}
merge_method: ties
base_model: base
parameters: {normalize: false, int8_mask: true, lambda: 0.9}
dtype: float16
"""
DARE = """
merge_method: dare_ties
base_model: base
models: [{model: a}, {model: b}]
parameters: {weight: 0.4}
"""
LINEAR = """
merge_method: linear
models: [{model: org/a b, parameters: {weight: 1}}, {model: b, parameters: {weight: 3}}]
out_dtype: float32
dtype: float16
"""
WITH_BASE = """
merge_method: linear
base_model: b
models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 3}}]
"""
SAME = {
    WITH_BASE: "b a --method linear --weight 3 --weight 1",
    SLERP: "a b --angle tensor --ratio self_attn=0,0.5,1 --ratio mlp=1,0.5,0 --ratio 0.5 "
    "--dtype bfloat16",
    TIES: "a b --method ties --base base --weight 0.5 --weight 0.3 --density 0.5 --density 0.25 "
    "--no-normalise --scale 0.9 --dtype float16",
    DARE: "a b --method dare-ties --base base --weight 0.4 --weight 0.4 --density 1 --density 1",
    LINEAR: "'org/a b' b --method linear --weight 1 --weight 3 --dtype float32",
}


@pytest.mark.parametrize("text", SAME)
def test_the_command_that_does_the_same_is_printed(tmp_path: Path, text: str) -> None:
    base = "but configuration and tokenizer are the first model's, not the base's"
    told = {
        SLERP: " (of models that have 32 layers, no more)",
        TIES: f" ({base})",
        DARE: f" ({base}; and what dare keeps is drawn otherwise)",
    }.get(text, "")
    line = f"genepool merge {SAME[text]} -o merged"
    file = tmp_path / "config.yml"
    file.write_text(text)
    code, out, error = run_cli(["evolve", str(file)])
    assert (code, out) == (1, "")
    assert error.strip().endswith(f"of mergekit; this does the same{told}: {line}")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "changes", "idle"),
    [
        (
            TIES,
            {"parameters": {"consensus_method": "count", "int8_mask": True}},
            "consensus_method",
        ),
        (TIES, {"parameters": {"consensus_method": "sum"}, "tokenizer_source": "base"}, ""),
        (
            DARE,
            {"models": [{"model": "a", "parameters": {"gamma": 0.1}, "revision": "v"}]},
            "revision",
        ),
        (DARE, {"models": [{"model": "a", "parameters": {"gamma": 0.1}}]}, "gamma"),
        (LINEAR, {"mystery": 1}, "mystery"),
        (WITH_BASE, {"parameters": {"t": 0.5}}, "t"),
        (SLERP, {"parameters": {"t": 0.5, "eps": 1}}, "eps"),
    ],
)
def test_what_the_command_leaves_out_is_told(text: str, changes: dict[str, Any], idle: str) -> None:
    advice = mergekit_advice({**yaml.safe_load(text), **changes})
    assert advice is not None
    assert "this does the same" in advice
    assert ("there is no counterpart" in advice) == bool(idle)
    assert not idle or f"for '{idle}'" in advice
    assert advice.count("but ") <= 1


def test_of_the_values_of_t_the_first_that_fits_holds() -> None:
    def ratios(*values: dict[str, Any]) -> list[str]:
        advice = mergekit_advice({**yaml.safe_load(SLERP), "parameters": {"t": [*values]}})
        words = shlex.split(str(advice))
        return [words[i + 1] for i, word in enumerate(words) if word == "--ratio"]

    mlp, rest = {"filter": "mlp", "value": 1}, {"value": 0.5}
    assert ratios(rest, mlp) == ["0.5"]
    assert "final norm and head" not in str(mergekit_advice(yaml.safe_load(SLERP)))
    assert ratios({"filter": "*", "value": 0.5}, mlp) == ["0.5"]
    assert ratios(mlp, rest) == ["mlp=1", "0.5"]
    assert ratios(mlp, {"filter": "mlp.up", "value": 0}, rest, rest) == ["mlp=1", "0.5"]
    assert ratios({"filter": "mlp.up", "value": 0}, mlp, rest) == ["mlp.up=0", "mlp=1", "0.5"]


@pytest.mark.parametrize(
    ("given", "differs"),
    [
        ([0, 1], True),
        ([0, 1, 0], False),
        (0.3, False),
        ([{"filter": "norm", "value": [1, 0]}], True),
    ],
)
def test_it_is_told_that_lists_end_otherwise(given: object, differs: bool) -> None:
    advice = mergekit_advice({**yaml.safe_load(SLERP), "parameters": {"t": given}})
    assert ("final norm and head get the last value" in str(advice)) == differs


PLAIN = SLERP.partition("parameters")[0] + "parameters: {t: 0.3}"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the models of the configurations lie, each of 32 layers."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a", "b", "base")):
        draws = np.random.default_rng(number)
        shapes = {f"layers.{k}.{part}": 4 for k in range(32) for part in ("mlp", "self_attn")}
        tensors = {
            f"{key}.weight": draws.standard_normal(size).astype(np.float32)
            for key, size in {"embed": 6, **shapes}.items()
        }
        save_file(tensors, tmp_path / f"{name}.safetensors")
    return tmp_path


def configured(place: Path, text: str) -> str:
    """A file of mergekit that names the models of `place`."""
    text = re.sub(r"model: (a|b|base)\b", r"model: ./\1.safetensors", text)
    (place / "config.yaml").write_text(text)
    return "config.yaml"


def merged(*words: str) -> tuple[bytes, str]:
    """What a merge writes, which is in order of the names, and its errors."""
    code, _, error = run_cli(["merge", *words])
    assert code == 0, error
    folder = Path(words[words.index("-o") + 1])
    return (folder / "model.safetensors").read_bytes(), error


@pytest.mark.parametrize("text", [SLERP, PLAIN, TIES, DARE, WITH_BASE])
def test_a_configuration_is_merged_as_the_command_does_that_is_told(place: Path, text: str) -> None:
    file = configured(place, text)
    weights, error = merged(file, "-o", "made")
    note = next(line for line in error.splitlines() if "genepool merge" in line)
    line = note.partition("genepool merge ")[2].partition("; ")[0]
    assert weights == merged(*shlex.split(line), "-o", "typed")[0]
    differs = "configuration and tokenizer are the first model's" in note
    assert differs == ("base_model: base" in text)
    _, _, advice = run_cli(["evolve", file])
    assert f"genepool merge {line} -o merged" in advice


def test_options_come_before_what_a_configuration_says(place: Path) -> None:
    file = configured(place, PLAIN)
    options = ["--dtype", "F32", "--ratio", "0.7"]
    words = ["a.safetensors", "b.safetensors", "--angle", "tensor", *options]
    assert merged(file, *options, "-o", "made")[0] == merged(*words, "-o", "typed")[0]
    merged(file, "-o", "made", "--overwrite")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"merge_method": "passthrough"}, "merge_method 'passthrough' has none; slerp, linear, "),
        ({"parameters": {"t": 0.3, "eps": 1}}, "but for 'eps' there is no counterpart"),
        ({"slices": "[0, 16]"}, "has 32 layers, and the configuration of mergekit takes 16"),
        ({"slices": "[0, x]"}, "layer_range [0, 'x'] has none"),
        ({"base_model": "--overwrite"}, "'--overwrite' is no plain path"),
    ],
)
def test_a_configuration_that_cannot_be_followed_is_refused(
    place: Path, changes: dict[str, Any], words: str
) -> None:
    if "slices" in changes:
        configured(place, PLAIN.replace("[0, 32]", changes["slices"]))
    else:
        text = configured(place, PLAIN)
        content = yaml.safe_load(Path(text).read_text())
        (place / "config.yaml").write_text(yaml.safe_dump({**content, **changes}))
    code, out, error = run_cli(["merge", "config.yaml", "-o", "made"])
    assert (code, out) == (1, "")
    assert words in error.splitlines()[-1]
    assert not (place / "made").exists()


def test_a_configuration_stands_alone(place: Path) -> None:
    file = configured(place, PLAIN)
    code, _, error = run_cli(["merge", "a.safetensors", file, "-o", "made"])
    assert code == 1 and "got a YAML file; one of mergekit is given alone" in error
    code, _, error = run_cli(["merge", "gone.yaml", "-o", "made"])
    assert code == 1 and "gone.yaml: cannot be read (No such file" in error


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"merge_method": "passthrough"}, "merge_method 'passthrough' has none; slerp, linear, "),
        ({"merge_method": None, "merge_metod": "ties"}, "no merge_method; slerp, linear, "),
        (
            {"merge_method": None, "merge_metod": "ties"},
            "dare_ties have; nor has 'merge_metod'; see",
        ),
        (
            {
                "parameters": {},
                "models": [
                    {"model": "a", "parameters": {"wieght": 1}},
                    {"model": "b", "parameters": {"weight": 2}},
                ],
            },
            "weight that is given for some of the models only has none; nor has 'wieght'",
        ),
        ({"slices": [{"sources": []}, {"sources": []}]}, "slices of models have none"),
        ({"slices": [{"sources": [{"model": "a", "layer_range": [8, 16]}]}]}, "slices of models"),
        (
            {"models": [{"model": "a+adapter"}]},
            "'a+adapter', a model with an adapter, has none; name",
        ),
        ({"models": [{"model": "a"}, {"model": "a"}]}, "a model is named twice"),
        ({"models": [{"model": "a", "parameters": {"weight": [0, 1]}}]}, "weight [0, 1] has none"),
        ({"models": "a"}, None),
        ({"base_model": None}, "dare_ties takes a base_model"),
        ({"tokenizer_source": "union"}, "tokenizer_source 'union' has none; without it"),
        ({"parameters": {"rescale": False}}, "'rescale' other than the default of dare_ties"),
        (
            {"merge_method": "ties", "parameters": {"rescale": True}},
            "'rescale' other than the default of ties has none",
        ),
        ({"chat_template": "chatml"}, "chat_template has none"),
        (
            {"models": None, "slices": [{"base_model": "c", "sources": [{"model": "a"}]}]},
            "a slice with a base_model of its own has none",
        ),
        ({"parameters": {"normalize": [{"value": False}]}}, "true and false have"),
        ({"parameters": {"rescale": "false"}}, "rescale 'false' has none"),
        ({"parameters": {"lambda": "x\ny"}}, "lambda 'x\\ny' has none"),
        ({"modules": {}}, "modules"),
    ],
)
def test_where_no_command_does_the_same(changes: dict[str, Any], words: str | None) -> None:
    advice = mergekit_advice({**yaml.safe_load(DARE), **changes})
    assert advice is not None and "\n" not in advice
    if words is not None:
        assert "no command does the same here" in advice
        assert words in advice


def test_what_mergekit_evolve_reads(tmp_path: Path) -> None:
    file = tmp_path / "evolve.yaml"
    genome = {"models": ["a", "b"], "merge_method": "slerp", "layer_granularity": 8}
    file.write_text(yaml.safe_dump({"genome": genome, "tasks": [{"name": "gsm8k"}]}))
    with pytest.raises(ConfigError, match=r"mergekit-evolve; .*'seeds: \[a, b\]'.*cma-es"):
        load_run(file)


def test_other_files_are_taken_for_what_they_are(tmp_path: Path) -> None:
    for content in ({"pool": "p", "seeds": ["a"], "models": []}, {}, [], None, "models", {"a": 1}):
        assert mergekit_advice(content) is None
    (tmp_path / "run.yaml").write_text("a: 1")
    code, _, error = run_cli(["merge", str(tmp_path / "run.yaml"), "-o", str(tmp_path / "out")])
    assert code == 1 and "expected a model; got a YAML file" in error
    (tmp_path / "run.yaml").write_text("a: [")
    code, _, error = run_cli(["merge", str(tmp_path / "run.yaml"), "-o", str(tmp_path / "out")])
    assert code == 1 and "got a YAML file: not valid YAML" in error
