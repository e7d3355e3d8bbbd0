# pyright: basic
# (numba has no type stubs)
"""Memory by address, for compiled loops. Importing this imports numba: do so late.

The sums of bfloat16 are written in LLVM's own terms because they move as many bytes as memory
gives. A plain loop of numba over two uint16 arrays reaches 0.85 of their speed (one core, 2**19
elements in the caches, measured in turn), and its number of sources is fixed. Plain integer
arithmetic does not make float16 faster: it takes three conversions of about twelve operations.

Whoever changes this file also changes `kernels.py`, `task_vector_kernels.py` and the other files
that use it: numba's cache of their functions goes by their own dates, and would keep the old code.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic as untyped_intrinsic

from genepool.errors import ConfigError


def require_compiler() -> None:
    """Refuse to go on where numba is told not to compile: what is here means nothing to Python.

    Raises:
        ConfigError: NUMBA_DISABLE_JIT is set.
    """
    if getattr(config, "DISABLE_JIT", False):
        raise ConfigError(
            "NUMBA_DISABLE_JIT is set, and genepool's loops run only when they are compiled: unset "
            "it (unset NUMBA_DISABLE_JIT)"
        )


require_compiler()

intrinsic: Any = untyped_intrinsic

STEP = 256
"""Elements per step of a loop. Small enough that the sources are read as interleaved streams, which
the processor prefetches; with thousands of elements it waits for each source in turn."""

ROOM = 8 * STEP
"""Bytes of `step_room`: STEP elements of any dtype."""

LINE = 64
"""Bytes that the processor fetches at once."""

BLOCK = 2 * LINE
"""Bytes of a destination that `fuse_bf16` writes."""

AHEAD = 2048
"""Bytes from what is read to what is fetched meanwhile."""

_INT32 = ir.IntType(32)
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
_, store_index = _memory(types.int64, _INT64)


@intrinsic
def bits_of(_typing, _value):
    """The bits of a float32."""

    def generate(_context, builder, _signature, arguments):
        return builder.bitcast(arguments[0], _INT32)

    return types.uint32(types.float32), generate


@intrinsic
def float_of(_typing, _value):
    """The float32 of these bits."""

    def generate(_context, builder, _signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def step_room(_typing):
    """The address of ROOM bytes, until the function returns."""

    def generate(_context, builder, _signature, _arguments):
        with builder.goto_entry_block():
            room = builder.alloca(ir.IntType(8), size=ir.Constant(_INT64, ROOM))
            room.align = 64
        return builder.ptrtoint(room, _INT64)

    return types.int64(), generate


def _prefetch(builder: Any, address: Any) -> None:
    """Ask for memory that will be read; an address that does not exist does no harm."""
    pointer = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, _INT32, _INT32, _INT32])
    name = "llvm.prefetch.p0i8"
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    # To read, into every cache, of data.
    builder.call(function, [builder.inttoptr(address, pointer), _INT32(0), _INT32(3), _INT32(1)])


def _bf16_block(past_caches: bool) -> Any:
    """fuse(out, offset, sources, coefs, addresses): see `fuse_bf16`.

    Elements are taken two by two, as 32-bit words: a shift and a mask widen them, without the
    shuffling that widening them one by one would need. Rounding is that of `kernels`.
    """

    def constant(vector: ir.VectorType, value: int) -> ir.Constant:
        return ir.Constant(vector, [value] * vector.count)

    @intrinsic
    def fuse(_typing, _out, _offset, _sources, _coefs, _addresses):
        def generate(context, builder, _signature, arguments):
            out, offset, sources, coefs, addresses = arguments
            bits = ir.VectorType(_INT32, BLOCK // 4)
            reals = ir.VectorType(ir.FloatType(), BLOCK // 4)
            sixteen, upper_half = constant(bits, 16), constant(bits, 0xFFFF0000)

            def at(table, kind, index):
                pointer = builder.inttoptr(table, kind.as_pointer())
                return builder.load(builder.gep(pointer, [index]), align=1)

            def scaled(source):
                place = builder.add(at(addresses, _INT64, source), offset)
                if past_caches:
                    for line in range(0, BLOCK, LINE):
                        _prefetch(builder, builder.add(place, _INT64(AHEAD + line)))
                words = builder.load(builder.inttoptr(place, bits.as_pointer()), align=1)
                coef = at(coefs, ir.FloatType(), source)
                coef = builder.insert_element(ir.Constant(reals, ir.Undefined), coef, _INT32(0))
                coef = builder.shuffle_vector(coef, coef, constant(bits, 0))
                halves = builder.shl(words, sixteen), builder.and_(words, upper_half)
                return [builder.fmul(coef, builder.bitcast(half, reals)) for half in halves]

            def rounded(value):
                held = builder.bitcast(value, bits)
                even = builder.and_(builder.lshr(held, sixteen), constant(bits, 1))
                up = builder.add(builder.add(held, constant(bits, 0x7FFF)), even)
                nan = builder.fcmp_unordered("uno", value, value)
                return builder.select(nan, constant(bits, 0x7FC00000), up)

            sums = [cgutils.alloca_once_value(builder, term) for term in scaled(_INT64(0))]
            with cgutils.for_range_slice(builder, _INT64(1), sources, _INT64(1)) as (source, _):
                for total, term in zip(sums, scaled(source), strict=True):
                    builder.store(builder.fadd(builder.load(total), term), total)
            lower, upper = (rounded(builder.load(total)) for total in sums)
            words = builder.or_(builder.and_(upper, upper_half), builder.lshr(lower, sixteen))
            place = builder.inttoptr(builder.add(out, offset), bits.as_pointer())
            stored = builder.store(words, place, align=BLOCK if past_caches else 1)
            if past_caches:
                stored.set_metadata("nontemporal", builder.module.add_metadata([_INT32(1)]))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return fuse


fuse_bf16 = _bf16_block(past_caches=False)
"""fuse(out, offset, sources, coefs, addresses): BLOCK bytes of a sum of bfloat16, from registers.

Args:
    out, offset: bytes out+offset.. are written.
    sources: their number, at least 1.
    coefs, addresses: at float32[sources] and int64[sources]; bytes addresses[i]+offset.. are read.
"""

fuse_bf16_past_caches = _bf16_block(past_caches=True)
"""The same to a multiple of BLOCK, for what the caches cannot hold; `fence` after the last.

A plain store to memory that is in no cache reads it first: for two sources, a third more to move.
"""


@intrinsic
def fence(_typing):
    """What was stored before is seen before what is stored after."""

    def generate(context, builder, _signature, _arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate
