# pyright: basic
# (numba and llvmlite carry no types; what other modules call is annotated by hand)
"""Compiled forward pass of a ReLU MLP over rows of examples: who gets its label right.

An optimised matrix product chooses kernels by the shape of the batch, so that the last bits of a
row may depend on its neighbours. Here a row is always the same chain of operations,

    out[j] = fma(x[K-1], w[K-1, j], ... fma(x[0], w[0, j], bias[j])),

in float32, whatever the batch, the blocks and the processor: scores repeat bit for bit anywhere.
Only the tiling differs between processors, to fill their registers. Inputs that are zero can be
left out of the chain (weights are required to be finite, so that they contribute nothing), which
the sparse form of the first layer does.

The tiles are written in LLVM's own terms because numba has no fused multiply-add and keeps no sums
in vector registers: plain loops with the same bits (contracted multiply-adds, four to six inputs
per store) reach 0.58 of the speed on the digits (64-256-10, measured in turn on one core), and 0.45
to 0.7 on other shapes.

Addresses are passed as integers: tiles work on stretches of arrays. Everything is validated by
`evaluate.mlp`, the only caller. Importing this imports numba: do so late. Compiled code is kept in
numba's cache, beside this file or in the user's cache directory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils, config
from numba.extending import intrinsic as untyped_intrinsic
from numpy.typing import NDArray

from genepool.materialise.intrinsics import require_compiler

require_compiler()

LANES = 16
"""Widths are padded to multiples of this; LLVM splits vectors that the processor lacks."""
BLOCK = 128
"""Rows that pass through all layers together, so that what lies between layers stays in cache."""

OK, BAD_WEIGHTS, BAD_LOGITS, BAD_ROW = 0, 1, 2, 3

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Data = tuple[Int64, NDArray[np.int32], Float32, Float32, Int64]
intrinsic: Any = untyped_intrinsic
carray: Any = cast("Any", numba).carray
F = TypeVar("F", bound=Callable[..., Any])

_FLOAT = ir.FloatType()
_WORD = ir.IntType(32)
_INT = ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_features = cast("Any", config).CPU_FEATURES or llvm.get_host_cpu_features().flatten()
_WIDE = "+avx512f" in _features


def _kernel(function: F) -> F:
    try:
        return cast("F", njit(function, nogil=True, cache=True))
    except RuntimeError:  # nowhere to keep a cache
        return cast("F", njit(function, nogil=True))


def _tile(rows: int, vectors: int, sparse: bool):
    """An intrinsic that computes `rows` x (`vectors` * LANES) outputs, all held in registers.

    Its arguments are int64: address of the outputs and their row stride; address of the inputs and
    their row stride; address of int32 input positions (sparse only); number of inputs; address of
    the weights and their row stride; address of the biases; whether negative outputs become 0.
    Strides count elements.
    """
    arguments = types.void(*[types.int64] * 10)

    def generate(context, builder, signature, values):
        out, out_stride, x, x_stride, positions, count, w, w_stride, bias, relu = values

        def element(base, offset):
            address = builder.add(base, builder.mul(offset, _INT(4)))
            return builder.inttoptr(address, _FLOAT.as_pointer())

        def vector(base, offset):
            pointer = builder.bitcast(element(base, offset), _VECTOR.as_pointer())
            return builder.load(pointer, align=4)

        def broadcast(value):
            undefined = ir.Constant(_VECTOR, ir.Undefined)
            lane = builder.insert_element(undefined, value, _WORD(0))
            zeros = ir.Constant(ir.VectorType(_WORD, LANES), [0] * LANES)
            return builder.shuffle_vector(lane, undefined, zeros)

        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fma.v{LANES}f32"
        )
        cells = [(row, column) for row in range(rows) for column in range(vectors)]
        start = [vector(bias, _INT(LANES * column)) for column in range(vectors)]
        before = builder.block
        body = builder.append_basic_block("inputs")
        after = builder.append_basic_block("outputs")
        builder.cbranch(builder.icmp_signed(">", count, _INT(0)), body, after)

        builder.position_at_end(body)
        step = builder.phi(_INT)
        step.add_incoming(_INT(0), before)
        sums = {cell: builder.phi(_VECTOR) for cell in cells}
        for cell in cells:
            sums[cell].add_incoming(start[cell[1]], before)
        position = step
        if sparse:
            address = builder.add(positions, builder.mul(step, _INT(4)))
            pointer = builder.inttoptr(address, _WORD.as_pointer())
            position = builder.zext(builder.load(pointer, align=4), _INT)
        offset = builder.mul(position, w_stride)
        weights = [
            vector(w, builder.add(offset, _INT(LANES * column))) for column in range(vectors)
        ]
        inputs = [
            broadcast(
                builder.load(
                    element(x, builder.add(builder.mul(x_stride, _INT(row)), step)), align=4
                )
            )
            for row in range(rows)
        ]
        added = {
            (row, column): builder.call(fma, [inputs[row], weights[column], sums[row, column]])
            for row, column in cells
        }
        following = builder.add(step, _INT(1))
        step.add_incoming(following, body)
        for cell in cells:
            sums[cell].add_incoming(added[cell], body)
        builder.cbranch(builder.icmp_signed("<", following, count), body, after)

        builder.position_at_end(after)
        results = {cell: builder.phi(_VECTOR) for cell in cells}
        for cell in cells:
            results[cell].add_incoming(start[cell[1]], before)
            results[cell].add_incoming(added[cell], body)
        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        clip = builder.icmp_signed("!=", relu, _INT(0))
        for row, column in cells:
            value = results[row, column]
            # Ordered "<" is false for NaN, which therefore stays NaN.
            clipped = builder.select(builder.fcmp_ordered("<", value, zero), zero, value)
            place = builder.add(builder.mul(out_stride, _INT(row)), _INT(LANES * column))
            pointer = builder.bitcast(element(out, place), _VECTOR.as_pointer())
            builder.store(builder.select(clip, clipped, value), pointer, align=4)
        return context.get_dummy_value()

    @intrinsic
    def tile(typingctx, a, b, c, d, e, f, g, h, i, j):
        return arguments, generate

    return tile


# Accumulators that fit in 32 registers of 512 bits, or in 16 of 256 (two per vector of ours).
_TALL, _FLAT = (8, 8) if _WIDE else (2, 6)
_dense_wide = _tile(_TALL, 2, sparse=False)
_dense_wide_row = _tile(1, 2, sparse=False)
_dense_narrow = _tile(_FLAT, 1, sparse=False)
_dense_narrow_row = _tile(1, 1, sparse=False)
_PANEL = 8 if _WIDE else 4
_sparse_panel = _tile(1, _PANEL, sparse=True)
_sparse_pair = _tile(1, 2, sparse=True)
_sparse_one = _tile(1, 1, sparse=True)


@intrinsic
def _pointer(typingctx, address):
    def generate(context, builder, signature, values):
        return builder.inttoptr(values[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@_kernel
def _dense_layer(x, x_stride, rows, depth, w, width, bias, out, relu):
    column = 0
    while column + 2 * LANES <= width:
        at_w, at_bias, row = w + 4 * column, bias + 4 * column, 0
        while row + _TALL <= rows:
            to = out + 4 * (row * width + column)
            _dense_wide(
                to, width, x + 4 * row * x_stride, x_stride, 0, depth, at_w, width, at_bias, relu
            )
            row += _TALL
        while row < rows:
            to = out + 4 * (row * width + column)
            _dense_wide_row(
                to, width, x + 4 * row * x_stride, 0, 0, depth, at_w, width, at_bias, relu
            )
            row += 1
        column += 2 * LANES
    if column < width:
        at_w, at_bias, row = w + 4 * column, bias + 4 * column, 0
        while row + _FLAT <= rows:
            to = out + 4 * (row * width + column)
            _dense_narrow(
                to, width, x + 4 * row * x_stride, x_stride, 0, depth, at_w, width, at_bias, relu
            )
            row += _FLAT
        while row < rows:
            to = out + 4 * (row * width + column)
            _dense_narrow_row(
                to, width, x + 4 * row * x_stride, 0, 0, depth, at_w, width, at_bias, relu
            )
            row += 1


@_kernel
def _panel(column, width):
    """Number of vectors in the panel of a sparse layer that begins at `column`."""
    left = (width - column) // LANES
    return _PANEL if left >= _PANEL else (2 if left >= 2 else 1)


@_kernel
def _sparse_layer(starts, columns, values, depth, rows, w, width, bias, out, relu):
    """The weights lie panel by panel (see `_pack`): then one fits in the first-level cache."""
    at_values, at_columns = values.ctypes.data, columns.ctypes.data
    column = 0
    while column < width:
        vectors = _panel(column, width)
        at_w, at_bias, w_stride = w + 4 * depth * column, bias + 4 * column, LANES * vectors
        for i in range(rows.shape[0]):
            begin = starts[rows[i]]
            n = starts[rows[i] + 1] - begin
            x, positions = at_values + 4 * begin, at_columns + 4 * begin
            to = out + 4 * (i * width + column)
            if vectors == _PANEL:
                _sparse_panel(to, 0, x, 0, positions, n, at_w, w_stride, at_bias, relu)
            elif vectors == 2:
                _sparse_pair(to, 0, x, 0, positions, n, at_w, w_stride, at_bias, relu)
            else:
                _sparse_one(to, 0, x, 0, positions, n, at_w, w_stride, at_bias, relu)
        column += vectors * LANES


@_kernel
def _pack(source, rows, width, padded, target, panels):
    """Copy float32[rows, width] to `target`; whether all of it is finite.

    Rows are padded with zeros to `padded`, and lie end to end or, with `panels`, are divided into
    stretches as `_panel` says: the first of each row end to end, then the second, and so on.
    """
    given = carray(_pointer(source), (rows * width,), np.uint32)
    exponent, largest = np.uint32(0x7F800000), np.uint32(0)
    for i in range(rows * width):
        largest = max(largest, given[i] & exponent)
    begin = 0
    while begin < padded:
        end = padded
        if panels:
            end = begin + LANES * _panel(begin, padded)
        filled = min(end, width) - begin
        for row in range(rows):
            # Indices from 0 are known not to count from the end, so that the loops are vectorised.
            part = carray(_pointer(source + 4 * (row * width + begin)), (filled,), np.uint32)
            packed = carray(_pointer(target), (end - begin,), np.uint32)
            for column in range(filled):
                packed[column] = part[column]
            for column in range(filled, end - begin):
                packed[column] = np.uint32(0)
            target += 4 * (end - begin)
        begin = end
    return largest != exponent


@_kernel
def score_rows(
    addresses: Int64,
    widths: Int64,
    padded: Int64,
    data: Data,
    rows: Int64,
    first: int,
    last: int,
    pack: Float32,
    work: Float32,
    out: Float32,
) -> tuple[int, int]:
    """Score a model on rows: 1 where the first largest logit is the label's, else 0.

    Args:
        addresses: int64[L, 2], for each layer the addresses of contiguous weights
            float32[widths[l], widths[l+1]] and biases float32[widths[l+1]].
        widths: int64[L+1], from the number of features to the number of classes.
        padded: int64[L+1], all but the first rounded up to multiples of LANES.
        data: the X examples:
            int64[X+1], where each begins in the next two; empty if inputs are dense;
            int32[...], positions of the inputs that are not 0;
            float32[...], those inputs;
            float32[X, widths[0]], empty if inputs are sparse;
            int64[X], the labels, each below widths[L].
        rows: int64[n], which examples, counted from `first`.
        first: the first example that may be asked for.
        last: the first after it that may not.
        pack: float32, room for the weights and biases of the model, padded.
        work: float32, room for BLOCK rows of inputs and twice BLOCK rows of the widest layer.
        out: float32[n], to be written.

    Returns:
        (OK, 0); (BAD_WEIGHTS, layer) if weights are NaN or infinite; (BAD_LOGITS, position in rows)
        if a logit is NaN; (BAD_ROW, position) if rows[position] is not one.
    """
    for i in range(rows.shape[0]):
        if rows[i] < 0 or rows[i] >= last - first:
            return BAD_ROW, i
    layer = _pack_model(addresses, widths, padded, data, pack)
    if layer >= 0:
        return BAD_WEIGHTS, layer
    bad = _score_packed(widths, padded, data, first, rows, pack, work, out)
    if bad >= 0:
        return BAD_LOGITS, bad
    return OK, 0


@_kernel
def settle(
    addresses: Int64,
    widths: Int64,
    padded: Int64,
    data: Data,
    worth: Float64,
    swing: Float64,
    totals: Float64,
    margin: float,
    eager: float,
    smallest: int,
    largest: int,
    grain: int,
    pack: Float32,
    work: Float32,
    order: Int64,
    out: Float32,
) -> tuple[int, int]:
    """Score a model on as many rows as a rule (`core.early_stop.lossless.Rule`) asks for.

    Args:
        addresses, widths, padded, data: as for `score_rows`.
        worth, swing, totals, margin, eager, smallest, largest, grain: the rule, over the first N
            examples. `totals` is written.
        pack, work: as for `score_rows`.
        order: int64[N], to be written: the examples in the order in which they are asked.
        out: float32[N], to be written, in stored order; NaN where nothing was asked.

    Returns:
        (OK, number asked), or what `score_rows` returns, with a position in `order`.
    """
    layer = _pack_model(addresses, widths, padded, data, pack)
    if layer >= 0:
        return BAD_WEIGHTS, layer
    _by_worth(worth, order)
    change, count = np.empty_like(totals), worth.shape[0]
    answers = np.empty(count, np.float32)
    # `before` is what failing was expected to cost up to `done`, `cost` up to `enough`.
    done, enough, before, cost = 0, 0, 0.0, 0.0
    out[:] = np.nan
    lead = totals.max()
    while done < count and lead >= -margin:
        block = count
        if margin != np.inf:
            goal = before + eager * lead
            enough, cost = done, before
            while enough < count:
                cost += worth[order[enough]]
                if cost >= goal:
                    break
                enough += 1
            block = min(max(enough + 1 - done, smallest), largest)
            block = -(-block // grain) * grain
        end = min(count, done + block)
        rows, answered = order[done:end], answers[done:end]
        bad = _score_packed(widths, padded, data, 0, rows, pack, work, answered)
        if bad >= 0:
            return BAD_LOGITS, done + bad
        change[:] = 0.0
        for i in range(done, end):
            before += worth[order[i]]
            out[order[i]] = answers[i]
            if answers[i] == 0:
                for member in range(change.shape[0]):
                    change[member] += swing[order[i], member]
        for member in range(change.shape[0]):
            totals[member] += change[member]
        done = end
        lead = totals.max()
    return OK, done


@_kernel
def _by_worth(worth, order):
    """Order examples as `lossless.keys` ranks them: falling worth, equal ones as stored."""
    top = 2.2250738585072014e-308
    for i in range(worth.shape[0]):
        top = max(top, worth[i])
    size, scale = worth.shape[0], 65534.0 / top
    ranks, half = np.empty(size, np.uint16), np.empty(size, np.int64)
    low, high = np.zeros(257, np.int64), np.zeros(257, np.int64)
    for i in range(size):
        ranks[i] = np.uint16(65534.0 - worth[i] * scale)
        low[(ranks[i] & 255) + 1] += 1
        high[(ranks[i] >> 8) + 1] += 1
    for digit in range(256):
        low[digit + 1] += low[digit]
        high[digit + 1] += high[digit]
    for i in range(size):
        digit = ranks[i] & 255
        half[low[digit]] = i
        low[digit] += 1
    for i in range(size):
        digit = ranks[half[i]] >> 8
        order[high[digit]] = half[i]
        high[digit] += 1


@_kernel
def _pack_model(addresses, widths, padded, data, pack):
    """Copy a model's weights and biases, padded; the first layer that is not finite, or -1."""
    at, sparse = pack.ctypes.data, data[0].shape[0] > 0
    for layer in range(addresses.shape[0]):
        depth, width, room = widths[layer], widths[layer + 1], padded[layer + 1]
        fine = _pack(addresses[layer, 0], depth, width, room, at, sparse and layer == 0)
        at += 4 * depth * room
        if not (_pack(addresses[layer, 1], 1, width, room, at, False) and fine):
            return layer
        at += 4 * room
    return -1


