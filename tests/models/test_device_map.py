"""Models on several devices: the model computes as on one, and each device's part is written there.

There are no two devices here: a map of the CPU alone goes through accelerate all the same, and with
a GPU `pytest -m cuda` does so there.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from genepool.core.genome import seed_recipe
from genepool.errors import ConfigError
from genepool.materialise.device import DeviceMaterialiser, resident_bytes
from genepool.models import live as module
from genepool.models.live import SpreadWriter
from tests.models.test_transformers import child, live, logits, opened
from tests.quick import quick

accelerate: Any = pytest.importorskip("accelerate")

PARTS = ("model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb", "lm_head")


@pytest.mark.parametrize("kind", quick(["llama", "qwen2", "gemma", "mixtral", "gpt2"], (0, 4)))
@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)], ids=["cpu", "cuda"]
)
def test_a_model_with_a_map_computes_as_one_without(tmp_path: Path, kind: str, device: str) -> None:
    checkpoints, layout = opened(tmp_path, kind, tokenizer=False)
    place = "cuda:0" if device == "cuda" else device
    parts = PARTS if kind == "llama" else ("",)
    maps = [dict.fromkeys(parts, place)] + (["auto"] if device == "cuda" else [])
    plain = live(checkpoints, layout, device=place)
    for given in maps:
        spread = live(checkpoints, layout, device=place, device_map=given)
        assert spread.value.model.hf_device_map
        for genome in (seed_recipe(layout.axis.size, 1, 2), child(layout)):
            said: list[torch.Tensor] = []
            for one in (plain, spread):
                one.writer(checkpoints, layout).write(genome)
                said.append(logits(one.value.model))
            assert torch.equal(*said)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"": "cuda:0"}, "'' is to lie on 'cuda:0', and 'model.device' says 'cpu'"),
        ({"": "meta"}, "'' is to lie on 'meta', and 'model.device' says 'cpu'"),
        ({"": "disk"}, "cannot be put on the devices of 'device_map'"),
        ({"model": "cpu", "lm_haed": "cpu"}, "the model has no 'lm_haed'; did you mean 'lm_head'"),
        ({"model.layers": "cpu"}, "cannot be put on the devices of 'device_map'"),
        ({}, "cannot be put on the devices of 'device_map'"),
        ("auto", "'auto' is for GPUs of CUDA"),
    ],
)
def test_maps_that_are_refused(tmp_path: Path, given: Any, words: str) -> None:
    checkpoints, layout = opened(tmp_path, tokenizer=False)
    with pytest.raises(ConfigError) as caught:
        live(checkpoints, layout, device_map=given)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_tied_weights_stay_on_one_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy on another device would keep what it was when it was made."""
    dispatch = accelerate.dispatch_model

    def elsewhere(model: Any, **named: Any) -> Any:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        return dispatch(model, **named)

    monkeypatch.setattr(accelerate, "dispatch_model", elsewhere)
    checkpoints, layout = opened(tmp_path, "gemma", tokenizer=False)
    words = r"'model\.embed_tokens\.weight', 'lm_head\.weight' are one tensor"
    with pytest.raises(ConfigError, match=words):
        live(checkpoints, layout, device_map={"": "cpu"})


def test_it_does_not_go_with_compiling(tmp_path: Path) -> None:
    checkpoints, layout = opened(tmp_path, tokenizer=False)
    with pytest.raises(ConfigError, match="'torch_compile' compiles a model whole"):
        live(checkpoints, layout, device_map={"": "cpu"}, torch_compile=True)


def test_each_device_writes_its_own_part(tmp_path: Path) -> None:
    checkpoints, layout = opened(tmp_path, tokenizer=False)
    whole, halved = (live(checkpoints, layout) for _ in range(2))
    names = [*halved.tensors]
    parts = [
        {
            name: t if index % 2 == part else None
            for index, (name, t) in enumerate(halved.tensors.items())
        }
        for part in (0, 1)
    ]
    writer = SpreadWriter([DeviceMaterialiser(checkpoints, layout, part) for part in parts])
    assert resident_bytes(writer) == 0 and len(names) > 4
    for genome in (seed_recipe(layout.axis.size, 1, 2), child(layout)):
        writer.write(genome)
        whole.writer(checkpoints, layout).write(genome)
        for name, tensor in whole.tensors.items():
            other = halved.tensors[name]
            assert (tensor is None and other is None) or torch.equal(tensor, other), name


def test_names_are_parted_by_device_and_what_is_on_the_cpu_goes_first() -> None:
    places = {"a": "cuda:1", "b": "cuda:0", "c": "cpu", "d": None, "e": "cuda:1"}
    tensors = {
        name: None if place is None else SimpleNamespace(device=torch.device(place))
        for name, place in places.items()
    }
    devices = module._devices(tensors)
    assert devices == [torch.device("cuda:1"), torch.device("cuda:0")]
    parts = module._parted(tensors, devices)
    assert [[name for name in part if part[name] is not None] for part in parts] == [
        ["a", "c", "e"],
        ["b"],
    ]
    assert all(part.keys() == tensors.keys() for part in parts)
    assert module._devices({"a": tensors["c"], "b": None}) == []
