"""Hostile and unfit pipelines: each ends in one clear line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from genepool.checkpoints.family import Source, open_source
from genepool.errors import CheckpointError
from tests.pipelines import tiny_pipeline

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("pipelines") / "sd")


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "sd"))


def index(path: Path, **changes: Any) -> None:
    file = path / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _text(text: str) -> Callable[[Path], object]:
    return lambda path: (path / "model_index.json").write_text(text)


def _linked_folder(path: Path) -> None:
    (path / "unet").rename(path.parent / "elsewhere")
    (path / "unet").symlink_to(path.parent / "elsewhere")


def _linked_weights(path: Path) -> None:
    (path / "unet" / WEIGHTS).rename(path.parent / "elsewhere.safetensors")
    (path / "unet" / WEIGHTS).symlink_to(path.parent / "elsewhere.safetensors")


def _linked_index(path: Path) -> None:
    (path / "model_index.json").rename(path.parent / "elsewhere.json")
    (path / "model_index.json").symlink_to(path.parent / "elsewhere.json")


def _pickled(path: Path) -> None:
    weights = path / "unet" / WEIGHTS
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()


def _shards_outside(path: Path) -> None:
    names = dict.fromkeys(load_file(path / "unet" / WEIGHTS), f"../vae/{WEIGHTS}")
    (path / "unet" / WEIGHTS).unlink()
    (path / "unet" / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": names}))


def _quantised(path: Path) -> None:
    tensors = load_file(path / "unet" / WEIGHTS)
    name = "mid_block.attentions.0.transformer_blocks.0.ff.net.2.weight"
    tensors[name] = torch.ones_like(tensors[name], dtype=torch.int8)
    tensors[name.replace(".weight", ".SCB")] = torch.ones(4)
    save_file(tensors, path / "unet" / WEIGHTS)


def _cut(path: Path) -> None:
    weights = path / "unet" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])


def _a_file(path: Path) -> None:
    shutil.rmtree(path / "unet")
    (path / "unet").write_text("no folder")


OPENING: dict[str, tuple[Callable[[Path], object], str]] = {
    "no JSON": (_text("{"), "cannot be read as JSON"),
    "a list": (_text("[]"), "expected a JSON object"),
    "too deep": (_text("[" * 100_000), "cannot be read as JSON"),
    "no class": (_text('{"unet": ["diffusers", "X"]}'), "expected the name of a pipeline"),
    "a class that is none": (lambda p: index(p, _class_name="a.b\n"), r"got 'a.b\\n'"),
    "a pipeline with code": (
        lambda p: index(p, _class_name=["pipe", "Mine"]),
        "code of its own, which genepool does not run",
    ),
    "a name that leads out": (
        lambda p: index(p, **{"../unet": ["diffusers", "X"]}),
        "'../unet' cannot be the name of a component",
    ),
    "an absolute name": (
        lambda p: index(p, **{"/etc": ["diffusers", "X"]}),
        "'/etc' cannot be the name of a component",
    ),
    "an endless name": (
        lambda p: index(p, **{"u" * 5000: ["diffusers", "X"]}),
        "cannot be the name of a component",
    ),
    "a component with code": (
        lambda p: index(p, unet=["my_unet", "UNet"]),
        "'unet' is made by my_unet.UNet, and genepool runs no code but",
    ),
    "a class with a path": (
        lambda p: index(p, unet=["diffusers", "os.system"]),
        "'unet' is made by diffusers.os.system",
    ),
    "a folder that is missing": (lambda p: shutil.rmtree(p / "unet"), "'unet' is missing"),
    "a file for a folder": (_a_file, "'unet' is missing"),
    "a folder that leads out": (_linked_folder, "'unet' is a link that leads out"),
    "weights that lead out": (_linked_weights, "links out of its directory"),
    "an index that leads out": (_linked_index, "links out of its directory"),
    "a shard that leads out": (_shards_outside, "expected the plain name of a .safetensors file"),
    "pickles": (_pickled, "may hold a pickle.*convert it with"),
    "no weights": (lambda p: (p / "unet" / WEIGHTS).unlink(), "holds no safetensors file"),
    "quantised weights": (_quantised, "the weights are quantised"),
    "weights that are cut": (_cut, "not a valid safetensors file"),
    "no denoiser": (
        lambda p: index(p, unet=[None, None]),
        "has no component called unet or transformer.*say with 'components'",
    ),
}


@pytest.mark.parametrize("case", OPENING)
def test_what_cannot_be_opened_is_said(path: Path, case: str) -> None:
    change, expected = OPENING[case]
    change(path)
    with pytest.raises(CheckpointError, match=expected) as caught:
        open_source(Source(str(path)))
    assert "\n" not in str(caught.value)


def test_a_component_without_weights_does_not_evolve(path: Path) -> None:
    with pytest.raises(CheckpointError, match="tokenizer: the directory holds no safetensors"):
        open_source(Source(str(path), components=("unet", "tokenizer")))
    with pytest.raises(CheckpointError, match="there is no component 'prior' to evolve"):
        open_source(Source(str(path), components=("prior",)))


def test_only_pipelines_have_variants(path: Path) -> None:
    with pytest.raises(CheckpointError, match="only pipelines have variants"):
        open_source(Source(str(path / "unet"), variant="fp16"))
