"""Merged pipelines: what diffusers loads of them, what is taken as it is, and made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from genepool.checkpoints.pipelines.directory import open_pipeline
from genepool.checkpoints.pipelines.files import component_digest
from genepool.errors import CheckpointError, InputError
from genepool.output.by_hand import blend, merge
from genepool.output.rebuild import rebuild
from tests.build import contents
from tests.cli import run_cli
from tests.late import diffusers
from tests.pipelines import KINDS, Kind, single_file, tiny_pipeline

WEIGHTS = "diffusion_pytorch_model.safetensors"


def loaded(directory: Path) -> Any:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(str(directory))
    pipeline.set_progress_bar_config(disable=True)
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            for tensor in component.parameters():
                # Last bits depend on where in a mapped file a tensor begins.
                tensor.data = tensor.data.clone()
    return pipeline


def pictures(pipeline: Any) -> np.ndarray[Any, Any]:
    noise = torch.Generator().manual_seed(1)
    given = {"num_inference_steps": 2, "generator": noise, "height": 16, "width": 16}
    return pipeline("three red cats", output_type="np", **given).images


def denoiser(pipeline: Any) -> torch.nn.Module:
    return pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_pipeline_draws_what_the_merged_weights_draw(kind: Kind, tmp_path: Path) -> None:
    a, b = (tiny_pipeline(tmp_path / name, kind, seed=n) for n, name in enumerate("ab"))
    done = blend([a, b], tmp_path / "out")
    by_hand, other = loaded(a), denoiser(loaded(b)).state_dict()
    state = denoiser(by_hand).state_dict()
    mean = {name: 0.5 * tensor + 0.5 * other[name] for name, tensor in state.items()}
    denoiser(by_hand).load_state_dict(mean)
    written = loaded(tmp_path / "out")
    assert type(written) is type(by_hand)
    found = denoiser(written).state_dict()
    assert all(torch.equal(found[name], mean[name]) for name in mean)
    assert np.array_equal(pictures(written), pictures(by_hand))
    assert not np.array_equal(pictures(written), pictures(loaded(a)))
    name = "unet" if kind.startswith("sd") and kind != "sd3" else "transformer"
    assert done.details["components"][name] == "evolve"
    assert contents(a, name).items() <= contents(tmp_path / "out").items()


def test_several_components_merge_and_others_come_from_where_it_is_said(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    a, b = pair
    components = {"unet": "evolve", "text_encoder": "evolve", "vae": "b"}
    components["tokenizer"] = str(b.parent / "a/../b")
    done = blend([a, b], tmp_path / "out", weights=[1, 3], components=components)
    out = tmp_path / "out"
    for part, file in (("unet", WEIGHTS), ("text_encoder", "model.safetensors")):
        one, two, got = (load_file(path / part / file) for path in (a, b, out))
        assert got.keys() == one.keys()
        for name, tensor in got.items():
            if tensor.is_floating_point():
                assert torch.equal(tensor, 0.25 * one[name] + 0.75 * two[name]), name
    for part, giver in (("vae", b), ("tokenizer", b), ("scheduler", a)):
        assert contents(out / part) == contents(giver / part)
    assert done.details["components"]["vae"]["seed"] == "b"
    assert "givers" not in done.details
    loaded(out)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["slerp", "linear", "task-arithmetic", "ties", "dare-ties"])
def test_every_method_merges_pipelines_and_is_rebuilt_to_the_same_bytes(
    method: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    a, b = pair
    giver = tiny_pipeline(tmp_path / "other", seed=3)
    arguments = ["merge", str(a), str(b), "-o", str(tmp_path / "out"), "--method", method]
    arguments += ["--component", f"text_encoder={giver}", "--component", "unet=evolve"]
    arguments += ["--component", f"vae={giver / 'vae'}", "--dtype", "bf16"]
    if method == "slerp":
        arguments += ["--ratio", "0.3", "--split", "0.6"]
    elif method != "linear":
        arguments += ["--base", str(giver)]
    code, _, err = run_cli(arguments)
    assert code == 0, err
    places = {path.name: path for path in (a, b, giver)}
    recipe = json.loads((tmp_path / "out/genepool.json").read_text())
    given = [entry["name"] for entry in (*recipe["seeds"], *recipe.get("givers", []))]
    seeds = {name: places.get(name, giver / "vae") for name in given}
    rebuild(tmp_path / "out", tmp_path / "again", seeds=seeds)
    first, again = contents(tmp_path / "out"), contents(tmp_path / "again")
    del first["README.md"], again["README.md"]
    assert first == again
    assert (
        first["text_encoder/model.safetensors"] == contents(giver)["text_encoder/model.safetensors"]
    )
    tensors = load_file(tmp_path / "out/unet" / WEIGHTS)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert load_file(tmp_path / "out/vae" / WEIGHTS)["encoder.conv_in.bias"].dtype == torch.float32


def test_a_lora_merges_and_is_rebuilt_over_its_base(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "cache"))
    a, b = pair
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    weight = load_file(a / "unet" / WEIGHTS)[f"{name}.weight"]
    down, up = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
    lora = tmp_path / "style.safetensors"
    factors = {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
    save_file(factors, lora)
    models = [b, {"path": str(lora), "base": str(a)}]
    blend(models, tmp_path / "out", components={"vae": "style"})
    page = (tmp_path / "out/README.md").read_text()
    assert "--moved b=PATH style=PATH style.base=PATH -o DIR" in page
    merged = load_file(tmp_path / "out/unet" / WEIGHTS)[f"{name}.weight"]
    other = load_file(b / "unet" / WEIGHTS)[f"{name}.weight"]
    torch.testing.assert_close(merged, (weight + up @ down + other) / 2)
    assert contents(tmp_path / "out/vae") == contents(a / "vae")
    seeds = {"b": b, "style": lora}
    with pytest.raises(InputError, match=r"is a LoRA; say where .* --moved style\.base=PATH"):
        rebuild(tmp_path / "out", tmp_path / "again", seeds=seeds)
    rebuild(tmp_path / "out", tmp_path / "again", seeds={**seeds, "style.base": a})
    one, again = (contents(tmp_path / name) for name in ("out", "again"))
    assert {**one, "README.md": b""} == {**again, "README.md": b""}
    assert "style.base=PATH" in (tmp_path / "again/README.md").read_text()


@pytest.mark.slow
def test_single_files_give_a_single_file_that_is_rebuilt(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    files = [single_file(path, tmp_path / f"{path.name}.safetensors") for path in pair]
    one, two = map(load_file, files)
    said = {"modelspec.prediction_type": "v", "modelspec.title": "mine"}
    save_file(one, files[0], {"format": "pt", **said})
    parts = {"vae": "evolve", "unet": "evolve"}
    for name, components in (("plain", {}), ("both", parts)):
        done = blend(files, tmp_path / name, dtype="BF16", components=components)
        assert done.details["components"] == components
        got = load_file(tmp_path / name / "model.safetensors")
        assert got.keys() == one.keys()
        with safe_open(tmp_path / name / "model.safetensors", framework="numpy") as file:
            told = file.metadata()
        assert told["modelspec.prediction_type"] == "v" and "modelspec.title" not in told
        for tensor in one:
            first = "vae" if tensor.startswith("first_stage_model.") else "other"
            if tensor.startswith("model.diffusion_model.") or (first == "vae" and components):
                assert torch.equal(got[tensor], ((one[tensor] + two[tensor]) / 2).bfloat16())
            else:
                assert torch.equal(got[tensor], one[tensor]), tensor
        page = (tmp_path / name / "README.md").read_text()
        assert 'library_name: "diffusers"' in page and "pipeline_tag: text-to-image" in page
        assert "BF16 is the type of the merged components; all others have their own" in page
        seeds = {file.stem: file for file in files}
        rebuild(tmp_path / name, tmp_path / f"{name} again", seeds=seeds)
        before, again = contents(tmp_path / name), contents(tmp_path / f"{name} again")
        assert {**before, "README.md": b""} == {**again, "README.md": b""}


@pytest.mark.slow
def test_the_weights_of_a_component_tell_the_recipe_too(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    merge(*pair, tmp_path / "out", ratio=0.5)
    seeds = {path.name: path for path in pair}
    rebuild(tmp_path / "out/unet" / WEIGHTS, tmp_path / "again", seeds=seeds)
    assert contents(tmp_path / "out/unet") == contents(tmp_path / "again/unet")
    (tmp_path / "out/genepool.json").unlink()
    rebuild(tmp_path / "out", tmp_path / "last", seeds=seeds)
    assert contents(tmp_path / "out/unet") == contents(tmp_path / "last/unet")


@pytest.mark.slow
def test_shards_are_named_as_the_libraries_find_them(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    components = {"unet": "evolve", "text_encoder": "evolve"}
    whole = tmp_path / "whole"
    merge(*pair, whole, ratio=0.4, components=components)
    merge(*pair, tmp_path / "out", ratio=0.4, components=components, shard_bytes=20_000)
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        names = sorted(path.name for path in (tmp_path / "out" / part).glob("*.safetensors*"))
        assert names[-1] == f"{stem}.safetensors.index.json"
        assert len(names) > 2 and names[0] == f"{stem}-00001-of-{len(names) - 1:05d}.safetensors"
    one, other = loaded(whole), loaded(tmp_path / "out")
    assert np.array_equal(pictures(one), pictures(other))


def variant_shards(folder: Path, variant: str) -> None:
    """A component's weights in two shards of a variant, as diffusers names them."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    stem, where = "diffusion_pytorch_model", dict[str, str]()
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"{stem}.{variant}-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / f"{stem}.safetensors.index.{variant}.json").write_text(json.dumps(index))
    (folder / WEIGHTS).unlink()


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_whole_components_of_a_variant_get_plain_names(
    sharded: bool, own: tuple[Path, Path], tmp_path: Path
) -> None:
    vae = own[0] / "vae"
    before = load_file(vae / WEIGHTS)
    if sharded:
        variant_shards(vae, "fp16")
    else:
        (vae / WEIGHTS).rename(vae / "diffusion_pytorch_model.fp16.safetensors")
    merge(*own, tmp_path / "out", ratio=0.5)
    assert not list((tmp_path / "out/vae").glob("*fp16*"))
    state = loaded(tmp_path / "out").vae.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())


