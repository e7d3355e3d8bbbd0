"""Language models that cannot be built, and functions that misbehave: one clear line each."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.checkpoints.layout import build_layout
from genepool.core.genome import seed_recipe
from genepool.errors import EvaluationError, GenepoolError
from genepool.models.build import ModelOptions, build_model
from genepool.models.live import LiveModel
from genepool.tasks.function import Function, FunctionOptions
from tests.lms import rewrite_config, write_lm


def build(directory: Path, **options: Any) -> LiveModel:
    checkpoints = [open_checkpoint(directory)]
    layout = build_layout(checkpoints)
    model = build_model(ModelOptions(**options), layout, checkpoints, directory)
    model.writer(checkpoints, layout).write(seed_recipe(layout.axis.size, 0, 1))
    return model


def cut(directory: Path) -> None:
    file = directory / "config.json"
    file.write_text(file.read_text()[:40])


def listed(directory: Path) -> None:
    (directory / "config.json").write_text("[1, 2]")


def bad_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").write_text("{}")


def bad_generation(directory: Path) -> None:
    (directory / "generation_config.json").write_text("{")


def change(**keys: Any) -> Callable[[Path], None]:
    return lambda directory: rewrite_config(directory, **keys)


FILES: list[tuple[Callable[[Path], None], str]] = [
    (cut, "config.json: cannot be read as JSON"),
    (listed, "config.json: expected a JSON object"),
    (bad_tokenizer, "its tokenizer cannot be loaded"),
    (bad_generation, "generation_config.json: cannot be read as JSON"),
    (change(model_type="llama9"), "has no model type 'llama9'; a newer transformers may"),
    (change(architectures=["Llama9ForCausalLM"], model_type="bert"), "has no language model for"),
    (change(hidden_size="wide"), "config.json"),
    (change(hidden_size=32), "does not fit"),
    (change(num_hidden_layers=3), r"the checkpoint has no 'model.layers.2"),
    (change(num_hidden_layers=1), r"the model has no 'model.layers.1"),
    (change(vocab_size=99), r"'model.embed_tokens.weight' is \[46, 16\] in the checkpoint"),
    (change(quantization_config={"bits": 4}), "the model is quantised"),
    (change(auto_map={"AutoConfig": "evil.Config"}, model_type="evil"), "Code that comes with a"),
]


@pytest.mark.parametrize(("spoil", "message"), FILES)
def test_files_that_cannot_be_used(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    directory = write_lm(tmp_path / "model")
    spoil(directory)
    with pytest.raises(GenepoolError, match=message) as caught:
        build(directory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:0"}, "cannot be put on device 'cuda:0'"),
        ({"device": "toaster"}, "cannot be put on device 'toaster'"),
        ({"tokenizer": "nowhere"}, "nowhere holds no tokenizer"),
        ({"kind": "arrays", "tokenizer": "."}, "'tokenizer' applies to a language model only"),
        ({"kind": "network"}, "kind 'network' needs 'network'"),
        ({"kind": "arrays", "network": "a:b"}, "does not go with kind 'arrays'"),
    ],
)
def test_settings_that_cannot_be_used(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    if options.get("device") == "cuda:0" and torch.cuda.is_available():
        options = {"device": "cuda:99"}
        message = "cannot be put on device 'cuda:99'"
    directory = write_lm(tmp_path / "model")
    with pytest.raises(GenepoolError, match=message) as caught:
        build(directory, **options)
    assert "\n" not in str(caught.value)


def test_a_language_model_without_its_directory(tmp_path: Path) -> None:
    directory = write_lm(tmp_path / "model")
    with pytest.raises(GenepoolError, match=r"needs the first seed to be a directory"):
        build(directory / "model.safetensors", kind="transformers")


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write_lm(tmp_path / "model")
    real = importlib.util.find_spec

    def absent(name: str) -> Any:
        return None if name == "transformers" else real(name)

    monkeypatch.setattr(importlib.util, "find_spec", absent)
    with pytest.raises(GenepoolError, match=r"needs the package 'transformers'.*\[llm\]"):
        build(directory)


def words() -> list[str]:
    return ["1 + 1 =", "a b c", "2 + 3 ="]


def right(model: Any, tokenizer: Any, texts: list[str]) -> list[float]:
    model(**tokenizer(texts, return_tensors="pt", padding=True))
    return [0.5] * len(texts)


def few(model: Any, tokenizer: Any, texts: list[str]) -> list[float]:
    return [0.5]


def above(model: Any, tokenizer: Any, texts: list[str]) -> list[float]:
    return [1.5] * len(texts)


def deaf(model: Any, tokenizer: Any, texts: list[str]) -> list[float]:
    try:
        return right(model, tokenizer, texts)
    except Exception:
        return [0.0] * len(texts)


def endless(model: Any, tokenizer: Any, texts: list[str]) -> list[float]:
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    while True:
        model(**batch)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("few", "expected 3 scores"),
        ("above", "is 1.5; expected a number from 0 to 1"),
        ("endless", "took longer than the time limit of 0.05 seconds"),
    ],
)
def test_functions_that_misbehave(tmp_path: Path, name: str, message: str) -> None:
    value = build(write_lm(tmp_path / "model")).value
    options = {"function": f"{__name__}:{name}", "examples": f"{__name__}:words"}
    task = Function(FunctionOptions(**options, time_limit=0.05), tmp_path)
    with pytest.raises(EvaluationError, match=message):
        task.score(value, np.arange(3))


@pytest.mark.parametrize("name", ["right", "deaf"])
def test_logits_that_are_nan(tmp_path: Path, name: str) -> None:
    """Whatever the function makes of them, also where it catches what is raised."""
    value = build(write_lm(tmp_path / "model")).value
    options = {"function": f"{__name__}:{name}", "examples": f"{__name__}:words"}
    task = Function(FunctionOptions(**options), tmp_path)
    assert task.score(value, np.arange(3)).tolist() == [0.5, 0.5, 0.5]
    with torch.no_grad():
        value.model.model.norm.weight[3] = float("nan")
    with pytest.raises(EvaluationError, match="logits hold NaN or infinity"):
        task.score(value, np.arange(3))
    assert not value.model._forward_hooks


def test_a_function_without_its_tokenizer(tmp_path: Path) -> None:
    value = build(write_lm(tmp_path / "model", tokenizer=False)).value
    options = {"function": f"{__name__}:right", "examples": f"{__name__}:words"}
    task = Function(FunctionOptions(**options), tmp_path)
    with pytest.raises(EvaluationError, match=r"no tokenizer; 'model.tokenizer' can name one"):
        task.score(value, np.arange(3))
