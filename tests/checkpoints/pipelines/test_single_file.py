"""Image generators in one file: opened, compared and merged under their own names."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import genepool
from genepool.checkpoints.family import Source, make_family, open_source
from genepool.checkpoints.pipelines.single_file import conversion, require_denoiser
from genepool.errors import CheckpointError
from tests.late import diffusers
from tests.pipelines import Kind, single_file, tiny_pipeline

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("single")
    pipelines = [tiny_pipeline(folder / name, seed=n, like=5) for n, name in enumerate("ab")]
    first, other = (single_file(p, p.with_suffix(".safetensors")) for p in pipelines)
    return first, other


def opened(*paths: Path, components: tuple[str, ...] = ()) -> list[Any]:
    return [open_source(Source(str(path), components=components)) for path in paths]


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_diffusers_loads_the_same_denoiser(tmp_path: Path, kind: Kind) -> None:
    """Names of modules are those that diffusers converts, so that the tests' files are real."""
    path = tiny_pipeline(tmp_path / "a", kind)
    file = single_file(path, tmp_path / "a.safetensors")
    loaded = diffusers.UNet2DConditionModel.from_single_file(
        str(file), config=str(path), subfolder="unet", local_files_only=True
    )
    expected = load_file(path / "unet" / "diffusion_pytorch_model.safetensors")
    found = loaded.state_dict()
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_denoiser_evolves_and_all_else_comes_from_the_first(files: tuple[Path, Path]) -> None:
    family = make_family(opened(*files))
    names = [slot.name for slot in family.layout.slots]
    assert all(name.startswith("model.diffusion_model.") for name in names)
    assert "time_embed" in names[0]
    assert names[-1] == "model.diffusion_model.out.2.bias"
    assert {name.partition(".")[0] for name in family.layout.carried} == {
        *("betas", "cond_stage_model", "first_stage_model")
    }
    assert "only 'model.diffusion_model.' is taken of it" in " ".join(family.notices)


def test_others_evolve_when_they_are_named(files: tuple[Path, Path]) -> None:
    family = make_family(opened(*files, components=("text_encoder", "unet")))
    starts = list(dict.fromkeys(slot.name.partition(".")[0] for slot in family.layout.slots))
    assert starts == ["cond_stage_model", "model"]
    with pytest.raises(CheckpointError, match="without a component 'text_encoder_2' that could"):
        opened(files[0], components=("text_encoder_2",))


