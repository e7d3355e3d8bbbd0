# pyright: basic, reportPrivateUsage=false
# (numba has no type stubs; what other modules call is annotated by hand)
"""Compiled loops over raw weights. Importing this imports numba: do so late.

Arithmetic is IEEE, without fast-math: the vector body of a loop and its tail, and every machine,
give the same bits. bfloat16 is converted by integer arithmetic written out here, and so is float16
where the processor has no instructions for it. These do the same in whatever mode the processor is
(subnormals are never flushed), but for NaN, of which the sign alone is kept here as there. Compiled
code is kept in numba's cache beside this file (or in the user's cache directory), so only the first
run waits.

Tensors are given as addresses with an index into `FLOATING` for the dtype: one call then covers
any number of tensors, seeds and segments, and an address need not be aligned. Whoever calls keeps
the memory alive.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from genepool.checkpoints.files.dtypes import FLOATING
from genepool.materialise.intrinsics import (
    BLOCK,
    HALVES,
    ROOM,
    STEP,
    bits_of,
    fence,
    float_of,
    from_half,
    fuse_bf16,
    fuse_bf16_past_caches,
    fuse_f16,
    fuse_f16_past_caches,
    load16,
    load32,
    load64,
    step_room,
    store16,
    store32,
    store64,
    store_index,
    to_half,
)

F = TypeVar("F", bound=Callable[..., Any])
Int64 = NDArray[np.int64]
UInt16 = NDArray[np.uint16]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

F64, F32, F16, BF16 = (FLOATING.index(code) for code in ("F64", "F32", "F16", "BF16"))


def _kernel(function: F, signature: Any = None) -> F:
    """Compiled for the types of each call, or once for those of a signature."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return cast(F, njit(signature, cache=True, **options)(function))
    except RuntimeError:  # nowhere to keep a cache (read-only file system)
        return cast(F, njit(signature, **options)(function))


def _table(dtype: str, dimensions: int) -> Any:
    """The type of a contiguous array that a kernel reads, and that need not be writable."""
    return types.Array(getattr(types, dtype), dimensions, "C", readonly=True)


# numba widens every integer operation to 64 bits unless each result is cast back.
u32 = np.uint32


@_kernel
def _from_bf16(half: np.uint16) -> np.float32:
    return float_of(u32(u32(half) << u32(16)))


@_kernel
def _to_bf16(value: np.float32) -> np.uint16:
    bits = bits_of(value)
    even = u32(u32(bits >> u32(16)) & u32(1))
    rounded = u32(u32(u32(bits + u32(0x7FFF)) + even) >> u32(16))
    return np.uint16(rounded) if value == value else np.uint16(0x7FC0)


@_kernel
def _from_f16_bits(half: np.uint16) -> np.float32:
    magnitude = u32(u32(half) & u32(0x7FFF))
    wide = u32(magnitude << u32(13))
    bits = u32(wide + u32(0x38000000))  # exponent bias 15 to 127
    if magnitude >= u32(0x7C00):  # infinity and NaN
        bits = u32(wide + u32(0x70000000))
    if magnitude < u32(0x0400):  # zero and subnormal: a whole number of 2**-24
        bits = bits_of(np.float32(np.int32(magnitude)) * np.float32(2.0**-24))
    return float_of(u32(bits | u32(u32(u32(half) & u32(0x8000)) << u32(16))))


@_kernel
def _to_f16_bits(value: np.float32) -> np.uint16:
    bits = bits_of(value)
    magnitude = u32(bits & u32(0x7FFFFFFF))
    even = u32(u32(magnitude >> u32(13)) & u32(1))
    # Exponent bias 127 to 15, and half a unit less one in the last place, to round to even.
    half = u32(u32(u32(magnitude + u32(0xC8000FFF)) + even) >> u32(13))
    if magnitude < u32(0x38800000):  # below 2**-14 the last place is 2**-24, as for 0.5 in float32
        half = u32(bits_of(float_of(magnitude) + np.float32(0.5)) - u32(0x3F000000))
    if magnitude >= u32(0x477FF000):  # 65520 and above round to infinity
        half = u32(0x7C00)
    if magnitude > u32(0x7F800000):
        half = u32(0x7E00)
    return np.uint16(u32(half | u32(u32(bits >> u32(16)) & u32(0x8000))))


