"""The compiled arithmetic: conversions bit for bit, rounding, and no fused multiply-add."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numba import njit
from numpy.typing import NDArray

from genepool.checkpoints.files.dtypes import FLOATING, as_float32
from genepool.materialise import kernels
from genepool.materialise.cpu import express_into
from genepool.materialise.tensor_table import Terms, address_of

STORAGE = {"F64": np.float64, "F32": np.float32, "F16": np.uint16, "BF16": np.uint16}
TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def combine(
    sources: list[tuple[NDArray[np.generic], str]],
    coefs: list[float],
    code: str,
    out: NDArray[np.generic] | None = None,
    past_caches: bool = False,
) -> NDArray[np.generic]:
    """sum(coef * source), through the kernel, as one tensor."""
    size = sources[0][0].size
    if out is None:
        out = np.zeros(size, dtype=STORAGE[code])
    table = np.array([[address_of(raw) for raw, _ in sources]], dtype=np.int64)
    codes = np.array([[FLOATING.index(c) for _, c in sources]], dtype=np.int64)
    whole = np.array([0, size], dtype=np.int64)
    terms = Terms(
        whole,
        table,
        codes,
        whole,
        np.array([coefs], dtype=np.float32),
        sources,
        np.empty(0, dtype=np.uint16),
        np.float32(0),
    )
    places = np.array([address_of(out)], dtype=np.int64)
    out_codes = np.array([FLOATING.index(code)], dtype=np.int64)
    express_into(terms, 0, size, places, out_codes, past_caches)
    return out


def same(got: NDArray[np.generic], expected: torch.Tensor) -> None:
    """Equal bits, where any NaN equals any other."""
    code = next(c for c, dtype in TORCH.items() if dtype == expected.dtype)
    bits = expected.view(
        {8: torch.int64, 4: torch.int32, 2: torch.int16}[expected.itemsize]
    ).numpy()
    other = as_float32(got.view(np.float16) if code == "F16" else got, code)
    nan = torch.isnan(expected).numpy()
    assert np.array_equal(np.isnan(other), nan)
    assert np.array_equal(got.view(bits.dtype)[~nan], bits[~nan])


@pytest.mark.parametrize("code", ["F16", "BF16"])
def test_every_half_widens_and_returns_unchanged(code: str) -> None:
    halves = np.arange(2**16, dtype=np.uint16)
    expected = torch.from_numpy(halves.view(np.int16).copy()).view(TORCH[code])
    same(combine([(halves, code)], [1.0], "F32"), expected.float())
    same(combine([(halves, code)], [1.0], code), expected)


@pytest.mark.parametrize("code", ["F64", "F16", "BF16"])
def test_float32_rounds_as_ieee_asks(code: str) -> None:
    # Random bit patterns reach every exponent, NaN and infinity; the rest are ties and their
    # neighbours for both 16-bit formats, subnormals included.
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2**32, 200_000, dtype=np.uint32)
    ties = rng.integers(0, 2**16, 50_000, dtype=np.uint32) << np.uint32(16)
    near = [ties + np.uint32(d) for d in (0, 0x7FFF, 0x8000, 0x8001, 0xFFF, 0x1000, 0x1001, 0x3000)]
    tiny = rng.integers(0x32000000, 0x39000000, 100_000, dtype=np.uint32)
    edge = np.array([65504, 65519.996, 65520, 65536, 2**-24, 2**-25, 1.5 * 2**-25, 0], np.float32)
    bits = np.concatenate([patterns, *near, tiny, tiny | np.uint32(2**31), edge.view(np.uint32)])
    values = bits.view(np.float32)
    expected = torch.from_numpy(values.copy()).to(TORCH[code])
    same(combine([(values, "F32")], [1.0], code), expected)


def halves_and_ties() -> NDArray[np.uint32]:
    """float32 bits around all that float16 can hold: every value, every tie, and the next to both.

    Subnormals, what rounds to infinity, float32's own subnormals, and NaN of every kind are there.
    """
    low = np.arange(0x7C00, dtype=np.uint16)
    values = np.append(low.view(np.float16).astype(np.float32), np.float32(65536))
    ties = (values[:-1] + values[1:]) / 2
    exact = np.concatenate([values, ties]).view(np.uint32)
    near = [exact + np.uint32(d) for d in range(3)] + [exact[1:] - np.uint32(d) for d in (1, 2)]
    rng = np.random.default_rng(5)
    small = rng.integers(0, 0x00800000, 5_000, dtype=np.uint32)
    nan = np.uint32(0x7F800000) + np.append(
        [1, 0x1FFF, 0x2000, 0x400000], rng.integers(1, 2**23, 5_000)
    )
    either = np.concatenate([*near, small, nan.astype(np.uint32)])
    rest = rng.integers(0, 2**32, 200_000, dtype=np.uint32)
    return np.concatenate([either, either | np.uint32(2**31), rest])


def converted(function: Any, values: NDArray[Any], dtype: type) -> NDArray[Any]:
    """What a compiled function makes of each value."""

    @njit
    def convert(values: NDArray[Any], out: NDArray[Any]) -> None:
        for i in range(values.size):
            out[i] = function(values[i])

    out = np.empty(values.size, dtype)
    convert(values, out)
    return out


@pytest.mark.slow
def test_processors_convert_float16_as_the_integers_say() -> None:
    if not kernels.HALVES:
        pytest.skip("this processor does not convert float16")
    halves = np.arange(2**16, dtype=np.uint16)
    ways = (kernels._from_f16, kernels._from_f16_bits)
    found = [converted(way, halves, np.float32).view(np.uint32) for way in ways]
    signalling = np.isnan(halves.view(np.float16)) & ((halves & 0x200) == 0)
    # A processor makes a signalling NaN quiet at once, others with the first product.
    found[1][signalling] |= np.uint32(0x400000)
    np.testing.assert_array_equal(*found)
    bits = halves_and_ties()
    ways = (kernels._to_f16, kernels._to_f16_bits)
    narrow = [converted(way, bits.view(np.float32), np.uint16) for way in ways]
    np.testing.assert_array_equal(*narrow)
    # And both as numpy has it, but for NaN.
    with np.errstate(over="ignore", invalid="ignore"):
        expected = bits.view(np.float32).astype(np.float16)
    real = ~np.isnan(expected)
    np.testing.assert_array_equal(narrow[0][real], expected.view(np.uint16)[real])


def test_float16_is_the_same_where_subnormals_are_flushed() -> None:
    halves = np.arange(2**16, dtype=np.uint16)
    values = halves_and_ties().view(np.float32)
    values = values[np.abs(values) >= 2.0**-126]
    usual = [combine([(halves, "F16")], [1.0], code) for code in ("F16", "F32")]
    usual.append(combine([(values, "F32")], [1.0], "F16"))
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush")
    try:
        flushed = [combine([(halves, "F16")], [1.0], code) for code in ("F16", "F32")]
        flushed.append(combine([(values, "F32")], [1.0], "F16"))
    finally:
        torch.set_flush_denormal(False)
    for one, other in zip(usual, flushed, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_float16_is_the_same_on_a_processor_that_does_not_convert_it(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from genepool.materialise import kernels\n"
        "from tests.materialise.test_kernels import some_of_float16\n"
        "print(kernels.HALVES, some_of_float16())\n"
    )
    plain = {
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **plain},
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.split() == ["False", some_of_float16()], done.stderr


def some_of_float16() -> str:
    """A digest of sums, products and inner products of float16 of every kind but NaN."""
    rng = np.random.default_rng(6)
    halves = [rng.permutation(np.arange(0x7C00, dtype=np.uint16)) for _ in range(3)]
    digest = hashlib.sha256()
    for code in ("F16", "F32", "BF16"):
        for past_caches in (False, True):
            sources = [(raw, "F16") for raw in halves]
            coefs = [0.3, -0.7, 0.25]
            digest.update(combine(sources, coefs, code, past_caches=past_caches).tobytes())
    bits = halves_and_ties()
    values = bits[~np.isnan(bits.view(np.float32))].view(np.float32)
    digest.update(combine([(values, "F32")], [1.0], "F16").tobytes())
    table = np.array([[address_of(raw) for raw in halves]], dtype=np.int64)
    ends, codes = np.array([0, 0x7C00]), np.full((1, 3), FLOATING.index("F16"))
    sums = np.empty((1, 6, 2))
    kernels.inner_products(ends[:1].copy(), ends[1:].copy(), ends, table, codes, sums)
    digest.update(sums.tobytes())
    return digest.hexdigest()


def test_float64_sources_are_rounded_to_float32_first() -> None:
    values = np.array([1 + 2**-24, 1 + 2**-24 + 2**-40, 1e300, -1e-300, 0.1])
    with np.errstate(over="ignore"):
        expected = np.float32(3) * values.astype(np.float32)
    assert np.array_equal(combine([(values, "F64")], [3.0], "F32"), expected)


def test_products_and_sums_are_rounded_one_by_one() -> None:
    rng = np.random.default_rng(1)
    a, b, c = (rng.standard_normal(10_007).astype(np.float32) for _ in range(3))
    x, y, z = np.float32(0.3), np.float32(-1.7), np.float32(0.9)
    expected = (a * x + b * y) + c * z
    got = combine([(a, "F32"), (b, "F32"), (c, "F32")], [0.3, -1.7, 0.9], "F32")
    assert np.array_equal(got, expected)
    fused = (a.astype(np.float64) * x + b.astype(np.float64) * y).astype(np.float32)
    assert not np.array_equal(a * x + b * y, fused), "the case cannot tell the two apart"


@given(
    own=st.sampled_from(["F16", "BF16"]),
    number=st.integers(0, 2**31),
    count=st.one_of(st.integers(1, 5), st.just(300)),
    size=st.integers(1, 700),
    shifts=st.lists(st.integers(0, 130), min_size=6, max_size=6),
    past_caches=st.booleans(),
    foreign=st.booleans(),
)
def test_sums_of_16_bits_are_those_of_float32_wherever_they_lie(
    own: str,
    number: int,
    count: int,
    size: int,
    shifts: list[int],
    past_caches: bool,
    foreign: bool,
) -> None:
    # Any bits at all, at addresses that no vector is aligned to, some with nothing to add.
    rng = np.random.default_rng(number)
    rooms = [rng.integers(0, 2**16, size + 70, dtype=np.uint16) for _ in range(count)]
    other = {"F16": "BF16", "BF16": "F16"}[own]
    codes = [other if foreign and i == count - 1 else own for i in range(count)]
    raw = [
        np.frombuffer(room.tobytes(), np.uint16, size, shift % 130)
        for room, shift in zip(rooms, itertools.cycle(shifts))
    ]
    coefs = [float(np.float32(x)) for x in rng.standard_normal(count)]
    if number % 3 == 0:
        coefs[number % count] = 0.0
    room = np.full(2 * size + 400, 0xA5, dtype=np.uint8)
    first = 130 + shifts[-1]
    out = room[first : first + 2 * size].view(np.uint16)
    combine(list(zip(raw, codes, strict=True)), coefs, own, out, past_caches)
    expected = np.zeros(size, dtype=np.float32)
    with np.errstate(all="ignore"):
        terms = [
            np.float32(coef)
            * as_float32(values.view(np.float16) if code == "F16" else values, code)
            for coef, values, code in zip(coefs, raw, codes, strict=True)
            if coef
        ]
        if terms:
            expected = functools.reduce(np.add, terms)
    same(out, torch.from_numpy(expected).to(TORCH[own]))
    assert (room[:first] == 0xA5).all() and (room[first + 2 * size :] == 0xA5).all()


@pytest.mark.parametrize("nudge", [-(2.0**-23), 0.0, 2.0**-23])
@pytest.mark.parametrize("past_caches", [False, True])
@pytest.mark.parametrize(("code", "step"), [("BF16", 2.0**-7), ("F16", 2.0**-10)])
def test_fused_sums_round_to_nearest_and_ties_to_even(
    code: str, step: float, nudge: float, past_caches: bool
) -> None:
    # 1 to 2 in steps of the format, and half a step more, give or take the last place of float32.
    values = torch.arange(1, 2, step)
    terms = [torch.cat([values, -values]) for _ in range(3)]
    terms[1] = terms[0].sign() * step / 2
    terms[2] = terms[0].sign() * nudge
    raw = [term.to(TORCH[code]).view(torch.int16).numpy().view(np.uint16) for term in terms]
    got = combine([(x, code) for x in raw], [1.0] * 3, code, past_caches=past_caches)
    same(got, (terms[0] + terms[1] + terms[2]).to(TORCH[code]))


def test_tables_of_another_type_are_refused_and_no_second_function_is_compiled() -> None:
    one = np.ones(8, dtype=np.float32)
    combine([(one, "F32")], [2.0], "F32")
    whole = np.array([0, 8], dtype=np.int64)
    whole.setflags(write=False)
    table = np.array([[address_of(one)]])
    codes = np.array([[FLOATING.index("F32")]])
    coefs = np.array([[2]], dtype=np.float32)
    silence = np.empty(0, dtype=np.uint16)
    terms = Terms(whole, table, codes, whole, coefs, one, silence, np.float32(0))
    out = np.zeros(8, dtype=np.float32)
    place = np.array([address_of(out)])
    express_into(terms, 0, 8, place, codes[0])
    assert out.tolist() == [2.0] * 8
    assert len(kernels.express.signatures) == 1
    for wrong in (codes.astype(np.int32), codes.astype(np.float64)):
        with pytest.raises(TypeError):
            express_into(replace(terms, codes=wrong), 0, 8, place, codes[0])


def test_zero_coefficients_leave_their_source_out() -> None:
    poison = np.array([np.nan, np.inf, -np.inf] * 100, dtype=np.float32)
    ones = np.ones(300, dtype=np.float32)
    both = [(poison, "F32"), (ones, "F32")]
    assert np.array_equal(combine(both, [0.0, 2.0], "F32"), 2 * ones)
    assert np.array_equal(combine(both, [1e-60, 2.0], "F32"), 2 * ones)
    assert np.array_equal(combine(both, [0.0, -0.0], "F32"), 0 * ones)
    minus = combine([(-0.0 * ones, "F32"), (poison, "F32")], [1.0, 0.0], "F32")
    assert np.signbit(minus).all(), "the first term is not added to a zero"


def test_inner_products_do_not_depend_on_how_a_stretch_is_divided() -> None:
    rng = np.random.default_rng(2)
    values = [rng.standard_normal(5000) * 10.0 ** rng.integers(-18, 18, 5000) for _ in range(2)]
    raw = [x.astype(np.float32) for x in values]
    addresses = np.array([[address_of(x) for x in raw]], dtype=np.int64)
    codes = np.full((1, 2), FLOATING.index("F32"), dtype=np.int64)
    tensors = np.array([0, 5000], dtype=np.int64)

    def total(edges: list[int]) -> NDArray[np.float64]:
        cuts = np.array(edges, dtype=np.int64)
        sums = np.empty((cuts.size - 1, 3, 2))
        kernels.inner_products(cuts[:-1].copy(), cuts[1:].copy(), tensors, addresses, codes, sums)
        running = np.empty((cuts.size, 3, 2))
        kernels.running_sums(sums, running)
        return running[-1, :, 0]

    expected = total([0, 5000])
    for _ in range(20):
        cuts = np.unique(rng.integers(0, 5001, 30)).tolist()
        assert np.array_equal(total([0, *cuts, 5000]), expected)
