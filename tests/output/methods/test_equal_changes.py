"""Which of equal changes TIES keeps: as many as it says, wherever they stand, however stored."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

import genepool
from genepool.checkpoints.naming import experts_within
from genepool.output.write import stream
from tests.build import save_shards

Tensors = Mapping[str, torch.Tensor]


def fine_tunes(shape: tuple[int, ...], count: int = 2, step: float = 1e-4) -> list[torch.Tensor]:
    """Small updates of bfloat16 weights, which take few distinct sizes; and their base, last."""
    made = torch.Generator().manual_seed(0)
    base = (torch.randn(shape, generator=made) * 0.02).bfloat16()
    tuned = [base.float() + torch.randn(shape, generator=made) * step for _ in range(count)]
    return [*(one.bfloat16() for one in tuned), base]


def ties(place: Path, models: list[Tensors], **how: Any) -> dict[str, torch.Tensor]:
    """The merge of models, of which the last is the base."""
    place.mkdir(parents=True, exist_ok=True)
    files = [place / f"m{number}.safetensors" for number in range(len(models))]
    for file, tensors in zip(files, models, strict=True):
        save_file(dict(tensors), file)
    genepool.blend(files[:-1], place / "out", method="ties", base=files[-1], **how)
    return load_file(place / "out/model.safetensors")


def kept(place: Path, tuned: torch.Tensor, base: torch.Tensor, **how: Any) -> NDArray[np.bool_]:
    """Where one fine-tune's changes are kept, among its own."""
    found = ties(place, [{"w": tuned}, {"w": base}], **how)["w"]
    return (found != base).numpy()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_part_of_a_tensor_is_kept_more_often_than_another(tmp_path: Path, seed: int) -> None:
    tuned, _, base = fine_tunes((512, 512))
    found = kept(tmp_path, tuned, base, density=0.2, seed=seed)
    size = (tuned.float() - base.float()).abs().numpy()
    assert found.sum() == int(0.2 * found.size)
    threshold = np.sort(size.ravel())[-int(0.2 * size.size)]
    tied = size == threshold
    assert found[size > threshold].all()
    assert not found[size < threshold].any()
    assert tied.sum() > found.size / 10, "which of the equals are kept is what this is about"
    share = found[tied].mean()
    rows, columns = np.indices(found.shape)
    parts = {
        "eighth of the rows": rows // 64,
        "eighth of the columns": columns // 64,
        "row modulo 8": rows % 8,
        "column modulo 8": columns % 8,
        "place modulo 7": (512 * rows + columns) % 7,
        "diagonal": (rows + columns) // 128,
    }
    for name, part in parts.items():
        for number in range(int(part.max()) + 1):
            here = tied & (part == number)
            error = np.sqrt(share * (1 - share) / here.sum())
            assert abs(found[here].mean() - share) < 4.5 * error, (name, number)


def test_neighbours_are_kept_independently(tmp_path: Path) -> None:
    base = torch.zeros(1 << 18)
    found = kept(tmp_path, base + 1, base, density=0.25)
    for distance in (1, 2, 3, 64, 512, 4096):
        both = (found[distance:] & found[:-distance]).mean()
        assert abs(both - 0.25**2) < 5 * np.sqrt(0.0625 * 0.9375 / found.size), distance


def test_equals_of_two_models_are_chosen_independently(tmp_path: Path) -> None:
    base = torch.zeros(1 << 16)
    signs = torch.where(torch.arange(1 << 16) % 2 == 0, 1.0, -1.0)
    one = kept(tmp_path / "1", base + 1, base, density=0.5)
    other = kept(tmp_path / "2", base + signs, base, density=0.5)
    assert abs((one & other).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / one.size)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 255, 256, 257, 65537])
@pytest.mark.parametrize("density", [0.01, 0.3, 0.5, 0.99])
def test_exactly_so_many_are_kept(tmp_path: Path, size: int, density: float) -> None:
    base = torch.zeros(size)
    found = kept(tmp_path, base + 0.5, base, density=density)
    assert found.sum() == max(1, int(density * size))


