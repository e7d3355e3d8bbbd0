"""Inner products over stretches: exact, whatever the blocks and threads; and their cache."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch as replaced

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genepool.checkpoints.files.checkpoint import Checkpoint, open_checkpoint
from genepool.checkpoints.layout import Layout, build_layout
from genepool.errors import CheckpointError, GenepoolError, InputError
from genepool.materialise import device_gram
from genepool.materialise import gram as module
from genepool.materialise.gram import Gram, load_or_build_gram
from tests.build import TORCH, Tensors, network, opened, values


def dense(
    vectors: Sequence[NDArray[np.float32]], edges: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Inner products summed without rounding (math.fsum), and |x| |y| over each stretch."""
    products = np.zeros((len(edges) - 1, len(vectors), len(vectors)))
    scale = np.zeros_like(products)
    for n, (start, stop) in enumerate(pairwise(edges)):
        parts = [vector[start:stop].astype(np.float64) for vector in vectors]
        norms = [math.sqrt(math.fsum(part * part)) for part in parts]
        for i, x in enumerate(parts):
            for j, y in enumerate(parts):
                products[n, i, j] = math.fsum(x * y)
                scale[n, i, j] = norms[i] * norms[j]
    return products, scale


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.one_of(st.integers(1, 5), st.integers(100, 900)), min_size=1, max_size=5),
    codes=st.lists(st.sampled_from(list(TORCH)), min_size=1, max_size=5),
    threads=st.sampled_from([1, 3]),
    block=st.sampled_from([16, 100, 1024]),
    number=st.integers(0, 2**32 - 1),
)
def test_every_stretch_equals_the_dense_computation(
    sizes: list[int], codes: list[str], threads: int, block: int, number: int
) -> None:
    rng = np.random.default_rng(number)
    scales = 10.0 ** rng.integers(-3, 3, len(sizes))
    base = [rng.standard_normal(n) * scale for n, scale in zip(sizes, scales, strict=True)]
    models: list[Tensors] = [
        {
            f"l{i}.weight": torch.from_numpy(part + 0.01 * rng.standard_normal(part.size)).to(
                TORCH[code]
            )
            for i, part in enumerate(base)
        }
        for code in codes
    ]
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SMALLEST", block)
        patch.setattr(module, "_BATCH", 3 * block)
        checkpoints = [opened(Path(directory) / str(i), m) for i, m in enumerate(models)]
        layout = build_layout(checkpoints)
        gram = load_or_build_gram(checkpoints, layout, None, threads)
        vectors = [values(m, layout) for m in models]
        size = layout.axis.size
        for _ in range(3):
            edges = np.sort(rng.integers(0, size + 1, 12)).tolist()
            edges = [0, *edges, edges[-1], size]
            got = gram.between(edges)
            exact, scale = dense(vectors, edges)
            assert got.shape == (len(edges) - 1, len(codes), len(codes))
            assert np.all(np.abs(got - exact) <= 1e-15 * scale)
            assert np.array_equal(got, got.transpose(0, 2, 1))


def _agree_there(
    sizes: list[int], codes: list[str], block: int, at_once: int, number: int, device: str
) -> None:
    """A device's sums against the CPU's, and the angles' inner products that follow from them."""
    rng = np.random.default_rng(number)
    models: list[Tensors] = [
        {f"l{i}.weight": torch.from_numpy(rng.standard_normal(n)).to(TORCH[code])
         for i, n in enumerate(sizes)}
        for code in codes
    ]  # fmt: skip
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SMALLEST", block)
        patch.setattr(device_gram, "_AT_ONCE", at_once)
        patch.setattr(device_gram, "is_there", lambda _device: True)
        checkpoints = [opened(Path(directory) / str(i), m) for i, m in enumerate(models)]
        layout = build_layout(checkpoints)
        edges = [0, *np.sort(rng.integers(0, layout.axis.size + 1, 8)).tolist(), layout.axis.size]
        expected = load_or_build_gram(checkpoints, layout).between(edges)
        with patch.context() as named:
            if device == "cpu":  # Where there is no other.
                real = device_gram.inner_products
                named.setattr(
                    device_gram, "inner_products", lambda c, y, e, _d: real(c, y, e, "cpu")
                )
            there = load_or_build_gram(checkpoints, layout, device="cuda")
        got = there.between(edges)
        scale = np.sqrt(np.einsum("nii,njj->nij", expected, expected))
        assert np.all(np.abs(got - expected) <= 1e-15 * scale)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@settings(deadline=None, max_examples=20)
