# pyright: basic, reportGeneralTypeIssues=false, reportCallIssue=false
# (triton has no type stubs)
"""The kernel that writes a child where its seeds lie. Importing this imports triton: do so late.

The arithmetic is that of `genepool.core.genome`, and so are the bits: products and sums are rounded
one by one, which the compiler is told by `enable_fp_fusion=False` (it would contract them
otherwise), and bfloat16 is rounded by integer arithmetic, since not every card rounds it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from genepool.checkpoints.files.dtypes import FLOATING
from genepool.materialise.chunks import GRAIN, Form

BLOCK = GRAIN
"""Elements that one program of the kernel writes."""

WIDTH = 4
"""Columns of the table of pieces before the addresses of the seeds."""

_F64, _F32, _F16, _BF16 = (tl.constexpr(FLOATING.index(c)) for c in ("F64", "F32", "F16", "BF16"))
_WIDTH = tl.constexpr(WIDTH)


@triton.jit
def _bf16_bits(values):
    bits = values.to(tl.uint32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return tl.where(values == values, rounded, 0x7FC0).to(tl.uint16)


@triton.jit
def _from_bf16(bits):
    return (bits.to(tl.uint32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def _places(address, first, lanes, KIND: tl.constexpr, ALIGNED: tl.constexpr):
    """Pointers to consecutive elements from number `first` on, of what begins at an address."""
    if KIND == _F64:
        places = address.to(tl.pointer_type(tl.float64)) + (first + lanes)
    elif KIND == _F32:
        places = address.to(tl.pointer_type(tl.float32)) + (first + lanes)
    elif KIND == _F16:
        places = address.to(tl.pointer_type(tl.float16)) + (first + lanes)
    else:
        places = address.to(tl.pointer_type(tl.uint16)) + (first + lanes)
    if ALIGNED:
        places = tl.max_contiguous(tl.multiple_of(places, 16), lanes.shape[0])
    return places


@triton.jit
def _term(row, coef, first, lanes, needed, nothing, KIND: tl.constexpr, ALIGNED: tl.constexpr):
    """A coefficient times a seed where it is needed, and nothing, which is -0.0, elsewhere."""
    found = tl.load(_places(tl.load(row), first, lanes, KIND, ALIGNED), mask=needed, other=0)
    if KIND == _BF16:
        found = _from_bf16(found)
    return tl.where(needed, coef * found.to(tl.float32), nothing)


@triton.jit
def _write(
    row, coefs, count_segments, within, lanes, mask,
    K: tl.constexpr, KINDS: tl.constexpr, VIA: tl.constexpr, OUT: tl.constexpr,
    ALIGNED: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Write the lanes of a mask, or all of them where WHOLE says so."""
    # -0.0 changes no sum, not even the sign of a zero. By its bits, since triton takes a constant
    # that is equal to 0 for 0.0.
    nothing = tl.full(lanes.shape, 0x80000000, tl.uint32).to(tl.float32, bitcast=True)
    values = nothing
    magnitudes = 0
    for k in tl.static_range(K):
        bits = tl.load(coefs + k * count_segments).to(tl.int32)
        magnitude = bits & 0x7FFFFFFF
        magnitudes = magnitudes | magnitude
        needed = tl.broadcast_to(magnitude, lanes.shape) != 0
        if not WHOLE:
            needed = needed & mask
        coef = bits.to(tl.float32, bitcast=True)
        values = values + _term(
            row + _WIDTH + k, coef, within, lanes, needed, nothing, (KINDS >> (2 * k)) & 3, ALIGNED
        )
    values = tl.where(magnitudes == 0, 0.0, values)
    if VIA != OUT:
        if VIA == _BF16:
            values = _from_bf16(_bf16_bits(values))
        elif VIA == _F16:
            values = values.to(tl.float16).to(tl.float32)
    out = _places(tl.load(row + 3), within, lanes, OUT, ALIGNED)
    if OUT == _BF16:
        result = _bf16_bits(values)
    elif OUT == _F16:
        result = values.to(tl.float16)
    elif OUT == _F64:
        result = values.to(tl.float64)
    else:
        result = values
    if WHOLE:
        tl.store(out, result)
    else:
        tl.store(out, result, mask=mask)


@triton.jit(do_not_specialize=["first_block", "count_segments"])
def _express(
    owners, pieces, firsts, segments, first_block, count_segments,
    K: tl.constexpr, KINDS: tl.constexpr, VIA: tl.constexpr, OUT: tl.constexpr,
    ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = first_block + tl.program_id(0)
    row = pieces + tl.load(owners + block).to(tl.int64) * (_WIDTH + K)
    start = tl.load(row)
    within = (block - tl.load(row + 2)) * BLOCK
    position = start + within
    begin = position
    end = tl.minimum(begin + BLOCK, start + tl.load(row + 1))
    segment = tl.load(firsts + block)
    lanes = tl.arange(0, BLOCK)
    while position < end:
        stop = tl.minimum(tl.load(segments + segment), end)
        if tl.load(segments + count_segments + segment) != 0:
            coefs = segments + 2 * count_segments + segment
            mask = (lanes >= position - begin) & (lanes < stop - begin)
            if stop - position == BLOCK:
                _write(row, coefs, count_segments, within, lanes, mask,
                       K, KINDS, VIA, OUT, ALIGNED, True)  # fmt: skip
            else:
                _write(row, coefs, count_segments, within, lanes, mask,
                       K, KINDS, VIA, OUT, ALIGNED, False)  # fmt: skip
        position = stop
        segment += 1


def express(form: Form, tables: Sequence[torch.Tensor], numbers: tuple[int, int, int]) -> None:
    """Write a child where one form's blocks of elements lie.

    Args:
        form: what is alike in all of them.
        tables: of the device: `owners`, int32[B], the piece of each block; `pieces`, int64
            [pieces, 4 + K], where each begins on the parameter axis, its elements, its first block,
            its address and those of its K seeds; `firsts`, int32[B], the segment in which each
            block begins; `segments`, int64[2 + K, S], where each of the child's segments ends,
            whether it is written, and the bits of its float32 coefficients.
        numbers: the first block, how many there are, and S.
    """
    first, count, segments = numbers
    packed = sum(kind << (2 * k) for k, kind in enumerate(form.kinds))
    _express[(count,)](
        *tables, first, segments,
        K=len(form.kinds), KINDS=packed, VIA=form.via, OUT=form.out,
        ALIGNED=form.aligned, BLOCK=BLOCK,
        num_warps=8, enable_fp_fusion=False,
    )  # fmt: skip
