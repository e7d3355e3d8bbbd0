"""Torch tensors as destinations, on the CPU and through the staging buffer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.layout import Layout, build_layout
from genepool.core.genome import express, recipe
from genepool.errors import InputError
from genepool.materialise import cpu as materialise
from genepool.materialise import torch as torch_tensors
from genepool.materialise.cpu import Materialiser
from genepool.materialise.torch import CopyingMaterialiser, destination
from tests.build import TORCH, bits, network, opened, values


@pytest.mark.parametrize("dtype", [*TORCH.values(), torch.int64, torch.bool, torch.uint8])
def test_a_destination_is_the_tensor_itself(dtype: torch.dtype) -> None:
    tensor = torch.zeros(3, 4, dtype=dtype)
    place = destination(tensor)
    place.raw[:] = 1
    ones = torch.ones(12, dtype=torch.uint8)
    assert place.raw.size == 12
    if dtype.is_floating_point:
        assert bool((tensor.abs() > 0).all())
    else:
        assert torch.equal(tensor.reshape(-1).to(torch.uint8), ones)


def test_parameters_are_written_without_a_gradient() -> None:
    layer = torch.nn.Linear(3, 2)
    destination(layer.weight).raw[:] = 7.0
    assert bool((layer.weight == 7).all())
    assert layer.weight.requires_grad
    assert layer.weight.grad_fn is None
    destination(torch.nn.Parameter(torch.tensor(1.0))).raw[:] = 2.0


def test_what_cannot_be_written_straight_is_refused() -> None:
    with pytest.raises(InputError, match="expected a contiguous tensor; got strides"):
        destination(torch.zeros(3, 4).t())
    with pytest.raises(InputError, match="expected a tensor on the CPU; got one on 'meta'"):
        destination(torch.zeros(3, device="meta"))
    with pytest.raises(InputError, match=r"got torch\.complex64"):
        destination(torch.zeros(3, dtype=torch.complex64))


def seeds(directory: Path) -> tuple[list[Checkpoint], Layout]:
    codes = ["F32", "BF16", "F16"]
    checkpoints = [opened(directory / str(i), network(i, code)) for i, code in enumerate(codes)]
    return checkpoints, build_layout(checkpoints)


@pytest.mark.parametrize("code", TORCH)
@pytest.mark.parametrize("buffer", [40, 2**20])
def test_staged_tensors_equal_direct_ones(
    tmp_path: Path, code: str, buffer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Strided tensors cannot be written directly, so that the staged path does the work; a small
    # buffer makes it go row by row.
    monkeypatch.setattr(torch_tensors, "_BUFFER", buffer)
    monkeypatch.setattr(torch_tensors, "ITEM", 16)
    monkeypatch.setattr(materialise, "ITEM", 16)
    checkpoints, layout = seeds(tmp_path)
    tensors: dict[str, torch.Tensor | None] = {
        slot.name: torch.zeros(*slot.shape, 2, dtype=TORCH[code])[..., 1] for slot in layout.slots
    }
    steps = torch.zeros(2, dtype=torch.int64)
    writer = CopyingMaterialiser(checkpoints, layout, {**tensors, "steps": steps}, threads=3)
    assert steps.tolist() == [3, 7]
    rng = np.random.default_rng(0)
    for _ in range(2):
        genome = recipe([0, 100, layout.axis.size], rng.normal(size=(2, 3)))
        writer.write(genome)
        models = [network(i, c) for i, c in enumerate(["F32", "BF16", "F16"])]
        dense = express(genome, [values(m, layout) for m in models])
        for slot in layout.slots:
            expected = torch.from_numpy(dense[slot.start : slot.stop]).to(TORCH[code])
            got = tensors[slot.name]
            assert got is not None
            assert np.array_equal(bits(got), bits(expected))


@pytest.mark.parametrize("code", list(TORCH))
@pytest.mark.parametrize("first", list(TORCH))
def test_what_is_written_is_what_loading_an_export_would_give(
    tmp_path: Path, first: str, code: str
) -> None:
    """Rounded to the first seed's dtype, and then to the destination's as torch does it."""
    kinds = [first, "BF16", "F16"]
    models = [network(i, c) for i, c in enumerate(kinds)]
    checkpoints = [opened(tmp_path / str(i), model) for i, model in enumerate(models)]
    layout = build_layout(checkpoints)
    chance = np.random.default_rng(1)
    for sources in (chance.normal(size=(2, 3)), [[0.3, 0.7, 0.0], [0.0, 0.4, 0.0]]):
        genome = recipe([0, 100, layout.axis.size], np.array(sources))
        dense = express(genome, [values(m, layout) for m in models])
        direct = {s.name: torch.zeros(s.shape, dtype=TORCH[code]) for s in layout.slots}
        strided = {
            s.name: torch.zeros(*s.shape, 2, dtype=TORCH[code])[..., 1] for s in layout.slots
        }
        places = {name: destination(tensor) for name, tensor in direct.items()}
        Materialiser(checkpoints, layout, places, as_exported=True).write(genome)
        CopyingMaterialiser(checkpoints, layout, strided, as_exported=True).write(genome)
        for slot in layout.slots:
            exact = torch.from_numpy(dense[slot.start : slot.stop])
            expected = bits(exact.to(TORCH[slot.dtype]).to(TORCH[code]))
            assert np.array_equal(bits(direct[slot.name]), expected)
            assert np.array_equal(bits(strided[slot.name]), expected)


def test_a_scalar_parameter_is_staged(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, {"scale": torch.tensor(3.0), "w.weight": torch.ones(2, 2)})
    layout = build_layout([checkpoint])
    tensors = {"scale": torch.tensor(0.0), "w.weight": torch.zeros(2, 2).t()}
    CopyingMaterialiser([checkpoint], layout, tensors).write(recipe([0, 5], np.array([[2.0]])))
    assert tensors["scale"].item() == 6.0
    assert bool((tensors["w.weight"] == 2).all())


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    checkpoints, layout = seeds(tmp_path)

    def attempt(message: str, **changes: torch.Tensor | None) -> None:
        tensors: dict[str, torch.Tensor | None] = {
            s.name: torch.zeros(s.shape) for s in layout.slots
        }
        tensors |= {name.replace("__", "."): tensor for name, tensor in changes.items()}
        with pytest.raises(InputError, match=message):
            CopyingMaterialiser(checkpoints, layout, tensors)

    attempt(r"'fc1.bias': the checkpoint's shape is \[32\]", fc1__bias=torch.zeros(31))
    attempt("'fc1.bias' is on the device 'meta'", fc1__bias=torch.zeros(32, device="meta"))
    attempt("'fc1.bias' is expanded", fc1__bias=torch.zeros(1).expand(32))
    attempt("expected a floating dtype", fc1__bias=torch.zeros(32, dtype=torch.int32))
    attempt("dtype is I64, the model's I32", steps=torch.zeros(2, dtype=torch.int32))
    attempt("the checkpoint lacks 'other'", other=torch.zeros(1))
    weight = torch.zeros(32)
    attempt("share memory", fc1__bias=weight, fc2__bias=weight[:5])
    with pytest.raises(InputError, match=r"no parameter for 'fc1\.weight'"):
        CopyingMaterialiser(checkpoints, layout, {})
