# pyright: basic
# (numba has no type stubs)
"""Memory by address, for compiled loops. Importing this imports numba: do so late.

A function that reaches memory by these alone refers to nothing outside itself, so that its machine
code can be kept (`native`).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic as untyped_intrinsic

intrinsic: Any = untyped_intrinsic

STEP = 256
"""Elements per step of a loop. Small enough that the sources are read as interleaved streams, which
the processor prefetches; with thousands of elements it waits for each source in turn."""

_INT64 = ir.IntType(64)


def _memory(element: Any, llvm: ir.Type) -> tuple[Any, Any]:
    """load(address, index) and store(address, index, value) for one element type."""

    @intrinsic
    def load(_typing, _address, _index):
        def generate(_context, builder, _signature, arguments):
            base = builder.inttoptr(arguments[0], llvm.as_pointer())
            return builder.load(builder.gep(base, [arguments[1]]), align=1)

        return element(types.int64, types.int64), generate

    @intrinsic
    def store(_typing, _address, _index, _value):
        def generate(context, builder, _signature, arguments):
            base = builder.inttoptr(arguments[0], llvm.as_pointer())
            builder.store(arguments[2], builder.gep(base, [arguments[1]]), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, element), generate

    return load, store


load16, store16 = _memory(types.uint16, ir.IntType(16))
load32, store32 = _memory(types.float32, ir.FloatType())
load64, store64 = _memory(types.float64, ir.DoubleType())
load_index, _ = _memory(types.int64, _INT64)


@intrinsic
def bits_of(_typing, _value):
    """The bits of a float32."""

    def generate(_context, builder, _signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def float_of(_typing, _value):
    """The float32 of these bits."""

    def generate(_context, builder, _signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def step_room(_typing):
    """The address of room for STEP elements of any dtype, until the function returns."""

    def generate(_context, builder, _signature, _arguments):
        with builder.goto_entry_block():
            room = builder.alloca(ir.IntType(8), size=ir.Constant(_INT64, 8 * STEP))
            room.align = 64
        return builder.ptrtoint(room, _INT64)

    return types.int64(), generate
