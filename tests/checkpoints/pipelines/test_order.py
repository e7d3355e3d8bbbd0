"""Depth order of pipelines, compared with the order in which their modules run."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genepool.checkpoints.depth import depth_key
from genepool.checkpoints.layout import PRESETS, build_layout, pattern_test
from genepool.checkpoints.pipelines.directory import open_pipeline
from genepool.checkpoints.pipelines.order import in_order, order_key
from tests.build import opened
from tests.pipelines import KINDS, Kind, build_pipeline, tiny_pipeline

# A block, or one of what lies side by side in it; else the whole name.
UNIT = re.compile(
    r".*?\.\d+(\.(resnets|attentions|downsamplers|upsamplers)\.\d+)?(?=\.)"
    r"|(mid_block|decoder\.mid_block)\.\w+\.\d+"
)


def unit(module: str) -> str:
    found = UNIT.match(module + ".")
    return found[0] if found else module


def runs(pipe: Any, kind: Kind) -> dict[str, list[str]]:
    """Component -> its modules with weights, in the order of their first call."""
    ran: dict[str, list[str]] = {}
    for component, model in pipe.components.items():
        if not isinstance(model, torch.nn.Module):
            continue
        order = ran.setdefault(component, [])
        for name, module in model.named_modules():
            if next(module.parameters(recurse=False), None) is not None:
                module.register_forward_pre_hook(lambda *_, n=name, o=order: o.append(n))  # pyright: ignore
    pipe.set_progress_bar_config(disable=True)
    prompt: dict[str, Any] = {"height": 16, "width": 16}
    if kind in ("sd3", "flux"):
        prompt["max_sequence_length"] = 16
    pipe("a dog", num_inference_steps=1, output_type="latent", **prompt)
    pipe.vae(torch.zeros(1, 3, 16, 16))
    return ran


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_lie_as_they_run(kind: Kind) -> None:
    pipe = build_pipeline(kind)
    for component, modules in runs(pipe, kind).items():
        names = sorted(getattr(pipe, component).state_dict(), key=order_key)
        laid = list(dict.fromkeys(unit(name.rpartition(".")[0]) for name in names))
        ran = list(dict.fromkeys(map(unit, modules)))
        # What takes the inputs in has no order of its own, and has to come before all blocks.
        first = next(i for i, name in enumerate(laid) if re.search(r"\.\d+(\.|$)", name))
        inputs = laid[:first]
        assert [name for name in ran if name not in inputs] == laid[first:], component


@pytest.mark.parametrize("kind", KINDS)
def test_the_preset_takes_what_lies_in_modules_of_attention(kind: Kind) -> None:
    patterns = [pattern_test(pattern) for pattern in PRESETS["attention"]["attention"]]
    found = 0
    for component, model in build_pipeline(kind).components.items():
        if not isinstance(model, torch.nn.Module):
            continue
        expected = {
            f"{module}.{name}"
            for module, part in model.named_modules()
            if type(part).__name__ in ("Attention", "FluxAttention", "CLIPAttention", "T5Attention")
            for name in part.state_dict()
        }
        names = [*model.state_dict()]
        assert {n for n in names if any(test(f"{component}.{n}") for test in patterns)} == expected
        found += len(expected)
    assert found > 30


def test_components_run_from_prompt_to_picture() -> None:
    names = ("vae", "transformer_2", "unet", "text_encoder_2", "transformer", "text_encoder")
    assert in_order(names) == (
        *("text_encoder", "text_encoder_2"),
        *("transformer", "transformer_2", "unet"),
        "vae",
    )


def test_the_axis_of_a_pipeline_follows(tmp_path: Path) -> None:
    path = tiny_pipeline(tmp_path / "a")
    layout = build_layout([open_pipeline(path, ("vae", "unet", "text_encoder"))])
    names = [slot.name for slot in layout.slots]
    components = list(dict.fromkeys(name.partition(".")[0] for name in names))
    assert components == ["text_encoder", "unet", "vae"]
    last = next(i for i, (a, b) in enumerate(pairwise(names)) if "unet" in a and "vae" in b)
    assert names[last] == "unet.conv_out.bias"


def test_the_order_of_what_is_no_pipeline_stays(tmp_path: Path) -> None:
    tensors = {
        f"down_blocks.0.{part}.0.conv.weight": torch.zeros(2) for part in ("attentions", "resnets")
    }
    layout = build_layout([opened(tmp_path / "a", tensors)])
    assert [slot.name for slot in layout.slots] == sorted(tensors, key=depth_key)
    assert sorted(tensors, key=order_key) != sorted(tensors, key=depth_key)


part = st.sampled_from(
    ["encoder", "decoder", "model", "down_blocks", "resnets", "attentions", "0", "00", "12", "out"]
) | st.text(max_size=3)


@pytest.mark.slow
@given(st.lists(st.lists(part, min_size=1, max_size=5).map(".".join), unique=True, max_size=20))
def test_the_order_is_total(names: list[str]) -> None:
    ordered = sorted(names, key=order_key)
    names.reverse()
    assert sorted(names, key=order_key) == ordered