@_kernel
def _score_packed(widths, padded, data, first, rows, pack, work, out):
    """Score a packed model on rows; the position of the first with NaN in its logits, or -1."""
    starts, columns, values, inputs, labels = data
    layers, features = widths.shape[0] - 1, widths[0]
    sparse = starts.shape[0] > 0
    widest = padded[1:].max()
    gathered, at_work = 0, work.ctypes.data
    if not sparse:
        gathered = BLOCK * features
    halves = (at_work + 4 * gathered, at_work + 4 * (gathered + BLOCK * widest))
    classes, stride = widths[layers], padded[layers]
    for begin in range(0, rows.shape[0], BLOCK):
        block = rows[begin : begin + BLOCK]
        size = block.shape[0]
        at, x, x_stride = pack.ctypes.data, at_work, features
        if not sparse:
            for i in range(size):
                for column in range(features):
                    work[i * features + column] = inputs[first + block[i], column]
        for layer in range(layers):
            depth, room = widths[layer], padded[layer + 1]
            relu = 1 if layer + 1 < layers else 0
            to, bias = halves[layer % 2], at + 4 * depth * room
            if sparse and layer == 0:
                data_in = (starts[first:], columns, values, depth, block)
                _sparse_layer(*data_in, at, room, bias, to, relu)
            else:
                _dense_layer(x, x_stride, size, depth, at, room, bias, to, relu)
            x, x_stride = to, room
            at = bias + 4 * room
        logits = carray(_pointer(x), (size, stride), np.float32)
        for i in range(size):
            best, label = logits[i, 0], 0
            nan = best != best
            for c in range(1, classes):
                value = logits[i, c]
                if value > best:
                    best, label = value, c
                nan |= value != value
            if nan:
                return begin + i
            out[begin + i] = np.float32(label == labels[first + block[i]])
    return -1
