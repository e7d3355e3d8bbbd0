"""The compiled forward pass: exact, and the same bits for a row whatever it is asked with."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genepool.tasks.classifier import mlp_kernels as kernels
from tests.nets import Arrays, inputs, mlp

Float32 = NDArray[np.float32]

_CHECKOUT = Path(__file__).resolve().parents[3]


def forward(
    model: Arrays, x: Float32, rows: Sequence[int], *, sparse: bool
) -> tuple[Float32, tuple[int, int], Float32]:
    """(logits of the last block, status, scores) with every label 0."""
    count = len(model) // 2
    weights = [model[f"layer{i}.weight"] for i in range(count)]
    biases = [model[f"layer{i}.bias"] for i in range(count)]
    widths = np.array([x.shape[1], *(w.shape[1] for w in weights)], dtype=np.int64)
    padded = -(-widths // kernels.LANES) * kernels.LANES
    padded[0] = widths[0]
    addresses = np.array(
        [[w.ctypes.data, b.ctypes.data] for w, b in zip(weights, biases, strict=True)],
        dtype=np.int64,
    )
    widest = int(padded[1:].max())
    pack = np.empty(int(((widths[:-1] + 1) * padded[1:]).sum()), dtype=np.float32)
    work = np.empty(kernels.BLOCK * (x.shape[1] + 2 * widest), dtype=np.float32)
    present = x != 0
    starts = np.concatenate([[0], np.cumsum(present.sum(axis=1))]).astype(np.int64)
    columns, values = np.nonzero(present)[1].astype(np.int32), x[present]
    out = np.full(len(rows), np.nan, dtype=np.float32)
    empty = np.empty(0, dtype=np.int64)
    status = kernels.score_rows(
        addresses,
        widths,
        padded,
        (
            starts if sparse else empty,
            columns if sparse else columns[:0],
            values if sparse else values[:0],
            x[:0] if sparse else x,
            np.zeros(x.shape[0], dtype=np.int64),
        ),
        np.array(rows, dtype=np.int64),
        0,
        x.shape[0],
        pack,
        work,
        out,
    )
    last = len(rows) - (len(rows) - 1) // kernels.BLOCK * kernels.BLOCK
    begin = 0 if sparse else kernels.BLOCK * x.shape[1]
    begin += kernels.BLOCK * widest if count % 2 == 0 else 0
    logits = work[begin : begin + last * int(padded[-1])].reshape(last, -1)
    return logits[:, : int(widths[-1])].copy(), status, out


def _rounded(value: Fraction) -> np.float32:
    """A fraction to float32, to nearest and ties to even, by hand."""
    if value == 0:
        return np.float32(0)
    exponent = 0
    size = abs(value)
    while size >= 2**24:
        size, exponent = size / 2, exponent + 1
    while size < 2**23:
        size, exponent = size * 2, exponent - 1
    whole = size.numerator // size.denominator
    rest = size - whole
    if rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2):
        whole += 1
    return np.float32(np.ldexp(float(whole), exponent) * (1 if value > 0 else -1))


def _exactly(model: Arrays, row: Float32) -> Float32:
    """The chain of fused multiply-adds of the module's docstring, in rational arithmetic."""
    count = len(model) // 2
    values = row
    for layer in range(count):
        weight, bias = model[f"layer{layer}.weight"], model[f"layer{layer}.bias"]
        out = bias.copy()
        for k, x in enumerate(values):
            for j in range(out.size):
                exact = Fraction(float(x)) * Fraction(float(weight[k, j])) + Fraction(float(out[j]))
                out[j] = _rounded(exact)
        values = out if layer == count - 1 else np.maximum(out, 0)
    return values


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("widths", [(5, 7, 3), (9, 33, 2), (4, 2), (3, 17, 16, 5)])
def test_logits_are_the_documented_chain(widths: tuple[int, ...], sparse: bool) -> None:
    model, x = mlp(widths), inputs(4, widths[0], zeros=0.4)
    logits, status, _ = forward(model, x, range(4), sparse=sparse)
    assert status == (kernels.OK, 0)
    for row in range(4):
        np.testing.assert_array_equal(logits[row], _exactly(model, x[row]))