# The formats whose sums are computed in registers.
_FUSED = (BF16, F16) if HALVES else (BF16,)
_from_f16, _to_f16 = (from_half, to_half) if HALVES else (_from_f16_bits, _to_f16_bits)


@_kernel
def _element_size(code: int) -> int:
    if code == F64:
        return 8
    return 4 if code == F32 else 2


@_kernel
def _set_scaled(out: int, count: int, coef: np.float32, address: int, code: int) -> None:
    if code == BF16:
        for i in range(count):
            store32(out, i, coef * _from_bf16(load16(address, i)))
    elif code == F16:
        for i in range(count):
            store32(out, i, coef * _from_f16(load16(address, i)))
    elif code == F32:
        for i in range(count):
            store32(out, i, coef * load32(address, i))
    else:
        for i in range(count):
            store32(out, i, coef * np.float32(load64(address, i)))


@_kernel
def _add_scaled(out: int, count: int, coef: np.float32, address: int, code: int) -> None:
    if code == BF16:
        for i in range(count):
            store32(out, i, load32(out, i) + coef * _from_bf16(load16(address, i)))
    elif code == F16:
        for i in range(count):
            store32(out, i, load32(out, i) + coef * _from_f16(load16(address, i)))
    elif code == F32:
        for i in range(count):
            store32(out, i, load32(out, i) + coef * load32(address, i))
    else:
        for i in range(count):
            store32(out, i, load32(out, i) + coef * np.float32(load64(address, i)))


@_kernel
def _round_to(address: int, code: int, values: int, count: int) -> None:
    if code == BF16:
        for i in range(count):
            store16(address, i, _to_bf16(load32(values, i)))
    elif code == F16:
        for i in range(count):
            store16(address, i, _to_f16(load32(values, i)))
    elif code == F32:
        for i in range(count):
            store32(address, i, load32(values, i))
    else:
        for i in range(count):
            store64(address, i, np.float64(load32(values, i)))


@_kernel
def _round_through(values: int, count: int, code: int) -> None:
    """Round values to a dtype and widen them again; float32 holds 32 and 64 bits as they are."""
    if code == BF16:
        for i in range(count):
            store32(values, i, _from_bf16(_to_bf16(load32(values, i))))
    elif code == F16:
        for i in range(count):
            store32(values, i, _from_f16(_to_f16(load32(values, i))))


@_kernel
def _fuse(
    out: int, blocks: int, sources: int, coefs: int, addresses: int, code: int, past_caches: bool
) -> None:
    """Sums of a 16-bit format into itself, block by block; past the caches if that is possible."""
    past = past_caches and out % BLOCK == 0
    for block in range(blocks):
        if code == BF16 and past:
            fuse_bf16_past_caches(out, block * BLOCK, sources, coefs, addresses)
        elif code == BF16:
            fuse_bf16(out, block * BLOCK, sources, coefs, addresses)
        elif past:
            fuse_f16_past_caches(out, block * BLOCK, sources, coefs, addresses)
        else:
            fuse_f16(out, block * BLOCK, sources, coefs, addresses)


@_kernel
def _holding(edges: Int64, position: int) -> int:
    """Index i with edges[i] <= position < edges[i + 1]."""
    low, high = 0, edges.size - 1
    while high - low > 1:
        middle = (low + high) // 2
        if edges[middle] <= position:
            low = middle
        else:
            high = middle
    return low


