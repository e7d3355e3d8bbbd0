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

from genepool.checkpoints.family import Source, make_family, open_source
from genepool.errors import CheckpointError
from tests.pipelines import Kind, tiny_pipeline

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


@pytest.mark.slow
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


def config(path: Path, file: str, **changes: Any) -> None:
    place = path / file
    place.write_text(json.dumps({**json.loads(place.read_text()), **changes}))


def _narrow(key: str, value: Any) -> Callable[[Path], object]:
    return lambda path: config(path, "unet/config.json", **{key: value})


COMPARING: dict[str, tuple[Callable[[Path], object], str]] = {
    "another prediction": (
        lambda p: config(p, "scheduler/scheduler_config.json", prediction_type="v_prediction"),
        "prediction_type is v_prediction against epsilon; denoisers that were trained to predict",
    ),
    "another scheduler": (
        lambda p: index(p, scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"]),
        "prediction_type is flow against epsilon",
    ),
    "another class": (
        lambda p: index(p, unet=["diffusers", "UNet3DConditionModel"]),
        "it is a UNet3DConditionModel, and the other a UNet2DConditionModel",
    ),
    "other heads": (_narrow("attention_head_dim", 2), "attention_head_dim is 2 against 4"),
    "another text width": (_narrow("cross_attention_dim", 24), "cross_attention_dim is 24 against"),
    "other latents": (_narrow("in_channels", 8), "in_channels is 8 against 4"),
    "other blocks": (
        _narrow("down_block_types", ["DownBlock2D", "DownBlock2D"]),
        r'down_block_types is \["DownBlock2D", "DownBlock2D"\] against',
    ),
    "no configuration": (lambda p: (p / "unet" / "config.json").unlink(), "holds no config.json"),
    "a configuration that leads out": (
        lambda p: (
            (p / "unet" / "config.json").rename(p.parent / "c.json"),
            (p / "unet" / "config.json").symlink_to(p.parent / "c.json"),
        ),
        "links out of its directory",
    ),
    "no such component": (
        lambda p: (
            index(p, unet=[None, None], transformer=["diffusers", "UNet2DConditionModel"])
            or (p / "unet").rename(p / "transformer")
        ),
        "the component 'unet' evolves, and only .* has one",
    ),
}


@pytest.mark.parametrize("case", COMPARING)
def test_what_does_not_merge_is_said(original: Path, path: Path, case: str) -> None:
    change, expected = COMPARING[case]
    change(path)
    seeds = [open_source(Source(str(place))) for place in (original, path)]
    with pytest.raises(CheckpointError, match=expected) as caught:
        make_family(seeds)
    assert "\n" not in str(caught.value)


def _pickled_vae(path: Path) -> None:
    weights = path / "vae" / WEIGHTS
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()


FITTING: dict[str, tuple[Callable[[Path], object], str]] = {
    "no VAE": (lambda p: index(p, vae=[None, None]), "has no component 'vae'"),
    "no scheduler": (lambda p: index(p, scheduler=[None, None]), "has no component 'scheduler'"),
    "a VAE that is missing": (lambda p: shutil.rmtree(p / "vae"), "'vae' is missing"),
    "a VAE without weights": (
        lambda p: (p / "vae" / WEIGHTS).unlink(),
        "'vae' holds no diffusion_pytorch_model.safetensors; fetch the whole",
    ),
    "a VAE in pickles": (_pickled_vae, "'vae' holds no .* may hold a pickle"),
    "a VAE of other latents": (
        lambda p: config(p, "vae/config.json", latent_channels=16),
        "vae does not fit .*unet: latent_channels is 16, and the denoiser's out_channels is 4",
    ),
    "a wider text encoder": (
        lambda p: config(p, "text_encoder/config.json", hidden_size=24),
        "text_encoder does not fit .*unet: hidden_size is 24, and the denoiser's "
        "cross_attention_dim is 16",
    ),
    "more tokens than rows": (
        lambda p: config(p, "text_encoder/config.json", vocab_size=10),
        "tokenizer does not fit .*text_encoder: token .* and the text encoder has 10",
    ),
    "longer texts than positions": (
        lambda p: config(p, "tokenizer/tokenizer_config.json", model_max_length=77),
        "it gives up to 77 tokens .* and the text encoder takes 16",
    ),
    "a text encoder with code": (
        lambda p: index(p, text_encoder=["mine", "Encoder"]),
        "'text_encoder' is made by mine.Encoder",
    ),
    "a tokenizer that leads out": (
        lambda p: (
            (p / "tokenizer").rename(p.parent / "t"),
            (p / "tokenizer").symlink_to(p.parent / "t"),
        ),
        "'tokenizer' is a link that leads out",
    ),
}


@pytest.mark.parametrize("case", FITTING)
def test_components_that_do_not_fit_are_said(path: Path, case: str) -> None:
    change, expected = FITTING[case]
    change(path)
    with pytest.raises(CheckpointError, match=expected) as caught:
        make_family([open_source(Source(str(path)))])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "component", "changes", "expected"),
    [
        ("sdxl", "text_encoder_2", {"hidden_size": 24}, "hidden_size is 40, .* 32"),
        ("sdxl", "text_encoder_2", {"projection_dim": 24}, "projection_dim is 24, .* is 64"),
        ("sd3", "text_encoder", {"projection_dim": 24}, "projection_dim is 40, .* 32"),
        ("sd3", "text_encoder_3", {"d_model": 16}, "d_model is 16, .*joint_attention_dim is 32"),
        ("sd3", "vae", {"latent_channels": 8}, "latent_channels is 8, .*out_channels is 4"),
        ("flux", "text_encoder_2", {"d_model": 24}, "d_model is 24, .*joint_attention_dim is 16"),
        ("flux", "vae", {"latent_channels": 16}, "latent_channels is 16, .*in_channels is 16"),
    ],
)
def test_components_of_larger_pipelines_that_do_not_fit(
    tmp_path: Path, kind: Kind, component: str, changes: dict[str, Any], expected: str
) -> None:
    path = tiny_pipeline(tmp_path / kind, kind)
    config(path, f"{component}/config.json", **changes)
    with pytest.raises(CheckpointError, match=f"{component}.* do(es)? not fit .*{expected}"):
        make_family([open_source(Source(str(path)))])


