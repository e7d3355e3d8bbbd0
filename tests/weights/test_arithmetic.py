"""TIES and DARE against a dense computation written from the papers, in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from genepool.core.rng import generator
from genepool.errors import InputError
from genepool.weights import stream
from genepool.weights.arithmetic import METHODS, Method, TaskVectors, task_vectors, words
from genepool.weights.layout import build_layout
from genepool.weights.writer import write_tensors
from tests.weights.build import TORCH, opened

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


def dense(tensors: list[NDArray[np.float32]], index: int, how: TaskVectors) -> NDArray[np.float64]:
    """One tensor, as the papers define it."""
    *fine, base = tensors
    weights = np.array(how.weights)[:, None]
    deltas = np.stack([t - base for t in fine])
    if how.method == "ties":
        for row in deltas:
            count = max(1, int(how.density * row.size))
            order = np.argsort(-np.abs(row), kind="stable")
            row[order[count:]] = 0
        found = deltas.astype(np.float64)
    else:
        found = deltas.astype(np.float64)
        for k, row in enumerate(found):
            raw = generator(how.seed, index, k).bit_generator.random_raw(row.size // 2 + 1)
            row[raw.view("<u4")[: row.size] >= round(how.density * 2**32)] = 0
        # Where the weighted changes cancel, the order of rounding decides the elected sign.
        weights = weights * (1 / how.density)
    found = found * weights
    agree = np.ones_like(found, dtype=bool)
    if how.method != "dare-linear":
        agree = (np.sign(found) == np.sign(found.sum(axis=0))) & (found != 0)
    merged = np.where(agree, found, 0).sum(axis=0)
    if how.normalise:
        total = np.where(agree, np.array(how.weights)[:, None], 0).sum(axis=0)
        merged = np.divide(merged, total, out=np.zeros_like(merged), where=total != 0)
    return base + how.scale * merged


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("code", ["F32", "BF16", "F16"])
@pytest.mark.parametrize(
    "options",
    [
        {"weights": (1.0, 1.0), "density": 0.2, "normalise": True},
        {"weights": (0.7, -0.4, 1.3), "density": 0.55, "seed": 9, "scale": 0.8},
        {"weights": (0.5,), "density": 1.0},
    ],
)
def test_the_dense_computation(
    tmp_path: Path,
    method: Method,
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
        produce = task_vectors(checkpoints, layout, how)
        write_tensors(produce, checkpoints[0], layout, out, dtype="F32", threads=threads)
        contents.append((out / "model.safetensors").read_bytes())
    assert len(set(contents)) == 1
    found = load_file(tmp_path / "out1/model.safetensors")
    for index, slot in enumerate(layout.slots):
        flat = [t[slot.name].float().reshape(-1).numpy() for t in tensors]
        expected = dense(flat, index, how).reshape(slot.shape)
        np.testing.assert_allclose(found[slot.name].numpy(), expected, rtol=3e-7, atol=1e-7)


def test_random_words_do_not_depend_on_the_piece() -> None:
    whole = words(3, 5, 1, 0, 1000)
    for start, count in ((0, 1), (1, 7), (8, 9), (333, 500), (999, 1)):
        assert np.array_equal(words(3, 5, 1, start, count), whole[start : start + count])
    others = [words(4, 5, 1, 0, 1000), words(3, 6, 1, 0, 1000), words(3, 5, 0, 0, 1000)]
    assert all(not np.array_equal(whole, other) for other in others)


def test_dare_keeps_the_share_and_the_mean() -> None:
    below = words(0, 0, 0, 0, 200_000) < round(0.3 * 2**32)
    assert abs(below.mean() - 0.3) < 0.005


def test_unusable_settings_are_refused(tmp_path: Path) -> None:
    for density in (0.0, -1.0, 1.01, float("nan")):
        with pytest.raises(InputError, match="density: expected"):
            TaskVectors("ties", (1.0,), density)
    with pytest.raises(InputError, match="method: expected one of ties"):
        TaskVectors("sum", (1.0,), 0.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="finite"):
        TaskVectors("ties", (float("inf"),), 0.5)
    checkpoints = tuple(opened(tmp_path / f"m{i}", t) for i, t in enumerate(models("F32", 2)))
    layout = build_layout(checkpoints)
    with pytest.raises(InputError, match="weights: expected 2, one for each model; got 1"):
        task_vectors(checkpoints, layout, TaskVectors("ties", (1.0,), 0.5))