# Read-only arrays and others are of different types to numba: one signature is one compilation.
_EXPRESS = types.void(
    *[types.int64] * 2,
    _table("int64", 1),
    *[_table("int64", 2)] * 2,
    _table("int64", 1),
    _table("float32", 2),
    *[_table("int64", 1)] * 3,
    _table("uint16", 1),
    types.float32,
    _table("float32", 1),
    types.boolean,
)


@partial(_kernel, signature=_EXPRESS)
def express(
    start: int,
    stop: int,
    tensors: Int64,
    addresses: Int64,
    codes: Int64,
    bounds: Int64,
    coefs: Float32,
    out_addresses: Int64,
    out_codes: Int64,
    via_codes: Int64,
    words: UInt16,
    mutation: np.float32,
    quantiles: Float32,
    past_caches: bool,
) -> None:
    """Compute positions start..stop of a recipe, with noise, and round them into the destinations.

    Args:
        start, stop: positions on the parameter axis.
        tensors: int64[T+1], increasing: tensor t holds positions tensors[t]..tensors[t+1].
        addresses: int64[T, K]: where tensor t of source k begins.
        codes: int64[T, K]: its dtype, an index into FLOATING.
        bounds, coefs: int64[S+1] and float32[S, K]: the recipe.
        out_addresses, out_codes: int64[T]: where tensor t goes, and its dtype there.
        via_codes: int64[T]: the dtype that tensor t is rounded to before it is converted to that.
        words: uint16[D], the random bits of the noise; empty for none.
        mutation: its standard deviation.
        quantiles: float32[65536], of the normal distribution; what the words choose from.
        past_caches: whether to leave the processor's caches alone, for more than they hold.
    """
    count_sources = addresses.shape[1]
    values = step_room()
    fused_addresses, fused_coefs = step_room(), step_room()
    tensor = _holding(tensors, start)
    segment = _holding(bounds, start)
    position = start
    while position < stop:
        while tensors[tensor + 1] <= position:
            tensor += 1
        while bounds[segment + 1] <= position:
            segment += 1
        offset = position - tensors[tensor]
        end = min(stop, min(tensors[tensor + 1], bounds[segment + 1]))
        out_code = out_codes[tensor]
        out = out_addresses[tensor] + offset * _element_size(out_code)
        used = 0
        via_code = via_codes[tensor]
        fusable = words.size == 0 and out_code in _FUSED and 8 * count_sources <= ROOM
        fusable = fusable and (via_code == out_code or _element_size(via_code) > 2)
        for source in range(count_sources):
            coef = coefs[segment, source]
            if coef != 0 and fusable:
                address = addresses[tensor, source]
                store_index(fused_addresses, used, address + offset * 2)
                store32(fused_coefs, used, coef)
                used += 1
                fusable = codes[tensor, source] == out_code
        if fusable and used > 0:
            lead = -out % BLOCK // 2 if past_caches and out % 2 == 0 else 0
            blocks = 2 * (end - position) // BLOCK
            if lead > 0:
                end = min(end, position + lead)
            elif blocks > 0:
                _fuse(out, blocks, used, fused_coefs, fused_addresses, out_code, past_caches)
                position += blocks * BLOCK // 2
                continue
        # Steps end at multiples of STEP inside the tensor, so that stores stay aligned.
        end = min(end, position + STEP - offset % STEP)
        count = end - position
        empty = True
        for source in range(count_sources):
            coef = coefs[segment, source]
            if coef == 0:
                continue
            code = codes[tensor, source]
            address = addresses[tensor, source]
            address += offset * _element_size(code)
            if empty:
                _set_scaled(values, count, coef, address, code)
                empty = False
            else:
                _add_scaled(values, count, coef, address, code)
        if empty:
            for i in range(count):
                store32(values, i, np.float32(0))
        if words.size > 0:
            for i in range(count):
                noise = quantiles[words[position + i]]
                store32(values, i, load32(values, i) + mutation * noise)
        if via_code != out_code:
            _round_through(values, count, via_code)
        _round_to(out, out_code, values, count)
        position = end
    if past_caches:
        fence()