def test_merged_files_are_single_files(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = genepool.merge(*files, tmp_path / "out", ratio=0.5).directory
    a, b = (load_file(path) for path in files)
    made = load_file(out / "model.safetensors")
    assert set(made) == set(a)
    for name, tensor in made.items():
        if not name.startswith("model.diffusion_model."):
            assert torch.equal(tensor, a[name])
    name = "model.diffusion_model.middle_block.1.proj_in.weight"
    assert not torch.equal(made[name], a[name])
    assert torch.allclose(made[name], (a[name] + b[name]) / 2, atol=0.02)
    folder = files[0].with_suffix("")
    unet = diffusers.UNet2DConditionModel.from_single_file(
        str(out / "model.safetensors"), config=str(folder), subfolder="unet"
    )
    assert torch.equal(unet.state_dict()["mid_block.attentions.0.proj_in.weight"], made[name])
    first, other = (path.with_suffix("") for path in files)
    again = genepool.merge(first, other, tmp_path / "whole", ratio=0.5).directory
    whole = load_file(again / "unet" / "diffusion_pytorch_model.safetensors")
    for key, tensor in unet.state_dict().items():
        assert torch.allclose(tensor, whole[key], atol=1e-6), key


def test_averages_are_left_out_and_told(files: tuple[Path, Path], tmp_path: Path) -> None:
    folder = files[0].with_suffix("")
    both = single_file(folder, tmp_path / "both.safetensors", averages=0.5)
    (checkpoint,) = opened(both)
    assert checkpoint.digest() == opened(files[0])[0].digest()
    (notice,) = checkpoint.notices
    assert "holds averages over its training too" in notice
    assert "as in diffusers, the weights themselves are used" in notice
    loaded = diffusers.UNet2DConditionModel.from_single_file(
        str(both), config=str(folder), subfolder="unet"
    )
    ours = checkpoint.tensors["model.diffusion_model.out.2.weight"]
    assert torch.equal(loaded.state_dict()["conv_out.weight"].reshape(-1), torch.tensor(ours.raw))
    make_family([*opened(files[1]), checkpoint])


def test_what_else_differs_does_not_matter(files: tuple[Path, Path], tmp_path: Path) -> None:
    tensors = {n: t for n, t in load_file(files[1]).items() if not n.startswith("cond_stage")}
    tensors["first_stage_model.decoder.conv_in.weight"] = torch.zeros(2)
    tensors["more"] = torch.zeros(2)
    save_file(tensors, tmp_path / "c.safetensors")
    layout = make_family(opened(files[0], tmp_path / "c.safetensors")).layout
    assert layout.digest == make_family(opened(*files)).layout.digest


def test_a_directory_and_a_file_need_a_conversion(files: tuple[Path, Path]) -> None:
    seeds = opened(files[0].with_suffix(""), files[1])
    for order in (seeds, seeds[::-1]):
        with pytest.raises(
            CheckpointError, match=r"convert it .*from_single_file\(.*save_pretrain"
        ):
            make_family(order)


def test_the_command_that_converts_is_python(files: tuple[Path, Path], tmp_path: Path) -> None:
    odd = tmp_path / "it's a file.safetensors"
    odd.write_bytes(files[0].read_bytes())
    words = shlex.split(conversion(*opened(odd)))
    assert words[:2] == ["python", "-c"]
    strings = [
        node.value for node in ast.walk(ast.parse(words[2])) if isinstance(node, ast.Constant)
    ]
    assert set(strings) == {str(odd), str(odd.with_suffix(""))}


@pytest.mark.parametrize(
    ("blocks", "kind"),
    [("joint_blocks", "StableDiffusion3Pipeline"), ("double_blocks", "FluxPipeline")],
)
def test_a_file_whose_denoiser_is_no_unet_evolves_as_a_directory(
    tmp_path: Path, blocks: str, kind: str
) -> None:
    """It was loaded as Stable Diffusion, and so was it to be converted."""
    names = [f"model.diffusion_model.{blocks}.0.weight", "first_stage_model.conv_in.weight"]
    save_file({name: torch.zeros(2, 2) for name in names}, tmp_path / "a.safetensors")
    (single,) = opened(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=f"this is one of {kind}.* import {kind} as P"):
        require_denoiser(single)


UNFIT: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "another size": (
        lambda t: {n: x[:1].contiguous() if n.endswith("0.0.weight") else x for n, x in t.items()},
        "shapes differ: 'model.diffusion_model.input_blocks.0.0.weight'",
    ),
    "a layer less": (
        lambda t: {n: x for n, x in t.items() if "middle_block.2" not in n},
        "it lacks .* tensors .'model.diffusion_model.middle_block.2",
    ),
    "only averages": (
        lambda t: {
            n.replace("model.diff", "model_ema.diff"): x for n, x in t.items() if "diff" in n
        },
        "holds averages .* without the weights themselves",
    ),
    "quantised": (
        lambda t: {n: x.to(torch.int8) if n.endswith("out.2.weight") else x for n, x in t.items()},
        "the weights are quantised",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_is_said(files: tuple[Path, Path], tmp_path: Path, case: str) -> None:
    change, expected = UNFIT[case]
    save_file(change(load_file(files[1])), tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match=expected) as caught:
        make_family(opened(files[0], tmp_path / "c.safetensors"))
    assert "\n" not in str(caught.value)


def test_predictions_that_files_name_must_agree(files: tuple[Path, Path], tmp_path: Path) -> None:
    tensors = load_file(files[0])
    key = "modelspec.prediction_type"
    save_file(tensors, tmp_path / "e.safetensors", {key: "epsilon"})
    save_file(tensors, tmp_path / "v.safetensors", {key: "v"})
    save_file({**tensors, "v_pred": torch.zeros(1)}, tmp_path / "m.safetensors")
    noise, velocity, marked = opened(*(tmp_path / f"{n}.safetensors" for n in "evm"))
    assert not any("predicts" in notice for notice in make_family([velocity, marked]).notices)
    (silent,) = opened(files[1])
    for pair in ([noise, silent], [silent, noise]):
        told = "\n".join(make_family(pair).notices)
        assert "e.safetensors predicts epsilon, and" in told
        assert f"{files[1]} does not say what it predicts" in told
    for other in (velocity, marked):
        with pytest.raises(CheckpointError, match="it predicts v_prediction, and the other eps"):
            make_family([noise, other])


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_noise_that_one_file_alone_names_is_told(
    first: bool, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """What the first seed says of it holds for all that is drawn."""
    save_file({**load_file(files[0]), "ztsnr": torch.zeros(1)}, tmp_path / "z.safetensors")
    marked, plain = opened(tmp_path / "z.safetensors", files[1])
    seeds = [marked, plain] if first else [plain, marked]
    assert f"(ztsnr), and {files[1]} does not say so" in "\n".join(make_family(seeds).notices)
    assert "ztsnr" not in "\n".join(make_family([marked, marked]).notices)


def test_components_are_not_taken_from_single_files(files: tuple[Path, Path]) -> None:
    with pytest.raises(CheckpointError, match=r"is no pipeline .* leave out 'components'"):
        make_family(opened(*files), whole={"vae": 1})