def test_of_plain_weights_and_a_variant_the_plain_ones_are_taken(
    own: tuple[Path, Path], tmp_path: Path
) -> None:
    expected = contents(own[0] / "vae")
    for name in ("fp16", "non_ema"):
        other = {n: t * 0 for n, t in load_file(own[0] / "vae" / WEIGHTS).items()}
        save_file(other, own[0] / f"vae/diffusion_pytorch_model.{name}.safetensors")
    merge(*own, tmp_path / "out", ratio=0.5)
    assert contents(tmp_path / "out/vae") == expected


def test_a_named_variant_is_merged_and_taken_and_rebuilt(
    own: tuple[Path, Path], tmp_path: Path
) -> None:
    a, b = own
    for path in own:
        for part in ("unet", "vae"):
            other = {n: t / 2 for n, t in load_file(path / part / WEIGHTS).items()}
            save_file(other, path / part / "diffusion_pytorch_model.half.safetensors")
    models = [{"path": str(path), "variant": "half"} for path in own]
    done = blend(models, tmp_path / "out", components={"vae": "b"})
    assert [seed["variant"] for seed in done.details["seeds"]] == ["half", "half"]
    one, two = (load_file(path / "unet" / WEIGHTS) for path in own)
    for name, tensor in load_file(tmp_path / "out/unet" / WEIGHTS).items():
        assert torch.equal(tensor, 0.25 * one[name] + 0.25 * two[name])
    half = (b / "vae/diffusion_pytorch_model.half.safetensors").read_bytes()
    assert (tmp_path / "out/vae" / WEIGHTS).read_bytes() == half
    rebuild(tmp_path / "out", tmp_path / "again", seeds={"a": a, "b": b})
    assert contents(tmp_path / "out/vae") == contents(tmp_path / "again/vae")