@_kernel
def _widen(out: Float64, count: int, address: int, code: int) -> None:
    if code == BF16:
        for i in range(count):
            out[i] = np.float64(_from_bf16(load16(address, i)))
    elif code == F16:
        for i in range(count):
            out[i] = np.float64(_from_f16(load16(address, i)))
    elif code == F32:
        for i in range(count):
            out[i] = np.float64(load32(address, i))
    else:
        for i in range(count):
            out[i] = np.float64(np.float32(load64(address, i)))


@_kernel
def inner_products(
    starts: Int64,
    stops: Int64,
    tensors: Int64,
    addresses: Int64,
    codes: Int64,
    sums: Float64,
) -> None:
    """Inner products of the sources over n stretches, in double-double precision.

    A product of two float32 values is exact in float64, and the sums carry their rounding errors
    along (two-sum, Knuth), so that the result does not depend on how a stretch is divided.

    Args:
        starts, stops: int64[n]: stretches of the parameter axis.
        tensors, addresses, codes: the arrays of `express`.
        sums: float64[n, P, 2], written: for the P = K (K + 1) / 2 pairs i <= j, row by row, the
            sum and what rounding it left out. Not finite where a source is not finite.
    """
    count_sources = addresses.shape[1]
    pairs = sums.shape[1]
    values = np.empty((count_sources, STEP), np.float64)
    high = np.empty((pairs, STEP), np.float64)
    low = np.empty((pairs, STEP), np.float64)
    for stretch in range(starts.size):
        high[:] = 0.0
        low[:] = 0.0
        position, stop = starts[stretch], stops[stretch]
        tensor = _holding(tensors, position)
        while position < stop:
            while tensors[tensor + 1] <= position:
                tensor += 1
            end = min(min(stop, position + STEP), tensors[tensor + 1])
            count = end - position
            offset = position - tensors[tensor]
            for source in range(count_sources):
                code = codes[tensor, source]
                address = addresses[tensor, source] + offset * _element_size(code)
                _widen(values[source], count, address, code)
            pair = 0
            for first in range(count_sources):
                for second in range(first, count_sources):
                    _accumulate(high[pair], low[pair], values[first], values[second], count)
                    pair += 1
            position = end
        for pair in range(pairs):
            _fold(high[pair], low[pair])
            sums[stretch, pair, 0] = high[pair, 0]
            sums[stretch, pair, 1] = low[pair, 0]


@_kernel
def _accumulate(high: Float64, low: Float64, left: Float64, right: Float64, count: int) -> None:
    for i in range(count):
        product = left[i] * right[i]
        before = high[i]
        total = before + product
        part = total - before
        low[i] += (before - (total - part)) + (product - part)
        high[i] = total


@_kernel
def _fold(high: Float64, low: Float64) -> None:
    """Add up the STEP lanes, half by half, into the first."""
    half = STEP // 2
    while half > 0:
        for i in range(half):
            high[i], low[i] = _add_pairs(high[i], low[i], high[i + half], low[i + half])
        half //= 2


@_kernel
def _add_pairs(high: float, low: float, more: float, less: float) -> tuple[float, float]:
    total = high + more
    part = total - high
    error = ((high - (total - part)) + (more - part)) + (low + less)
    result = total + error
    return result, error - (result - total)


@_kernel
def running_sums(sums: Float64, out: Float64) -> None:
    """Prefix sums in double-double: float64[n, P, 2] to float64[n + 1, P, 2]."""
    out[0] = 0.0
    for row in range(sums.shape[0]):
        for pair in range(sums.shape[1]):
            total, error = _add_pairs(
                out[row, pair, 0], out[row, pair, 1], sums[row, pair, 0], sums[row, pair, 1]
            )
            out[row + 1, pair, 0] = total
            out[row + 1, pair, 1] = error
