"""TIES and DARE against a dense computation written from the papers, in numpy."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from genepool.checkpoints.family import Family
from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.layout import Layout, build_layout
from genepool.core.rng import generator
from genepool.errors import CheckpointError, GenepoolError, InputError
from genepool.output.methods.specification import cancels
from genepool.output.methods.task_vectors import NAMES, Name, TaskVectors, words
from genepool.output.write import stream
from genepool.output.write.weights import Produce, Writing, write_tensors
from tests.build import TORCH, opened

SHAPES = {"a.weight": (60, 50), "a.bias": (7,), "b.weight": (3, 5, 11), "c.scale": (1,)}


def models(code: str, count: int) -> list[dict[str, torch.Tensor]]:
    made = torch.Generator().manual_seed(count)

    def draw(scale: float) -> dict[str, torch.Tensor]:
        return {n: torch.randn(s, generator=made) * scale for n, s in SHAPES.items()}

    base = draw(1.0)
    out: list[dict[str, torch.Tensor]] = []
    for _ in range(count):
        change = draw(0.05)
        out.append({n: (base[n] + change[n]).to(TORCH[code]) for n in SHAPES})
    return [*out, {n: t.to(TORCH[code]) for n, t in base.items()}]


def produce_of(checkpoints: tuple[Checkpoint, ...], layout: Layout, how: TaskVectors) -> Produce:
    made = how.combine(Family(checkpoints, layout, ()), ["base"]).made
    assert callable(made)
    return made


def mixed_ranks(row: NDArray[np.float32], seed: int) -> NDArray[np.int64]:
    """The order of equals, written again with whole numbers of any size."""
    pi, e, golden, word = 1415926535897932385, 7182818284590452353, 6180339887498948483, 2**64 - 1
    content = sum((w + i * pi + e) * (w | 1) for i, w in enumerate(row.view(np.uint32).tolist()))
    text = f"{seed} {content & word}".encode()
    start = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    bits = max(2, (row.size - 1).bit_length())
    out: list[int] = []
    for number in range(row.size):
        key = start
        for _ in range(3):
            key = (key * pi + e) & word
            number = ((number ^ (key >> (64 - bits))) * golden) & (2**bits - 1)
            number ^= number >> ((bits + 1) // 2)
        out.append(number)
    return np.array(out)


def dense(tensors: list[NDArray[np.float32]], index: int, how: TaskVectors) -> NDArray[np.float64]:
    """One tensor, as the papers define it."""
    *fine, base = tensors
    weights = np.array(how.weights)[:, None]
    deltas = np.stack([t - base for t in fine])
    if how.method == "ties":
        for row, density in zip(deltas, how.densities, strict=True):
            count = max(1, int(density * row.size))
            ranks = np.arange(row.size) if how.equals == "first" else mixed_ranks(row, how.seed)
            row[np.lexsort((ranks, -np.abs(row)))[count:]] = 0
        found = deltas.astype(np.float64)
    else:
        found = deltas.astype(np.float64)
        for k, row in enumerate(found):
            raw = generator(how.seed, index, k).bit_generator.random_raw(row.size // 2 + 1)
            row[raw.view("<u4")[: row.size] >= round(how.densities[k] * 2**32)] = 0
        # Where the weighted changes cancel, the order of rounding decides the elected sign.
        weights = weights * (1 / np.array(how.densities)[:, None])
    found = found * weights
    agree = np.ones_like(found, dtype=bool)
    if how.method != "dare-linear":
        agree = (np.sign(found) == np.sign(found.sum(axis=0))) & (found != 0)
    merged = np.where(agree, found, 0).sum(axis=0)
    if how.normalise:
        total = np.where(agree, np.array(how.weights)[:, None], 0).sum(axis=0)
        merged = np.divide(merged, total, out=np.zeros_like(merged), where=total != 0)
    return base + how.scale * merged


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("code", ["F32", "BF16", "F16"])
@pytest.mark.parametrize(
    "options",
    [
        {"weights": (1.0, 1.0), "density": 0.2, "normalise": True},
        {"weights": (0.7, -0.4, 1.3), "density": 0.55, "seed": 9, "scale": 0.8},
        {"weights": (0.5,), "density": 1.0},
        {"weights": (0.7, -0.4, 1.3), "density": (0.2, 1.0, 0.55), "normalise": True},
        {"weights": (1.0, 1.0), "density": 0.2, "normalise": True, "equals": "first"},
    ],
)
def test_the_dense_computation(
    tmp_path: Path,
    method: Name,
    code: str,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    how = TaskVectors(method, **options)
    tensors = models(code, len(how.weights))
    checkpoints = tuple(opened(tmp_path / f"m{i}", t) for i, t in enumerate(tensors))
    layout = build_layout(checkpoints)
    contents: list[bytes] = []
    for threads, block in ((1, 2**20), (3, 104), (2, 4000)):
        monkeypatch.setattr(stream, "BLOCK", block)
        out = tmp_path / f"out{threads}"
        produce = produce_of(checkpoints, layout, how)
        write_tensors(produce, checkpoints[0], layout, out, Writing("F32"), threads=threads)
        contents.append((out / "model.safetensors").read_bytes())
    assert len(set(contents)) == 1
    found = load_file(tmp_path / "out1/model.safetensors")
    for index, slot in enumerate(layout.slots):
        flat = [t[slot.name].float().reshape(-1).numpy() for t in tensors]
        expected = dense(flat, index, how).reshape(slot.shape)
        np.testing.assert_allclose(found[slot.name].numpy(), expected, rtol=3e-7, atol=1e-7)


def merged(
    place: Path, tensors: list[dict[str, torch.Tensor]], how: TaskVectors, dtype: str | None = None
) -> bytes:
    checkpoints = tuple(opened(place / f"m{i}", t) for i, t in enumerate(tensors))
    layout = build_layout(checkpoints)
    produce = produce_of(checkpoints, layout, how)
    write_tensors(produce, checkpoints[0], layout, place / "out", Writing(dtype))
    return (place / "out/model.safetensors").read_bytes()


@pytest.mark.parametrize("method", NAMES)
def test_one_density_is_the_same_for_each_model(tmp_path: Path, method: Name) -> None:
    found = {
        density: merged(
            tmp_path / str(i), models("F32", 2), TaskVectors(method, (0.3, 0.7), density, 4)
        )
        for i, density in enumerate((0.3, (0.3, 0.3), (0.3, 0.6), (0.6, 0.3)))
    }
    assert found[0.3] == found[0.3, 0.3]
    assert len(set(found.values())) == 3


def test_weights_that_sum_to_zero_but_for_rounding() -> None:
    for none in ((0.1, 0.2, -0.3), (1.0, -1.0), (0.0, 0.0), (1e308, 1e308, -1e308, -1e308)):
        assert cancels(none), none
    for some in ((1.0, -0.999), (1.0, 1e-9), (1e-320,), (-2.0, 1.0), (1e308, 1e308)):
        assert not cancels(some), some


@pytest.mark.parametrize("method", NAMES)
def test_a_divisor_that_is_rounding_leaves_the_base(tmp_path: Path, method: Name) -> None:
    # All changes weighted agree in sign, so that all weights are divided by.
    base = {"w": torch.zeros(1000)}
    signs = (1.0, 1.0, -1.0)
    tensors = [*({"w": torch.full((1000,), sign)} for sign in signs), base]
    zero = TaskVectors(method, (0.1, 0.2, -0.3), 1.0, normalise=True)
    merged(tmp_path / "zero", tensors, zero)
    assert torch.equal(load_file(tmp_path / "zero/out/model.safetensors")["w"], base["w"])
    # A weight that is small alone is no rounding: it is divided by itself.
    tensors = [{"w": torch.full((1000,), sign)} for sign in (1.0, 0.0, 0.0)]
    small = TaskVectors("ties", (1e-9, 1.0), 1.0, normalise=True)
    merged(tmp_path / "small", tensors, small)
    assert torch.equal(load_file(tmp_path / "small/out/model.safetensors")["w"], torch.ones(1000))


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("density", [0.2, 1.0])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_damaged_weights_are_refused(
    tmp_path: Path, method: Name, density: float, place: int, value: float, word: str
) -> None:
    tensors = models("BF16", 2)
    tensors[place]["a.weight"][59, 49] = value
    with pytest.raises(
        CheckpointError, match=rf"m{place}.*: tensor 'a.weight' holds {word}: the w"
    ):
        merged(tmp_path, tensors, TaskVectors(method, (1.0, 0.0), density))
    assert {path.name for path in tmp_path.iterdir()} == {"m0", "m1", "m2"}


def test_differences_beyond_the_range_are_not_damage(tmp_path: Path) -> None:
    tensors = [{"w": torch.full((20,), value)} for value in (3e38, -3e38)]
    with pytest.raises(GenepoolError, match="'w' has values beyond the range of F32; choose"):
        merged(tmp_path, tensors, TaskVectors("ties", (1.0,), 1.0))


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("method", NAMES)
def test_results_beyond_the_range_are_refused(tmp_path: Path, method: Name, dtype: str) -> None:
    tensors = [{"w": torch.full((20,), value)} for value in (1.0, 0.0)]
    with pytest.raises(GenepoolError, match="'w' has values beyond the range of"):
        merged(tmp_path, tensors, TaskVectors(method, (1e30,), 1.0, scale=1e20), dtype=dtype)
    assert {path.name for path in tmp_path.iterdir()} == {"m0", "m1"}


def test_random_words_do_not_depend_on_the_piece() -> None:
    whole = words(3, 5, 1, 0, 1000)
    for start, count in ((0, 1), (1, 7), (8, 9), (333, 500), (999, 1)):
        assert np.array_equal(words(3, 5, 1, start, count), whole[start : start + count])
    others = [words(4, 5, 1, 0, 1000), words(3, 6, 1, 0, 1000), words(3, 5, 0, 0, 1000)]
    assert all(not np.array_equal(whole, other) for other in others)


def test_dare_keeps_the_share_and_the_mean() -> None:
    below = words(0, 0, 0, 0, 200_000) < round(0.3 * 2**32)
    assert abs(below.mean() - 0.3) < 0.005


def test_unusable_settings_are_refused() -> None:
    for density in (0.0, -1.0, 1.01, float("nan")):
        with pytest.raises(InputError, match="density: expected"):
            TaskVectors("ties", (1.0,), density)
        with pytest.raises(InputError, match="density: expected"):
            TaskVectors("ties", (1.0, 1.0), (0.5, density))
    with pytest.raises(InputError, match="density: expected one for all models or 2, one for each"):
        TaskVectors("ties", (1.0, 1.0), (0.5, 0.5, 0.5))
    with pytest.raises(InputError, match="finite"):
        TaskVectors("ties", (float("inf"),), 0.5)