def test_a_safety_checker_that_is_not_there_is_left_out(
    own: tuple[Path, Path], tmp_path: Path
) -> None:
    index = json.loads((own[0] / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (own[0] / "model_index.json").write_text(json.dumps(index))
    done = merge(*own, tmp_path / "out", ratio=0.5)
    assert "safety_checker" not in done.details["components"]
    assert loaded(tmp_path / "out").safety_checker is None
    (own[0] / "safety_checker").mkdir()
    (own[0] / "safety_checker/model.safetensors").write_bytes(b"as it is")
    merge(*own, tmp_path / "with", ratio=0.5)
    written = contents(tmp_path / "with")
    assert written["safety_checker/model.safetensors"] == b"as it is"
    assert json.loads(written["model_index.json"]) == index


def test_code_pickles_hidden_files_and_sample_pictures_stay_behind(
    own: tuple[Path, Path], tmp_path: Path
) -> None:
    a, b = own
    for name in (
        *("vae/run.py", "vae/diffusion_pytorch_model.bin", "vae/.hidden", "unet/model.py"),
        *("sample.png", "v1.ckpt", "v1.safetensors", "setup.sh", "README.md", "assets/x.txt"),
    ):
        (a / name).parent.mkdir(exist_ok=True)
        (a / name).write_bytes(b"no")
    (a / "LICENSE").write_text("MIT License")
    merge(a, b, tmp_path / "out", ratio=0.5)
    written = contents(tmp_path / "out")
    assert b"no" not in written.values()
    expected = {*contents(b), "README.md", "genepool.json", "LICENSE-a"}
    assert written.keys() == expected


@pytest.mark.slow
def test_a_component_of_another_class_is_named_in_the_index(
    own: tuple[Path, Path], tmp_path: Path
) -> None:
    a, b = own
    index = json.loads((b / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "EulerDiscreteScheduler"]
    (b / "model_index.json").write_text(json.dumps(index))
    config = json.loads((b / "scheduler/scheduler_config.json").read_text())
    config["_class_name"] = "EulerDiscreteScheduler"
    (b / "scheduler/scheduler_config.json").write_text(json.dumps(config))
    merge(a, b, tmp_path / "out", ratio=0.5, components={"scheduler": "b"})
    assert type(loaded(tmp_path / "out").scheduler).__name__ == "EulerDiscreteScheduler"
    merge(a, b, tmp_path / "other", ratio=0.5, components={"scheduler": b / "scheduler"})
    assert type(loaded(tmp_path / "other").scheduler).__name__ == "EulerDiscreteScheduler"


def test_the_card_names_the_giver_and_the_licence_of_each_component(
    own: tuple[Path, Path], tmp_path: Path
) -> None:
    a, b = own
    for path, licence in ((a, "mit"), (b, "mit")):
        (path / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    giver = tiny_pipeline(tmp_path / "giver", seed=3)
    merge(a, b, tmp_path / "plain", ratio=0.5, components={"vae": "b"})
    (giver / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    merge(a, b, tmp_path / "out", ratio=0.5, dtype="F16", components={"vae": giver})
    fronts = {
        name: yaml.safe_load((tmp_path / name / "README.md").read_text().split("---\n")[1])
        for name in ("plain", "out")
    }
    assert fronts["plain"] == {
        "base_model": ["a", "b"],
        "base_model_relation": "merge",
        "license": "mit",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["merge", "genepool", "text-to-image"],
    }
    assert fronts["out"]["base_model"] == ["a", "b", "giver"]
    assert fronts["out"]["license"] == "other"
    page = (tmp_path / "out/README.md").read_text()
    assert "| giver | cc-by-nc-4.0 | not merged |" in page
    assert "| vae | AutoencoderKL | as it is in giver | cc-by-nc-4.0 |" in page
    assert "| unet | UNet2DConditionModel | merged |" in page
    assert "F16 is the type of the merged components; all others have their own" in page
    assert "--moved a=PATH b=PATH giver=PATH" in page


def test_a_component_with_other_files_is_not_rebuilt(
    own: tuple[Path, Path], tmp_path: Path
) -> None:
    a, b = own
    merge(a, b, tmp_path / "out", ratio=0.5, components={"vae": "b"})
    seeds = {"a": a, "b": b}
    tensors = load_file(b / "vae" / WEIGHTS)
    tensors["encoder.conv_in.bias"] += 1
    save_file(tensors, b / "vae" / WEIGHTS)
    with pytest.raises(CheckpointError, match="seed 'b': holds another component 'vae'"):
        rebuild(tmp_path / "out", tmp_path / "again", seeds=seeds)
    index = json.loads((a / "model_index.json").read_text())
    index["image_encoder"] = index["text_encoder"]
    (a / "model_index.json").write_text(json.dumps(index))
    shutil.copytree(a / "text_encoder", a / "image_encoder")
    with pytest.raises(CheckpointError, match=r"seed 'a': has other components .*image_encoder"):
        rebuild(tmp_path / "out", tmp_path / "again", seeds=seeds)
    assert not (tmp_path / "again").exists()


def test_a_digest_is_of_names_and_contents(own: tuple[Path, Path]) -> None:
    parts = [open_pipeline(path).pipeline for path in own]
    assert parts[0] is not None and parts[1] is not None
    one, two = (part.components for part in parts if part is not None)
    assert component_digest(one["tokenizer"]) == component_digest(two["tokenizer"])
    assert component_digest(one["vae"]) != component_digest(two["vae"])
    (own[0] / "tokenizer/LICENSE").write_text("mit")
    assert component_digest(one["tokenizer"]) != component_digest(two["tokenizer"])