@pytest.mark.slow
def test_every_element_of_a_small_tensor_has_its_turn(tmp_path: Path) -> None:
    base = torch.zeros(8)
    counts = np.zeros(8)
    for seed in range(160):
        counts += kept(tmp_path / str(seed), base + 1, base, density=0.25, seed=seed)
    # 2 of 8 each time: 40 each, with a standard deviation of 5.5.
    assert counts.sum() == 320
    assert (abs(counts - 40) < 25).all(), counts


def test_names_order_threads_and_files_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = {"a.w": (64, 40), "b.w": (40, 64), "c.w": (300,)}
    parts = {name: fine_tunes(shape) for name, shape in shapes.items()}
    one, two, base = ({name: parts[name][k] for name in shapes} for k in range(3))
    expected = ties(tmp_path / "plain", [one, two, base], density=0.2)
    turned = ties(tmp_path / "turned", [two, one, base], density=0.2)
    assert all(torch.equal(turned[name], expected[name]) for name in shapes)
    names = dict(zip(shapes, ("z.y.w", "x.w", "h.w"), strict=True))
    renamed = [{names[name]: t for name, t in model.items()} for model in (one, two, base)]
    other = ties(tmp_path / "renamed", renamed, density=0.2)
    assert all(torch.equal(other[names[name]], expected[name]) for name in shapes)
    models = [
        save_shards(tmp_path / str(k), [{n: m[n]} for n in reversed(m)])
        for k, m in enumerate((one, two, base))
    ]
    for number, (threads, block) in enumerate(itertools.product((1, 3), (104, 4000))):
        monkeypatch.setattr("genepool.threads.available_threads", lambda count=threads: count)
        monkeypatch.setattr(stream, "BLOCK", block)
        out = tmp_path / f"sharded{number}"
        how: dict[str, Any] = {"method": "ties", "density": 0.2, "shard_bytes": 2000}
        genepool.blend(models[:2], out, base=models[2], **how)
        found: dict[str, torch.Tensor] = {}
        for file in out.glob("*.safetensors"):
            found |= load_file(file)
        assert all(torch.equal(found[name], expected[name]) for name in shapes)


@pytest.mark.parametrize(
    ("one", "fused"),
    [
        ("mlp.experts.{}.w1.weight", "mlp.experts.w1.weight"),
        ("block_sparse_moe.experts.{}.up_proj.weight", "block_sparse_moe.experts.up_proj"),
        ("mlp.experts.{}.down_proj.bias", "mlp.experts.down_proj_bias"),
    ],
)
@pytest.mark.parametrize("densities", [0.2, (0.1, 0.6)])
def test_experts_merge_alike_one_by_one_and_fused(
    tmp_path: Path, one: str, fused: str, densities: float | tuple[float, float]
) -> None:
    shape = (5, 24) if "bias" in one else (5, 24, 16)
    models = fine_tunes(shape)
    # One expert has learnt much more than the others: together it would have all that is kept.
    models[0][3] = (models[0][3].float() + torch.randn(shape[1:])).bfloat16()
    apart = [{one.format(k): model[k].clone() for k in range(5)} for model in models]
    found = ties(tmp_path / "apart", apart, density=densities)
    together = ties(tmp_path / "fused", [{fused: model} for model in models], density=densities)
    for k in range(5):
        assert torch.equal(together[fused][k], found[one.format(k)])


def test_what_holds_experts() -> None:
    assert experts_within("model.layers.0.mlp.experts.gate_up_proj", (8, 64, 32)) == 8
    assert experts_within("model.layers.0.mlp.experts.gate_up_proj_bias", (8, 64)) == 8
    assert experts_within("layers.0.block_sparse_moe.input_linear.weight", (4, 64, 32)) == 4
    for name, shape in (
        ("model.layers.0.mlp.experts.7.up_proj.weight", (64, 32)),
        ("model.layers.0.mlp.shared_experts.up_proj.weight", (64, 32)),
        ("model.layers.0.block_sparse_moe.gate.weight", (8, 32)),
        ("backbone.layers.0.mixer.conv1d.weight", (64, 1, 4)),
        ("model.layers.0.moe.conv1d.weight", (64, 1, 4)),
        ("encoder.conv1.weight", (64, 80, 3)),
        ("model.layers.0.mlp.up_proj.weight", (64, 32)),
    ):
        assert experts_within(name, shape) == 1, name