@given(
    sizes=st.lists(st.one_of(st.integers(1, 5), st.integers(100, 900)), min_size=1, max_size=4),
    codes=st.lists(st.sampled_from(list(TORCH)), min_size=1, max_size=4),
    block=st.sampled_from([16, 100, 1024]),
    at_once=st.sampled_from([1, 300, 2**22]),
    number=st.integers(0, 2**32 - 1),
)
def test_the_sums_of_a_device_are_those_of_the_cpu(
    sizes: list[int], codes: list[str], block: int, at_once: int, number: int, device: str
) -> None:
    _agree_there(sizes, codes, block, at_once, number, device)


def test_a_device_finds_what_is_not_finite_and_keeps_its_sums_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = device_gram.inner_products
    monkeypatch.setattr(device_gram, "is_there", lambda _device: True)
    monkeypatch.setattr(device_gram, "inner_products", lambda c, y, e, _d: real(c, y, e, "cpu"))
    checkpoints, layout = build(tmp_path)
    cache = tmp_path / "cache"
    load_or_build_gram(checkpoints, layout, cache)
    load_or_build_gram(checkpoints, layout, cache, device="cuda")
    assert len(list(cache.iterdir())) == 2
    damaged = network(1)
    damaged["fc2.weight"][2, 3] = float("inf")
    bad = opened(tmp_path / "bad", damaged)
    with pytest.raises(CheckpointError, match=r"bad: tensor 'fc2\.weight' holds infinity"):
        load_or_build_gram([checkpoints[0], bad], layout, device="cuda:0")


def test_a_device_that_is_not_there_computes_nothing() -> None:
    assert not device_gram.is_there("cpu")
    assert not device_gram.is_there("mps")
    assert not device_gram.is_there("cuda:banana")
    assert not device_gram.is_there("cuda:99")


def build(directory: Path, count: int = 2) -> tuple[list[Checkpoint], Layout]:
    checkpoints = [opened(directory / str(i), network(i)) for i in range(count)]
    return checkpoints, build_layout(checkpoints)


def test_the_bits_do_not_depend_on_blocks_threads_or_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, layout = build(tmp_path, 3)
    edges = np.sort(np.random.default_rng(0).integers(0, layout.axis.size + 1, 40))
    results: list[bytes] = []
    for block, threads, remembered in [(1024, 1, 2**15), (16, 3, 2**15), (64, 2, 4)]:
        monkeypatch.setattr(module, "_SMALLEST", block)
        monkeypatch.setattr(module, "_BATCH", 100)
        monkeypatch.setattr(module, "_REMEMBERED", remembered)
        gram = load_or_build_gram(checkpoints, layout, None, threads)
        for start in range(0, 40, 7):
            gram.between(edges[start : start + 5])
        results.append(gram.between(edges).tobytes())
        assert gram.between(edges).tobytes() == results[-1]
    assert len(set(results)) == 1


def test_a_tiny_stretch_beside_a_large_one_keeps_its_own_precision(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    models: list[Tensors] = []
    for _ in range(2):
        weights = np.concatenate([rng.standard_normal(4000) * 1e3, rng.standard_normal(40) * 1e-4])
        models.append({"a.weight": torch.from_numpy(weights).float()})
    checkpoints = [opened(tmp_path / str(i), m) for i, m in enumerate(models)]
    layout = build_layout(checkpoints)
    edges = [0, 4010, 4013, 4040]
    exact, scale = dense([values(m, layout) for m in models], edges)
    got = load_or_build_gram(checkpoints, layout).between(edges)
    assert np.all(np.abs(got - exact) <= 1e-15 * scale)


def test_angles_of_nearly_colinear_seeds_are_exact(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    base = rng.standard_normal(20_000)
    models: list[Tensors] = [
        {"a.weight": torch.from_numpy(base + 1e-4 * rng.standard_normal(base.size)).float()}
        for _ in range(2)
    ]
    checkpoints = [opened(tmp_path / str(i), m) for i, m in enumerate(models)]
    layout = build_layout(checkpoints)
    (got,) = load_or_build_gram(checkpoints, layout).between([0, layout.axis.size])
    x, y = (values(m, layout).astype(np.float64) for m in models)
    # |x - y|^2 = <x,x> - 2 <x,y> + <y,y>, a difference of numbers 1e8 times its size.
    expected = math.fsum((x - y) ** 2)
    assert got[0, 0] - 2 * got[0, 1] + got[1, 1] == pytest.approx(expected, rel=1e-6)


def test_edges_that_are_none_are_refused(tmp_path: Path) -> None:
    checkpoints, layout = build(tmp_path)
    gram = load_or_build_gram(checkpoints, layout)
    size = layout.axis.size
    assert gram.seeds == 2
    assert gram.between([0]).shape == (0, 2, 2)
    assert not gram.between([7, 7, 7]).any()
    for edges in ([], [-1, 3], [0, size + 1], [5, 4]):
        with pytest.raises(InputError, match=rf"edges must be positions in 0\.\.{size}"):
            gram.between(edges)


@pytest.mark.parametrize("code", TORCH)
@pytest.mark.parametrize(("bad", "word"), [(float("nan"), "NaN"), (-float("inf"), "infinity")])
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, code: str, bad: float, word: str
) -> None:
    damaged = network(1, code)
    damaged["fc2.weight"][2, 3] = bad
    checkpoints = [opened(tmp_path / "good", network(0)), opened(tmp_path / "bad", damaged)]
    layout = build_layout(checkpoints)
    with pytest.raises(CheckpointError, match=rf"bad: tensor 'fc2\.weight' holds {word}"):
        load_or_build_gram(checkpoints, layout, tmp_path / "cache")
    assert not list(tmp_path.glob("cache/*"))


def test_float64_beyond_float32_is_refused(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, {"a.weight": torch.tensor([1.0, 1e300], dtype=torch.float64)})
    with pytest.raises(CheckpointError, match=r"'a\.weight' holds infinity.*float32's range"):
        load_or_build_gram([checkpoint], build_layout([checkpoint]))


def cached(directory: Path, cache: Path) -> tuple[Gram, bool]:
    """The sums, and whether the seeds were read for them: not when the cache was used."""
    checkpoints = [open_checkpoint(directory / str(i)) for i in range(2)]
    with replaced.object(module, "_measure", wraps=module._measure) as measured:
        gram = load_or_build_gram(checkpoints, build_layout(checkpoints), cache)
    return gram, measured.called


def test_the_second_time_the_cache_serves(tmp_path: Path) -> None:
    _, layout = build(tmp_path)
    cache = tmp_path / "some" / "cache"
    first, built = cached(tmp_path, cache)
    assert built
    (path,) = cache.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()
    second, built = cached(tmp_path, cache)
    assert not built
    edges = [0, 5, 77, layout.axis.size]
    assert first.between(edges).tobytes() == second.between(edges).tobytes()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "other"])
def test_a_damaged_cache_is_built_anew(tmp_path: Path, damage: str) -> None:
    _, layout = build(tmp_path)
    cache = tmp_path / "cache"
    gram, _ = cached(tmp_path, cache)
    expected = gram.between([0, 77, layout.axis.size])
    (path,) = cache.iterdir()
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[-9:]
    elif damage == "flip":
        data[-100] ^= 1
    elif damage == "empty":
        data.clear()
    elif damage == "text":
        data[:] = b"not a cache"
    else:  # the cache of other seeds under this name
        for i in range(2):
            opened(tmp_path / "more" / str(i), network(i + 5))
        cached(tmp_path / "more", tmp_path / "elsewhere")
        (other,) = (tmp_path / "elsewhere").iterdir()
        data[:] = other.read_bytes()
    path.write_bytes(data)
    again, built = cached(tmp_path, cache)
    assert built
    assert np.array_equal(again.between([0, 77, layout.axis.size]), expected)
    assert [entry.name for entry in cache.iterdir()] == [path.name]
    assert not cached(tmp_path, cache)[1], "the new cache is whole"


def test_the_cache_is_named_by_seeds_their_order_and_the_layout(tmp_path: Path) -> None:
    checkpoints, layout = build(tmp_path, 3)
    cache = tmp_path / "cache"
    chromosomes = build_layout(checkpoints[:2], {"a": ["fc2*"]})
    for seeds, along in [
        (checkpoints[:2], layout),
        (checkpoints[1::-1], layout),
        (checkpoints[1:], layout),
        (checkpoints, layout),
        (checkpoints[:2], chromosomes),
    ]:
        load_or_build_gram(seeds, along, cache)
    assert len(list(cache.iterdir())) == 5


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(GenepoolError, match="cache: cannot be made: File exists"):
        cached(tmp_path, tmp_path / "cache")


def test_a_seed_cut_short_is_an_error_when_a_block_is_read(tmp_path: Path) -> None:
    checkpoints, layout = build(tmp_path)
    gram = load_or_build_gram(checkpoints, layout)
    gram.between([0, layout.axis.size])
    os.truncate(tmp_path / "1" / "model.safetensors", 80)
    gram.between([0, layout.axis.size])
    with pytest.raises(CheckpointError, match="cut to 80 bytes"):
        gram.between([0, 3, layout.axis.size])
