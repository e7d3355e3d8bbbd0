"""LoRAs of image generators, compared with what diffusers loads and fuses from the same files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from genepool.checkpoints.family import Source, find_source, make_family, open_source
from genepool.checkpoints.pipelines.ldm_names import ldm_modules
from genepool.errors import CheckpointError
from tests.late import diffusers, peft
from tests.pipelines import Kind, tiny_pipeline

Tensors = dict[str, torch.Tensor]
PLACES = {
    "sd": ["to_q", "to_v", "to_out.0", "conv1", "proj_in"],
    "sdxl": ["to_k", "ff.net.2", "conv_shortcut", "time_emb_proj", "0.conv"],
    "sd3": ["to_q", "add_k_proj"],
    "flux": ["to_q", "proj_mlp", "norm.linear"],
}
TEXT = {"A": (4, 16), "B": (16, 4)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "cache"))


def trained(path: Path, kind: Kind, text: bool = False) -> Tensors:
    """A LoRA of a pipeline, with random weights, under the names of diffusers."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(str(path))
    name = "unet" if kind in ("sd", "sdxl") else "transformer"
    torch.manual_seed(1)
    model = getattr(pipe, name)
    model.add_adapter(
        peft.LoraConfig(r=4, lora_alpha=4, init_lora_weights=False, target_modules=PLACES[kind])
    )
    tensors = peft.get_peft_model_state_dict(model)
    out = {f"{name}.{key}": tensor.contiguous() * 0.3 for key, tensor in tensors.items()}
    for layer in range(2 if text else 0):
        module = f"text_encoder.text_model.encoder.layers.{layer}.self_attn.q_proj"
        out |= {f"{module}.lora_{part}.weight": torch.randn(*shape) for part, shape in TEXT.items()}
    return out


def kohya(
    tensors: Tensors, alpha: float, rename: Callable[[str], str] = lambda name: name
) -> Tensors:
    """The same under kohya's names, in which `rename` may put other modules."""
    starts = {"unet": "lora_unet", "text_encoder": "lora_te", "transformer": "lora_transformer"}
    out: Tensors = {}
    for name, tensor in tensors.items():
        module, part = re.fullmatch(r"(.+)\.lora_([AB])\.weight", name).groups()  # pyright: ignore
        component, _, inner = module.partition(".")
        flat = f"{starts[component]}_{rename(inner).replace('.', '_')}"
        out[f"{flat}.lora_{'down' if part == 'A' else 'up'}.weight"] = tensor
        out[f"{flat}.alpha"] = torch.tensor(alpha)
    return out


def fused(path: Path, file: Path, component: str) -> dict[str, np.ndarray[Any, Any]]:
    pipe = diffusers.DiffusionPipeline.from_pretrained(str(path))
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    return {n: t.numpy() for n, t in getattr(pipe, component).state_dict().items()}


def compare(path: Path, file: Path, component: str = "unet") -> Any:
    """Fold and compare all tensors with those that diffusers fuses; at least some have changed."""
    source = find_source(str(file), Path.cwd(), base=str(path))
    opened, base = open_source(source), open_source(Source(str(path)))
    expected = fused(path, file, component)
    changed = 0
    for name, tensor in opened.tensors.items():
        values = tensor.floats()
        theirs = expected[name.partition(".")[2]]
        assert np.allclose(values, theirs, rtol=1e-5, atol=1e-6), name
        changed += not np.array_equal(tensor.raw, base.tensors[name].raw)
    assert changed > 3
    assert opened.pipeline == base.pipeline
    assert make_family([base, opened]).layout.axis.size > 0
    return opened


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3", "flux"])
def test_diffusers_names(tmp_path: Path, kind: Kind) -> None:
    path = tiny_pipeline(tmp_path / "base", kind)
    file = tmp_path / "lora.safetensors"
    save_file(trained(path, kind), file)
    compare(path, file, "unet" if kind in ("sd", "sdxl") else "transformer")


def test_metadata_says_alpha(tmp_path: Path) -> None:
    path = tiny_pipeline(tmp_path / "base")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(path))
    config = peft.LoraConfig(r=4, lora_alpha=2, init_lora_weights=False, target_modules=["to_q"])
    pipe.unet.add_adapter(config)
    tensors = peft.get_peft_model_state_dict(pipe.unet)
    diffusers.StableDiffusionPipeline.save_lora_weights(
        str(tmp_path / "lora"),
        unet_lora_layers=tensors,
        unet_lora_adapter_metadata=config.to_dict(),
    )
    compare(path, tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    folder = open_source(find_source("lora", tmp_path, base=str(path)))
    assert folder.name == "lora"


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1.0, 4.0])
def test_kohyas_names(tmp_path: Path, alpha: float) -> None:
    path = tiny_pipeline(tmp_path / "base")
    file = tmp_path / "lora.safetensors"
    save_file(kohya(trained(path, "sd"), alpha), file)
    compare(path, file)


@pytest.mark.slow
def test_older_names_of_diffusers(tmp_path: Path) -> None:
    path = tiny_pipeline(tmp_path / "base")
    file = tmp_path / "lora.safetensors"
    tensors = {
        re.sub(r"\.lora_A\.", ".lora.down.", re.sub(r"\.lora_B\.", ".lora.up.", name)): tensor
        for name, tensor in trained(path, "sd").items()
        if "attn" in name
    }
    save_file(tensors, file)
    compare(path, file)