@settings(max_examples=40, deadline=None)
@given(
    widths=st.lists(st.integers(1, 90), min_size=2, max_size=5),
    count=st.integers(1, 40),
    zeros=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_a_row_does_not_depend_on_its_neighbours(
    widths: list[int], count: int, zeros: float, seed: int
) -> None:
    model, x = mlp(widths, seed), inputs(count, widths[0], zeros, seed)
    together, _, _ = forward(model, x, range(count), sparse=False)
    order = np.random.default_rng(seed).permutation(count)
    for sparse in (False, True):
        shuffled, _, _ = forward(model, x, order.tolist(), sparse=sparse)
        assert shuffled.tobytes() == together[order].tobytes()
        for row in order[:5].tolist():
            alone, _, _ = forward(model, x, [row], sparse=sparse)
            assert alone.tobytes() == together[row].tobytes()


@pytest.mark.parametrize("sparse", [True, False])
def test_rows_of_several_blocks(sparse: bool) -> None:
    count = 2 * kernels.BLOCK + 3
    model, x = mlp((12, 40, 4), seed=2), inputs(count, 12, zeros=0.5)
    logits, _, scores = forward(model, x, range(count), sparse=sparse)
    ends, _, few = forward(model, x, range(2 * kernels.BLOCK, count), sparse=sparse)
    assert logits.tobytes() == ends.tobytes()
    assert scores[2 * kernels.BLOCK :].tobytes() == few.tobytes()
    assert 0 < scores.mean() < 1


def test_close_to_the_same_network_in_float64() -> None:
    model, x = mlp((64, 256, 10)), inputs(100, 64, zeros=0.5)
    logits, _, _ = forward(model, x, range(100), sparse=True)
    wide = {name: array.astype(np.float64) for name, array in model.items()}
    hidden = np.maximum(x @ wide["layer0.weight"] + wide["layer0.bias"], 0)
    np.testing.assert_allclose(
        logits, hidden @ wide["layer1.weight"] + wide["layer1.bias"], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["layer0.weight", "layer0.bias", "layer1.weight", "layer1.bias"])
def test_weights_that_are_not_finite_are_found(name: str, value: float, sparse: bool) -> None:
    model, x = mlp((5, 20, 3)), np.zeros((2, 5), dtype=np.float32)
    model[name].flat[-1] = value
    _, status, scores = forward(model, x, [0, 1], sparse=sparse)
    assert status == (kernels.BAD_WEIGHTS, int(name[5]))
    assert np.isnan(scores).all()


def test_nan_in_logits_is_found_at_its_row() -> None:
    model, x = mlp((4, 8, 3)), np.zeros((5, 4), dtype=np.float32)
    model["layer0.weight"][:] = 3e38
    model["layer1.weight"][:, 0], model["layer1.weight"][:, 1] = 3e38, -3e38
    model["layer1.weight"][0, 1] = 3e38
    x[3] = 10
    _, status, _ = forward(model, x, [0, 1, 3, 4], sparse=True)
    assert status == (kernels.BAD_LOGITS, 2)


def test_nan_between_layers_is_not_clipped_to_zero() -> None:
    model, x = mlp((4, 8, 8, 3)), np.zeros((2, 4), dtype=np.float32)
    model["layer0.weight"][:, 5] = 3e38  # unit 5 of the first layer becomes infinite,
    model["layer1.weight"][5] = 0  # and infinity times 0 is NaN in the second
    x[1, :] = 3
    assert forward(model, x, [0], sparse=False)[1] == (kernels.OK, 0)
    assert forward(model, x, [0, 1], sparse=False)[1] == (kernels.BAD_LOGITS, 1)


@pytest.mark.parametrize("wrong", [-1, 5, 2**40])
def test_rows_that_do_not_exist_are_found(wrong: int) -> None:
    model, x = mlp((4, 8, 3)), inputs(5, 4, zeros=0)
    _, status, _ = forward(model, x, [0, wrong], sparse=False)
    assert status == (kernels.BAD_ROW, 1)


def test_the_first_of_equal_logits_counts() -> None:
    model, x = mlp((4, 3)), inputs(6, 4, zeros=0)
    model["layer0.weight"][:] = 0
    for bias, score in (([1, 1, 1], 1), ([1, 2, 2], 0), ([2, 1, 2], 1)):
        model["layer0.bias"][:] = bias
        _, _, scores = forward(model, x, range(6), sparse=False)
        assert (scores == score).all()


def _fingerprint() -> str:
    total = hashlib.sha256()
    for widths in ((30, 70, 10), (7, 16, 33, 5), (64, 160, 3)):
        for sparse in (True, False):
            model, x = mlp(widths, 5), inputs(20, widths[0], zeros=0.5)
            total.update(forward(model, x, range(20), sparse=sparse)[0].tobytes())
    return total.hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("features", ["+avx2,+fma", "+sse2"])
def test_every_processor_gives_the_same_bits(features: str, tmp_path: Path) -> None:
    if sys.platform == "darwin" or os.uname().machine != "x86_64":
        pytest.skip("compiles for x86 processors of other kinds")
    code = "from tests.tasks.classifier.test_mlp_kernels import _fingerprint; print(_fingerprint())"
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": features,
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    other = subprocess.run(
        [sys.executable, "-c", code],
        cwd=_CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == _fingerprint()