def test_a_pipeline_and_a_single_model_do_not_merge(original: Path, path: Path) -> None:
    seeds = [open_source(Source(str(place))) for place in (original, path / "unet")]
    for order in (seeds, seeds[::-1]):
        with pytest.raises(CheckpointError, match=r"unet is no pipeline .* the folder 'unet'"):
            make_family(order)


def test_pipelines_of_two_kinds_do_not_merge(original: Path, tmp_path: Path) -> None:
    other = open_source(Source(str(tiny_pipeline(tmp_path / "xl", "sdxl"))))
    with pytest.raises(CheckpointError, match="does not fit"):
        make_family([open_source(Source(str(original))), other])
    flux = open_source(Source(str(tiny_pipeline(tmp_path / "flux", "flux"))))
    with pytest.raises(CheckpointError, match="prediction_type is flow against epsilon"):
        make_family([open_source(Source(str(original))), flux])


def test_tokens_of_text_encoders_that_evolve_agree(original: Path, path: Path) -> None:
    file = path / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(content))
    seeds = [open_source(Source(str(place))) for place in (original, path)]
    assert "another tokenizer" in " ".join(make_family(seeds).notices)
    both = ("text_encoder", "unet")
    seeds = [open_source(Source(str(place), components=both)) for place in (original, path)]
    with pytest.raises(CheckpointError, match=r"token 'a' has id .* take it whole from one seed"):
        make_family(seeds)


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer"])
def test_a_text_encoder_is_not_given_the_tokens_of_another(
    part: str, original: Path, path: Path
) -> None:
    """Where only one of the two is named, prompts would mean something else to it."""
    file = path / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(content))
    seeds = [open_source(Source(str(place))) for place in (original, path)]
    with pytest.raises(CheckpointError, match=r"tokenizer does not fit .*'[ab]' has id .*one seed"):
        make_family(seeds, whole={part: 1})
    make_family(seeds, whole={"text_encoder": 1, "tokenizer": 1})


def test_rows_of_tokens_are_not_for_pipelines(original: Path, path: Path) -> None:
    seeds = [open_source(Source(str(place))) for place in (original, path)]
    with pytest.raises(CheckpointError, match="'vocabulary: common' is for language models"):
        make_family(seeds, vocabulary="common")
