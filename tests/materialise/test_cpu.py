"""Materialising: equal to the dense computation, whatever dtypes, tensors, segments and threads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.checkpoints.layout import build_layout
from genepool.core.genome import Origin, Recipe, Vector, express, recipe
from genepool.core.rng import noise, noise_words
from genepool.errors import CheckpointError, InputError
from genepool.materialise import cpu as materialise
from genepool.materialise.cpu import Destination, Materialiser
from genepool.materialise.torch import destination
from tests.build import TORCH, Tensors, bits, network, opened, values


@dataclass(frozen=True)
class Case:
    shapes: list[int]
    seeds: list[str]
    destination: list[str]
    segments: int
    threads: int
    block: int
    number: int


codes = st.sampled_from(list(TORCH))
cases = st.builds(
    Case,
    shapes=st.lists(st.one_of(st.integers(1, 9), st.integers(200, 1500)), min_size=1, max_size=6),
    seeds=st.lists(codes, min_size=1, max_size=5),
    destination=st.lists(codes, min_size=6, max_size=6),
    segments=st.one_of(st.integers(1, 12), st.just(1000)),
    threads=st.sampled_from([1, 3]),
    block=st.sampled_from([100, 1000, 2**19]),
    number=st.integers(0, 2**32 - 1),
)


def random_recipe(rng: np.random.Generator, size: int, segments: int, sources: int) -> Recipe:
    cuts = np.unique(rng.integers(1, size, min(segments, size) - 1)) if size > 1 else []
    bounds = np.array([0, *cuts, size])
    coefs = rng.normal(size=(bounds.size - 1, sources))
    coefs[rng.random(coefs.shape) < 0.2] = 0
    return recipe(bounds, coefs)


@settings(deadline=None, max_examples=60)
@given(case=cases)
def test_a_recipe_equals_the_dense_computation_and_one_rounding(case: Case) -> None:
    rng = np.random.default_rng(case.number)
    models: list[Tensors] = [
        {
            f"layer{i}.weight": torch.from_numpy(rng.standard_normal(n)).to(TORCH[code])
            for i, n in enumerate(case.shapes)
        }
        for code in case.seeds
    ]
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(materialise, "ITEM", case.block)
        checkpoints = [opened(Path(directory) / str(i), m) for i, m in enumerate(models)]
        layout = build_layout(checkpoints)
        genome = random_recipe(rng, layout.axis.size, case.segments, len(models))
        tensors = {
            slot.name: torch.full(slot.shape, 9.0, dtype=TORCH[code])
            for slot, code in zip(layout.slots, case.destination, strict=False)
        }
        places = {name: destination(tensor) for name, tensor in tensors.items()}
        Materialiser(checkpoints, layout, places, case.threads).write(genome)
        dense = express(genome, [values(m, layout) for m in models])
        for slot in layout.slots:
            got = tensors[slot.name]
            expected = torch.from_numpy(dense[slot.start : slot.stop]).to(got.dtype)
            assert np.array_equal(bits(got), bits(expected)), slot


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("mutation", [0.0, 0.3])
def test_a_child_told_by_its_origin_is_written_as_its_weights_would_be(
    tmp_path: Path, mutation: float, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(materialise, "ITEM", 64)
    checkpoint = opened(tmp_path, network(0))
    layout = build_layout([checkpoint])
    size = layout.axis.size
    rng = np.random.default_rng(1)
    parents = tuple(Vector(rng.standard_normal(size).astype(np.float32)) for _ in range(2))
    tensors = {slot.name: torch.zeros(slot.shape, dtype=TORCH[dtype]) for slot in layout.slots}
    places = {name: destination(tensor) for name, tensor in tensors.items()}
    writer = Materialiser([checkpoint], layout, places, 2)

    def written(genome: Vector) -> torch.Tensor:
        writer.write(genome)
        return torch.cat([tensors[slot.name].reshape(-1) for slot in layout.slots]).clone()

    for step in (1, 2):
        merge = random_recipe(rng, size, 5, 2)
        child = Vector(Origin(merge, parents, mutation, 3, step))
        got = written(child)
        assert child.origin is not None  # written without making its weights
        assert torch.equal(got, torch.from_numpy(child.values.copy()).to(TORCH[dtype]))
        assert child.origin is None and torch.equal(got, written(child))
        # And its weights are the merge with the noise on top.
        plain = express(merge, [parent.values for parent in parents])
        grain = noise(noise_words(3, step, size)) * np.float32(mutation)
        np.testing.assert_array_equal(child.values, plain + grain)
        # A grandchild, told by an origin whose parents are told by theirs.
        other = Vector(Origin(merge, parents, mutation, 3, step + 10))
        last = Vector(Origin(merge, (other, child), mutation, 3, step + 20))
        assert torch.equal(written(last), torch.from_numpy(last.values.copy()).to(TORCH[dtype]))


@pytest.mark.parametrize("threads", [1, 3])
def test_a_vector_is_rounded_into_place(
    tmp_path: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(materialise, "ITEM", 64)
    checkpoint = opened(tmp_path, network(0))
    layout = build_layout([checkpoint])
    values = np.random.default_rng(0).standard_normal(layout.axis.size).astype(np.float32)
    tensors = {slot.name: torch.zeros(slot.shape, dtype=torch.bfloat16) for slot in layout.slots}
    places = {name: destination(tensor) for name, tensor in tensors.items()}
    writer = Materialiser([checkpoint], layout, places, threads)
    for dense in (values, values[::-1]):
        writer.write(Vector(dense))
        expected = torch.from_numpy(dense.copy()).bfloat16()
        got = torch.cat([tensors[slot.name].reshape(-1) for slot in layout.slots])
        assert torch.equal(got, expected)


def test_unaligned_seeds_materialise(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, network(0))
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip() + b" " * 3
    while len(header) % 4 != 1:
        header += b" "
    odd = tmp_path / "odd.safetensors"
    odd.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    shifted = open_checkpoint(odd)
    assert not shifted.tensors["fc1.weight"].raw.flags.aligned
    layout = build_layout([checkpoint, shifted])
    tensors = {slot.name: torch.zeros(slot.shape) for slot in layout.slots}
    places = {name: destination(tensor) for name, tensor in tensors.items()}
    writer = Materialiser([checkpoint, shifted], layout, places)
    writer.write(recipe([0, layout.axis.size], np.array([[0.25, 0.75]])))
    for name, tensor in tensors.items():
        assert torch.equal(tensor, network(0)[name] * 0.25 + network(0)[name] * 0.75)


def test_tied_tensors_are_left_out_and_carried_ones_are_copied(tmp_path: Path) -> None:
    checkpoints = [opened(tmp_path / str(i), network(i)) for i in range(2)]
    layout = build_layout(checkpoints)
    tensors = {slot.name: torch.full(slot.shape, 9.0) for slot in layout.slots}
    steps = np.zeros(2, dtype=np.int64)
    places: dict[str, Destination | None] = {n: destination(t) for n, t in tensors.items()}
    places["fc1.bias"] = None
    writer = Materialiser(checkpoints, layout, {**places, "steps": Destination("I64", steps)})
    assert steps.tolist() == [3, 7], "from the first seed"
    writer.write(recipe([0, layout.axis.size], np.array([[0.0, 1.0]])))
    assert bool((tensors["fc1.bias"] == 9).all())
    for name in ("fc1.weight", "fc2.weight", "fc2.bias"):
        assert torch.equal(tensors[name], network(1)[name])


def test_destinations_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, network(0))
    layout = build_layout([checkpoint])

    def attempt(message: str, **changes: Destination | None) -> None:
        places: dict[str, Destination | None] = {
            slot.name: Destination("F32", np.zeros(slot.stop - slot.start, dtype=np.float32))
            for slot in layout.slots
        }
        places |= {name.replace("__", "."): place for name, place in changes.items()}
        with pytest.raises(InputError, match=message):
            Materialiser([checkpoint], layout, places)

    frozen = np.zeros(32, dtype=np.float32)
    frozen.setflags(write=False)
    shared = np.zeros(40, dtype=np.float32)
    short, whole = shared[:31], shared[:32]
    bias = "destination of tensor 'fc1.bias': expected"
    attempt(f"{bias} 32 elements of 4 bytes; got 31 of 4", fc1__bias=Destination("F32", short))
    attempt(f"{bias} 32 elements of 2 bytes; got 32 of 4", fc1__bias=Destination("F16", whole))
    attempt(f"{bias} dtype F64, F32", fc1__bias=Destination("I32", shared[:32]))
    attempt(f"{bias} a flat", fc1__bias=Destination("F32", frozen))
    attempt(f"{bias} a flat", fc1__bias=Destination("F32", np.zeros((8, 4), dtype=np.float32)))
    attempt(f"{bias} a flat", fc1__bias=Destination("F32", np.zeros(64, dtype=np.float32)[::2]))
    attempt(
        "'fc1.bias', 'fc2.bias' share memory; give None",
        fc1__bias=Destination("F32", shared[:32]),
        fc2__bias=Destination("F32", shared[31:36]),
    )
    attempt("the checkpoint lacks 'other'", other=None)
    attempt("'steps': expected 16 bytes of I64", steps=Destination("I64", np.zeros(3, np.int64)))
    attempt("'steps': expected 16 bytes of I64", steps=Destination("F64", np.zeros(2)))
    with pytest.raises(InputError, match=r"no parameter for 'fc1\.weight', 'fc1\.bias', 'fc2"):
        Materialiser([checkpoint], layout, {})
    with pytest.raises(InputError, match="threads: expected at least 1; got 0"):
        Materialiser([checkpoint], layout, {s.name: None for s in layout.slots}, threads=0)


def test_genomes_and_layouts_of_other_seeds_are_refused(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path / "a", network(0))
    other = opened(tmp_path / "b", {"x.weight": torch.zeros(3)})
    layout = build_layout([checkpoint])
    writer = Materialiser([checkpoint], layout, {slot.name: None for slot in layout.slots})
    size = layout.axis.size
    with pytest.raises(InputError, match=f"has 5 positions and the model has {size}"):
        writer.write(Vector(np.zeros(5, dtype=np.float32)))
    with pytest.raises(InputError, match="recipe over 2 seeds; 1 were given"):
        writer.write(recipe([0, size], np.ones((1, 2))))
    with pytest.raises(InputError, match=r"b: the layout is of other checkpoints; it has 'fc1"):
        Materialiser([other], layout, {})
    with pytest.raises(InputError, match="at least one checkpoint"):
        Materialiser([], layout, {})


def test_a_seed_that_is_cut_short_stops_the_next_write(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, network(0))
    layout = build_layout([checkpoint])
    tensors = {slot.name: torch.zeros(slot.shape) for slot in layout.slots}
    places = {name: destination(tensor) for name, tensor in tensors.items()}
    writer = Materialiser([checkpoint], layout, places)
    genome = recipe([0, layout.axis.size], np.ones((1, 1)))
    writer.write(genome)
    os.truncate(tmp_path / "model.safetensors", 64)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: the file was cut to 64 bytes"):
        writer.write(genome)
