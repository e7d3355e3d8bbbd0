# pyright: basic, reportPrivateUsage=false
# (numba has no type stubs; what other modules call is annotated by hand)
"""Compiled loops over task vectors. Importing this imports numba: do so late.

A task vector is model - base, subtracted in float32; weights, sums and the division are float64,
and the result is rounded to float32 and then to the output's dtype, as `kernels` reads and rounds
all dtypes. Everything goes element by element, so that neither threads nor pieces change a bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genepool.materialise.intrinsics import STEP, bits_of, load32, step_room, store32
from genepool.materialise.kernels import (
    _element_size,
    _kernel,
    _round_to,
    _set_scaled,
    u32,
)
from genepool.output.methods.specification import CANCELLED

Int64 = NDArray[np.int64]
UInt32 = NDArray[np.uint32]
UInt64 = NDArray[np.uint64]
Float64 = NDArray[np.float64]

EVERYTHING, LARGEST, RANDOM = 0, 1, 2

# numba mixes signed and unsigned 64-bit integers into floating point: what is hashed is unsigned.
u64 = np.uint64
# Odd numbers without a pattern, for hashing: the first decimals of pi, e and the golden ratio.
_ODD_1 = u64(1415926535897932385)
_ODD_2 = u64(7182818284590452353)
_ODD_3 = u64(6180339887498948483)


@_kernel
def count_magnitudes(
    base: int,
    base_code: int,
    model: int,
    model_code: int,
    start: int,
    stop: int,
    high: int,
    counts: Int64,
) -> np.uint64:
    """Add a histogram of `abs(task vector)` over elements start..stop, by its bits as float32.

    Args:
        base, model: addresses of the unit's first element; codes index FLOATING.
        high: -1 counts the upper 16 of the 31 bits; else the lower 15 of those whose
            upper part it is.
        counts: int64[65536].

    Returns:
        A number that depends on every element, its sign and its place: the sum of one for each.
    """
    seen = u64(0)
    left = step_room()
    right = step_room()
    one = np.float32(1)
    for begin in range(start, stop, STEP):
        count = min(STEP, stop - begin)
        _set_scaled(left, count, one, base + begin * _element_size(base_code), base_code)
        _set_scaled(right, count, one, model + begin * _element_size(model_code), model_code)
        for i in range(count):
            whole = bits_of(load32(right, i) - load32(left, i))
            bits = u32(whole & u32(0x7FFFFFFF))
            seen += (u64(whole) + u64(begin + i) * _ODD_1 + _ODD_2) * (u64(whole) | u64(1))
            if high < 0:
                counts[bits >> u32(15)] += 1
            elif bits >> u32(15) == high:
                counts[bits & u32(0x7FFF)] += 1
    return seen


@_kernel
def _rank(index: int, width: int, key: np.uint64, mixed: bool) -> np.int64:
    """Which of equals goes before another: the lower. All of 0..2**width - 1 have different ranks.

    Each step maps the numbers of so many bits one to one: adding (exclusive or), multiplying by an
    odd number, and adding to the lower half what the upper half says.
    """
    number = u64(index)
    if mixed:
        mask = (u64(1) << u64(width)) - u64(1)
        half = u64((width + 1) // 2)
        for _ in range(3):
            key = key * _ODD_1 + _ODD_2
            number = ((number ^ (key >> u64(64 - width))) * _ODD_3) & mask
            number ^= number >> half
    return np.int64(number)


@_kernel
def rank_equals(
    base: int,
    base_code: int,
    model: int,
    model_code: int,
    stop: int,
    threshold: int,
    width: int,
    key: np.uint64,
    mixed: bool,
    shift: int,
    part: int,
    out: Int64,
) -> None:
    """Ranks of the elements 0..stop that have exactly the magnitude of these 31 bits.

    Args:
        base, model: addresses of the unit's first element; codes index FLOATING.
        width, key, mixed: as `_rank` takes them.
        shift, part: -1 adds a histogram of rank >> shift to `out`; else the ranks of this part of
            it are written to `out`.
    """
    left = step_room()
    right = step_room()
    one = np.float32(1)
    used = 0
    for begin in range(0, stop, STEP):
        count = min(STEP, stop - begin)
        _set_scaled(left, count, one, base + begin * _element_size(base_code), base_code)
        _set_scaled(right, count, one, model + begin * _element_size(model_code), model_code)
        for i in range(count):
            found = u32(bits_of(load32(right, i) - load32(left, i)) & u32(0x7FFFFFFF))
            if found == threshold:
                rank = _rank(begin + i, width, key, mixed)
                if part < 0:
                    out[rank >> shift] += 1
                elif rank >> shift == part:
                    out[used] = rank
                    used += 1


@_kernel
def combine(
    base: int,
    base_code: int,
    models: Int64,
    codes: Int64,
    start: int,
    stop: int,
    weights: Float64,
    trim: int,
    thresholds: Int64,
    last: Int64,
    width: int,
    keys: UInt64,
    mixed: bool,
    words: UInt32,
    limits: Int64,
    rescales: Float64,
    elect: bool,
    normalise: bool,
    scale: float,
    out: int,
    out_code: int,
) -> bool:
    """base + scale * (sum of weighted, trimmed task vectors), elements start..stop of a unit.

    Args:
        base, models: addresses of the unit's first element, the latter int64[K]; codes likewise.
        weights: float64[K].
        trim: EVERYTHING; LARGEST keeps magnitudes above `thresholds` (int64[K], 31 bits each) and
            of those that equal it the ones whose rank is at most `last` (int64[K]); RANDOM keeps
            elements whose word (uint32[K, stop - start]) is below `limits` (int64[K]).
        width, keys, mixed: as `_rank` takes them; uint64[K] keys.
        rescales: float64[K], factor of what is kept.
        elect: keep only what has the sign of the weighted sum (none where that is 0).
        normalise: divide by the sum of the weights: of what is kept where `elect`, else of all;
            where it is zero but for rounding (CANCELLED) nothing is added to the base.
        out: address of where element `start` goes.

    Returns:
        Whether a difference is NaN or infinite, be it kept or not.
    """
    count_models = models.size
    values = step_room()
    other = step_room()
    terms = np.empty((count_models, STEP), np.float64)
    total_weight = 0.0
    total_mass = 0.0
    for k in range(count_models):
        total_weight += weights[k]
        total_mass += abs(weights[k])
    broken = u32(0)
    one = np.float32(1)
    for begin in range(start, stop, STEP):
        count = min(STEP, stop - begin)
        _set_scaled(values, count, one, base + begin * _element_size(base_code), base_code)
        for k in range(count_models):
            _set_scaled(other, count, one, models[k] + begin * _element_size(codes[k]), codes[k])
            factor = weights[k] * rescales[k]
            row = terms[k]
            for i in range(count):
                bits = bits_of(load32(other, i) - load32(values, i))
                broken |= u32(u32(bits & u32(0x7F800000)) == u32(0x7F800000))
            if trim == LARGEST:
                threshold = thresholds[k]
                for i in range(count):
                    difference = load32(other, i) - load32(values, i)
                    magnitude = np.int64(u32(bits_of(difference) & u32(0x7FFFFFFF)))
                    kept = magnitude > threshold
                    if magnitude == threshold:
                        kept = _rank(begin + i, width, keys[k], mixed) <= last[k]
                    row[i] = factor * np.float64(difference) if kept else 0.0
            elif trim == RANDOM:
                offset = begin - start
                limit = limits[k]
                for i in range(count):
                    difference = np.float64(load32(other, i) - load32(values, i))
                    row[i] = factor * difference if words[k, offset + i] < limit else 0.0
            else:
                for i in range(count):
                    row[i] = factor * np.float64(load32(other, i) - load32(values, i))
        for i in range(count):
            total = 0.0
            for k in range(count_models):
                total += terms[k, i]
            divisor, size = total_weight, total_mass
            if elect:
                mass, total, divisor, size = total, 0.0, 0.0, 0.0
                for k in range(count_models):
                    term = terms[k, i]
                    # Not a product of the two, which may underflow.
                    if (mass > 0 and term > 0) or (mass < 0 and term < 0):
                        total += term
                        divisor += weights[k]
                        size += abs(weights[k])
            if normalise:
                total = total / divisor if abs(divisor) > CANCELLED * size else 0.0
            start_value = np.float64(load32(values, i))
            store32(values, i, np.float32(start_value + scale * total))
        _round_to(out + (begin - start) * _element_size(out_code), out_code, values, count)
    return broken != 0