def test_kohyas_names_of_sdxl_are_those_of_its_own_code(tmp_path: Path) -> None:
    path = tiny_pipeline(tmp_path / "base", "sdxl")
    names = load_file(path / "unet" / "diffusion_pytorch_model.safetensors")
    own = ldm_modules(names)
    plain = {**trained(path, "sdxl")}
    file, other = tmp_path / "lora.safetensors", tmp_path / "other.safetensors"
    save_file(plain, other)
    expected = open_source(find_source(str(other), tmp_path, base=str(path)))
    save_file(kohya(plain, 4.0, lambda inner: own[inner]), file)
    opened = open_source(find_source(str(file), tmp_path, base=str(path)))
    assert opened.digest() == expected.digest()


@pytest.mark.slow
def test_of_a_text_encoder_that_does_not_evolve(tmp_path: Path) -> None:
    path = tiny_pipeline(tmp_path / "base")
    file = tmp_path / "lora.safetensors"
    tensors = trained(path, "sd", text=True)
    save_file(tensors, file)
    opened = compare(path, file)
    (notice,) = opened.notices
    assert "what it changes in 'text_encoder' is left out, because only 'unet' evolve" in notice
    both = Source(str(file), str(path), components=("unet", "text_encoder"))
    folded = open_source(both)
    assert not folded.notices
    kept = tmp_path / "kohya.safetensors"
    save_file(kohya(tensors, 4.0), kept)
    again = open_source(Source(str(kept), str(path), components=("unet", "text_encoder")))
    assert again.digest() == folded.digest()
    assert folded.digest() != open_source(Source(str(path), components=both.components)).digest()
    only = {name: tensor for name, tensor in tensors.items() if name.startswith("text")}
    save_file(only, file)
    with pytest.raises(CheckpointError, match="it would be the same as its base"):
        open_source(Source(str(file), str(path)))


def test_it_is_folded_once(tmp_path: Path) -> None:
    path = tiny_pipeline(tmp_path / "base", dtype=torch.float16)
    file = tmp_path / "lora.safetensors"
    save_file(trained(path, "sd"), file)
    source = Source(str(file), str(path))
    first = open_source(source)
    (made,) = (tmp_path / "cache" / "adapters").glob("*.safetensors")
    stamp = made.stat().st_mtime_ns
    assert open_source(source).digest() == first.digest()
    assert made.stat().st_mtime_ns == stamp
    assert {tensor.dtype for tensor in first.tensors.values()} == {"F16"}


SPOILT: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "a module that is not there": (
        lambda t: {**t, "unet.nothing.lora_A.weight": torch.ones(4, 8)},
        "'unet.nothing' is no module of the base .* is the LoRA of another base",
    ),
    "other widths": (
        lambda t: {
            n: torch.ones(4, 3) if n.endswith("to_q.lora_A.weight") else x for n, x in t.items()
        },
        "do not fit 'unet.* is the LoRA of another base",
    ),
    "one half": (
        lambda t: {n: x for n, x in t.items() if not n.endswith("to_q.lora_B.weight")},
        r"lacks its up \(B\) weights",
    ),
    "DoRA": (
        lambda t: {**t, "unet.conv_in.lora_magnitude_vector": torch.ones(8)},
        "which genepool does not fold; fuse it into its base first",
    ),
    "LoHa": (
        lambda t: {**t, "lora_unet_conv_in.hada_w1_a": torch.ones(8, 4)},
        "which genepool does not fold",
    ),
    "an alpha that is a matrix": (
        lambda t: {**t, "lora_unet_conv_in.alpha": torch.ones(2, 2)},
        "expected one number",
    ),
    "whole numbers": (
        lambda t: {n: x.to(torch.int32) for n, x in t.items()},
        "expected a floating one",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SPOILT)
def test_what_cannot_be_folded_is_said(tmp_path: Path, case: str) -> None:
    change, expected = SPOILT[case]
    path = tiny_pipeline(tmp_path / "base")
    file = tmp_path / "lora.safetensors"
    save_file(change(trained(path, "sd")), file)
    with pytest.raises(CheckpointError, match=expected) as caught:
        open_source(find_source(str(file), tmp_path, base=str(path)))
    assert "\n" not in str(caught.value)


def test_bases_that_are_none(tmp_path: Path) -> None:
    path = tiny_pipeline(tmp_path / "base")
    file = tmp_path / "lora.safetensors"
    save_file(trained(path, "sd"), file)
    with pytest.raises(CheckpointError, match=r"its base .*unet is no pipeline"):
        open_source(find_source(str(file), tmp_path, base=str(path / "unet")))
    with pytest.raises(CheckpointError, match="is a LoRA, and it is not said over which pipeline"):
        make_family([open_source(Source(str(path))), open_source(Source(str(file)))])
    xl = tiny_pipeline(tmp_path / "xl", "sdxl")
    with pytest.raises(CheckpointError, match="is the LoRA of another base"):
        open_source(find_source(str(file), tmp_path, base=str(xl)))
    weights = path / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(CheckpointError, match="this is no adapter"):
        find_source(str(weights), tmp_path, base=str(path))
