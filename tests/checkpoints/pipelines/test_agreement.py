"""Pipelines compared component by component, and components fitted to the denoiser."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from genepool.checkpoints.family import make_family, renamed
from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.pipelines.defaults import DEFAULTS, defaults_of
from genepool.checkpoints.pipelines.directory import open_pipeline
from genepool.errors import CheckpointError
from tests.late import diffusers
from tests.pipelines import KINDS, Kind, pixart, tiny_pipeline

NEUTRAL = (None, False, 0, (), [])


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_those_of_diffusers(name: str) -> None:
    """Of keys that are not here, the default is none: an absent key means nothing."""
    given = inspect.signature(getattr(diffusers, name)).parameters
    for key, value in DEFAULTS[name].items():
        default = given[key].default
        assert value == (list(default) if isinstance(default, tuple) else default), key
    shapes = ("block_types", "block_out_channels", "num_", "_dim", "sample_size", "max_size")
    for key, parameter in given.items():
        if key not in DEFAULTS[name] and not any(part in key for part in shapes):
            default = parameter.default
            assert default in NEUTRAL or key in ("in_channels", "out_channels", "num_layers"), key


ELSEWHERE = (
    *("PixArtTransformer2DModel", "SanaTransformer2DModel", "Lumina2Transformer2DModel"),
    *("HunyuanDiT2DModel", "AuraFlowTransformer2DModel", "CogView4Transformer2DModel"),
    *("AutoencoderDC", "AutoencoderTiny", "UNet2DModel", "EulerDiscreteScheduler"),
    *("LCMScheduler", "FlowMatchEulerDiscreteScheduler"),
)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_defaults_of_other_classes_are_read_from_diffusers(name: str) -> None:
    found = defaults_of(name)
    given = inspect.signature(getattr(diffusers, name)).parameters.values()
    assert found == {
        one.name: list(one.default) if isinstance(one.default, tuple) else one.default
        for one in given
        if one.default is not inspect.Parameter.empty
    }


@pytest.mark.parametrize("name", ["Nonesuch", "no name", "", "os"])
def test_defaults_of_what_is_no_class_there_are_not_known(name: str) -> None:
    assert defaults_of(name) is None


@pytest.fixture
def others(tmp_path: Path) -> tuple[Path, Path]:
    """Two pipelines whose denoiser is of a class without an entry in the table."""
    made = [pixart(tmp_path / name, "PixArtSigmaPipeline", seed=n) for n, name in enumerate("ab")]
    return made[0], made[1]


@pytest.mark.parametrize(
    ("key", "usual", "other"),
    [
        ("attention_bias", True, False),
        ("norm_eps", 1e-6, 0.0),
        ("activation_fn", "gelu-approximate", "gelu"),
    ],
)
def test_absent_keys_stand_for_what_diffusers_makes_of_them(
    key: str, usual: Any, other: Any, others: tuple[Path, Path]
) -> None:
    file = "transformer/config.json"
    for a, b in (others, others[::-1]):
        without(a, file, key)
        edited(b, file, **{key: usual})
        make_family(opened(*others))
        edited(b, file, **{key: other})
        with pytest.raises(CheckpointError, match=rf"{key} is .* against"):
            make_family(opened(*others))
        edited(a, file, **{key: usual})


def test_absent_keys_of_unknown_classes_are_told(others: tuple[Path, Path]) -> None:
    file, name = "transformer/config.json", "NewTransformer2DModel"
    for path in others:
        edited(path, file, _class_name=name)
        edited(path, "model_index.json", transformer=["diffusers", name])
    for value in (True, False, 0, 7):
        edited(others[0], file, new_key=value)
        told = [one for one in make_family(opened(*others)).notices if "new_key" in one]
        assert len(told) == 1
        assert f"new_key is absent against {json.dumps(value)}" in told[0]
    edited(others[0], file, new_key=False)
    edited(others[1], file, new_key=True)
    with pytest.raises(CheckpointError, match="new_key is true against false"):
        make_family(opened(*others))
    edited(others[0], file, new_key=0)
    edited(others[1], file, new_key=None)
    with pytest.raises(CheckpointError, match="new_key is null against 0"):
        make_family(opened(*others))


def test_what_schedulers_predict_where_they_do_not_say(others: tuple[Path, Path]) -> None:
    for path, said in zip(others, ({}, {"prediction_type": "v_prediction"}), strict=True):
        kind = "CosineDPMSolverMultistepScheduler"
        edited(path, "model_index.json", scheduler=["diffusers", kind])
        place = path / "scheduler/scheduler_config.json"
        place.write_text(json.dumps({"_class_name": kind, **said}))
    make_family(opened(*others))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_seeds_of_every_kind_fit(tmp_path: Path, kind: Kind) -> None:
    seeds = [open_pipeline(tiny_pipeline(tmp_path / str(n), kind, seed=n, like=9)) for n in (0, 1)]
    family = make_family(seeds)
    assert family.layout.axis.size > 10_000
    text = " ".join(family.notices)
    assert "has another" in text
    assert "vae" in text
    named = dict.fromkeys(seeds[0].pipeline.whole if seeds[0].pipeline else (), 0)
    assert not make_family(seeds, whole=named).notices


def edited(path: Path, file: str, **changes: Any) -> None:
    place = path / file
    place.write_text(json.dumps({**json.loads(place.read_text()), **changes}))


def without(path: Path, file: str, *keys: str) -> None:
    place = path / file
    content = json.loads(place.read_text())
    place.write_text(json.dumps({k: v for k, v in content.items() if k not in keys}))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    first = tiny_pipeline(tmp_path / "a")
    return first, Path(shutil.copytree(first, tmp_path / "b"))


def opened(*paths: Path) -> list[Checkpoint]:
    return [open_pipeline(path) for path in paths]


def test_what_a_configuration_leaves_out_is_its_default(pair: tuple[Path, Path]) -> None:
    without(
        pair[1], "unet/config.json", "act_fn", "norm_eps", "time_cond_proj_dim", "conv_in_kernel"
    )
    assert not make_family(opened(*pair)).notices
    without(pair[1], "unet/config.json", "attention_head_dim")
    with pytest.raises(CheckpointError, match="attention_head_dim is 8 against 4"):
        make_family(opened(*pair))


def test_the_usual_size_of_pictures_may_differ(pair: tuple[Path, Path]) -> None:
    edited(pair[1], "unet/config.json", sample_size=96)
    (notice,) = make_family(opened(*pair)).notices
    assert "sample_size is 96 against 8" in notice


def test_which_whole_components_are_taken_is_said(pair: tuple[Path, Path], tmp_path: Path) -> None:
    third = tiny_pipeline(tmp_path / "c", seed=4)
    edited(third, "scheduler/scheduler_config.json", timestep_spacing="trailing")
    (notice,) = make_family(opened(*pair, third)).notices
    assert f"{third} has another scheduler, text_encoder, vae, which the result has from" in notice
    assert str(pair[0]) in notice
    (notice,) = make_family(opened(*pair, third), whole={"text_encoder": 2, "vae": 2}).notices
    assert "has another scheduler, which the" in notice and "'--component'" in notice


@pytest.mark.parametrize("layout", ["codes", "float8", "without scales"])
def test_whole_components_that_are_quantised_are_compared(
    layout: str, pair: tuple[Path, Path]
) -> None:
    files = [path / "text_encoder" / "model.safetensors" for path in pair]
    plain = load_file(files[0])
    small = torch.int8 if layout == "codes" else torch.float8_e4m3fn
    quantised = {
        name: tensor.to(small) if name.endswith("proj.weight") else tensor
        for name, tensor in plain.items()
    }
    scales = {name.replace("weight", "SCB"): torch.ones(4) for name in plain if "q_proj.w" in name}
    if layout != "without scales":
        quantised |= scales
    for ours, theirs, told in (
        (plain, quantised, 1),
        (quantised, plain, 1),
        (quantised, quantised, 0),
        (quantised, {**quantised, **{name: 2 * value for name, value in scales.items()}}, 1),
    ):
        for file, tensors in zip(files, (ours, theirs), strict=True):
            save_file(tensors, file, {"format": "pt"})
        notices = make_family(opened(*pair)).notices
        assert len(notices) == told
        assert all("has another text_encoder, which" in notice for notice in notices)


def test_what_each_denoiser_was_trained_for_is_told(pair: tuple[Path, Path]) -> None:
    """Whichever scheduler and VAE are taken in the end."""
    edited(pair[1], "scheduler/scheduler_config.json", beta_end=0.02, timestep_spacing="trailing")
    edited(pair[1], "vae/config.json", scaling_factor=0.5)
    edited(pair[1], "model_index.json", force_zeros_for_empty_prompt=False, _name="b")
    told = make_family(opened(*pair), whole={"vae": 1, "scheduler": 0}).notices
    assert [" ".join(text.replace(str(pair[1].parent), "").split()) for text in told] == [
        "/b/scheduler differs from /a/scheduler: beta_end is 0.02 against 0.012 (each denoiser was "
        "trained for its own, and they may not merge well)",
        "/b/vae differs from /a/vae: scaling_factor is 0.5 against 0.18215 (each denoiser was "
        "trained for its own, and they may not merge well)",
    ]
    edited(pair[0], "model_index.json", force_zeros_for_empty_prompt=True)
    (told, *_) = make_family([*opened(*pair)], whole={"vae": 1, "scheduler": 0}).notices[2:]
    assert "b/model_index.json differs from" in told
    assert "force_zeros_for_empty_prompt is false against true (the first seed's is kept)" in told


def test_tokenizers_that_cut_or_pad_otherwise_are_others(pair: tuple[Path, Path]) -> None:
    for key, value in (("model_max_length", 12), ("pad_token", "!")):
        edited(pair[1], "tokenizer/tokenizer_config.json", **{key: value})
        (notice,) = make_family(opened(*pair)).notices
        assert "has another tokenizer, which the result has from" in notice
        shutil.copytree(pair[0], pair[1], dirs_exist_ok=True)


@pytest.mark.slow
def test_position_ids_may_be_absent_in_one(tmp_path: Path) -> None:
    seeds: list[Checkpoint] = []
    for number in range(3):
        path = tiny_pipeline(tmp_path / str(number), seed=number, like=5)
        weights = path / "text_encoder" / "model.safetensors"
        tensors = load_file(weights)
        if number == 0:
            tensors["embeddings.position_ids"] = torch.arange(16.0)[None]
        save_file(tensors, weights, {"format": "pt"})
        seeds.append(open_pipeline(path, ("text_encoder", "unet")))
    for order in (seeds, seeds[::-1]):
        layout = make_family(order).layout
        assert not any("position_ids" in slot.name for slot in layout.slots)
    assert make_family(seeds).layout.carried == ("text_encoder.embeddings.position_ids",)


def test_the_table_of_positions_of_sd3_is_carried(tmp_path: Path) -> None:
    layout = make_family([open_pipeline(tiny_pipeline(tmp_path / "a", "sd3"))]).layout
    assert layout.carried == ("transformer.pos_embed.pos_embed",)


def test_partial_takes_what_both_have(tmp_path: Path) -> None:
    first = tiny_pipeline(tmp_path / "a")
    inpaint = tiny_pipeline(tmp_path / "b", changes={"unet": {"in_channels": 9}})
    with pytest.raises(CheckpointError, match="in_channels is 9 against 4"):
        make_family(opened(first, inpaint))
    family = make_family(opened(first, inpaint), partial=True)
    assert family.layout.carried == ("unet.conv_in.weight",)


def test_rename_keeps_the_component(pair: tuple[Path, Path]) -> None:
    first, other = opened(*pair)
    moved = renamed(other, {"unet.": "unet.model."})
    with pytest.raises(CheckpointError, match=r'rename: \{"unet.model.": "unet."\}'):
        make_family([first, moved])
    make_family([first, renamed(moved, {"unet.model.": "unet."})])
    with pytest.raises(CheckpointError, match=r"begin with the component that evolves, 'unet\."):
        renamed(other, {"unet.": ""})


def test_a_compilers_prefix_is_taken_away(pair: tuple[Path, Path]) -> None:
    from genepool.checkpoints.family import Source, open_source

    weights = pair[1] / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({f"_orig_mod.{n}": t for n, t in load_file(weights).items()}, weights)
    first, other = (open_source(Source(str(path))) for path in pair)
    assert first.digest() == other.digest()
    assert "torch.compile" in other.notices[0]
