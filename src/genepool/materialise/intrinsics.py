# pyright: basic
# (numba has no type stubs)
"""Memory by address, for compiled loops. Importing this imports numba: do so late.

The sums of 16-bit formats are written in LLVM's own terms because they move as many bytes as memory
gives. A plain loop of numba over two uint16 arrays reaches 0.85 of their speed (one core, 2**19
elements of bfloat16 in the caches, measured in turn), and its number of sources is fixed. float16
is converted by the processor: in integer arithmetic a conversion takes about twelve operations.

Whoever changes this file also changes `kernels.py`, `task_vector_kernels.py` and the other files
that use it: numba's cache of their functions goes by their own dates, and would keep the old code.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.core.registry import cpu_target
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

_INT16 = ir.IntType(16)
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


load16, store16 = _memory(types.uint16, _INT16)
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


def _converts_halves() -> bool:
    """Whether the processor that numba compiles for converts float16 (nearly all since 2012).

    For others LLVM would call functions that no library here has.
    """
    context: Any = cpu_target.target_context
    triple, _, features = context.codegen().magic_tuple()
    return "+f16c" in features or triple.startswith(("aarch64", "arm64"))


HALVES = _converts_halves()
"""Whether what is said to convert float16 here can be compiled."""


@intrinsic
def from_half(_typing, _half):
    """The float32 of a float16's bits: exact, subnormals too, in whatever mode the processor is."""

    def generate(_context, builder, _signature, arguments):
        half = builder.bitcast(arguments[0], ir.HalfType())
        return builder.fpext(half, ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def to_half(_typing, _value):
    """The bits of the float16 nearest to a float32, ties to even; NaN keeps its sign alone."""

    def generate(_context, builder, _signature, arguments):
        return _narrowed(builder, arguments[0])

    return types.uint16(types.float32), generate


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


def _constant(kind: Any, value: int) -> ir.Constant:
    """An integer of this type, or a vector of it throughout."""
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def _narrowed(builder: Any, value: Any) -> Any:
    """float32 to the bits of float16, one or a vector of them: see `to_half`."""
    half, short = ir.HalfType(), _INT16
    if isinstance(value.type, ir.VectorType):
        half, short = (ir.VectorType(kind, value.type.count) for kind in (half, short))
    bits = builder.bitcast(builder.fptrunc(value, half), short)
    # What processors keep of a NaN beside its sign.
    magnitude = builder.and_(bits, _constant(short, 0x7FFF))
    nan = builder.icmp_unsigned(">", magnitude, _constant(short, 0x7C00))
    return builder.select(nan, builder.and_(bits, _constant(short, 0xFE00)), bits)


_PAIRS = ir.VectorType(_INT32, BLOCK // 4)
_SHORTS = ir.VectorType(_INT16, BLOCK // 2)


def _bf16_wide(builder: Any, words: Any) -> list[Any]:
    """The elements of a block, taken two by two as 32-bit words: float32, the lower ones first.

    A shift and a mask widen them, without the shuffling that widening one by one would need.
    """
    reals = ir.VectorType(ir.FloatType(), BLOCK // 4)
    lower = builder.shl(words, _constant(_PAIRS, 16))
    upper = builder.and_(words, _constant(_PAIRS, 0xFFFF0000))
    return [builder.bitcast(half, reals) for half in (lower, upper)]


def _bf16_narrow(builder: Any, values: list[Any]) -> Any:
    """The other way, with the rounding of `kernels`."""

    def rounded(value: Any) -> Any:
        held = builder.bitcast(value, _PAIRS)
        even = builder.and_(builder.lshr(held, _constant(_PAIRS, 16)), _constant(_PAIRS, 1))
        up = builder.add(builder.add(held, _constant(_PAIRS, 0x7FFF)), even)
        nan = builder.fcmp_unordered("uno", value, value)
        return builder.select(nan, _constant(_PAIRS, 0x7FC00000), up)

    lower, upper = (rounded(value) for value in values)
    upper = builder.and_(upper, _constant(_PAIRS, 0xFFFF0000))
    return builder.or_(upper, builder.lshr(lower, _constant(_PAIRS, 16)))


def _f16_wide(builder: Any, words: Any) -> list[Any]:
    halves = builder.bitcast(words, ir.VectorType(ir.HalfType(), BLOCK // 2))
    return [builder.fpext(halves, ir.VectorType(ir.FloatType(), BLOCK // 2))]


def _f16_narrow(builder: Any, values: list[Any]) -> Any:
    return _narrowed(builder, values[0])


def _block(memory: ir.VectorType, wide: Any, narrow: Any, past_caches: bool) -> Any:
    """fuse(out, offset, sources, coefs, addresses) for a block of such memory: see `fuse_bf16`.

    Args:
        memory: the type of a block as it is loaded and stored.
        wide: wide(builder, block) gives its elements as vectors of float32.
        narrow: narrow(builder, vectors) rounds them into a block.
        past_caches: whether it is stored past the caches.
    """

    @intrinsic
    def fuse(_typing, _out, _offset, _sources, _coefs, _addresses):
        def generate(context, builder, _signature, arguments):
            out, offset, sources, coefs, addresses = arguments

            def at(table, kind, index):
                pointer = builder.inttoptr(table, kind.as_pointer())
                return builder.load(builder.gep(pointer, [index]), align=1)

            def scaled(source):
                place = builder.add(at(addresses, _INT64, source), offset)
                if past_caches:
                    for line in range(0, BLOCK, LINE):
                        _prefetch(builder, builder.add(place, _INT64(AHEAD + line)))
                words = builder.load(builder.inttoptr(place, memory.as_pointer()), align=1)
                parts = wide(builder, words)
                coef, kind = at(coefs, ir.FloatType(), source), parts[0].type
                coef = builder.insert_element(ir.Constant(kind, ir.Undefined), coef, _INT32(0))
                first = _constant(ir.VectorType(_INT32, kind.count), 0)
                coef = builder.shuffle_vector(coef, coef, first)
                return [builder.fmul(coef, part) for part in parts]

            sums = [cgutils.alloca_once_value(builder, term) for term in scaled(_INT64(0))]
            with cgutils.for_range_slice(builder, _INT64(1), sources, _INT64(1)) as (source, _):
                for total, term in zip(sums, scaled(source), strict=True):
                    builder.store(builder.fadd(builder.load(total), term), total)
            words = narrow(builder, [builder.load(total) for total in sums])
            place = builder.inttoptr(builder.add(out, offset), memory.as_pointer())
            stored = builder.store(words, place, align=BLOCK if past_caches else 1)
            if past_caches:
                stored.set_metadata("nontemporal", builder.module.add_metadata([_INT32(1)]))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return fuse


fuse_bf16 = _block(_PAIRS, _bf16_wide, _bf16_narrow, past_caches=False)
"""fuse(out, offset, sources, coefs, addresses): BLOCK bytes of a sum of bfloat16, from registers.

Args:
    out, offset: bytes out+offset.. are written.
    sources: their number, at least 1.
    coefs, addresses: at float32[sources] and int64[sources]; bytes addresses[i]+offset.. are read.
"""

fuse_bf16_past_caches = _block(_PAIRS, _bf16_wide, _bf16_narrow, past_caches=True)
"""The same to a multiple of BLOCK, for what the caches cannot hold; `fence` after the last.

A plain store to memory that is in no cache reads it first: for two sources, a third more to move.
"""

fuse_f16, fuse_f16_past_caches = (
    [_block(_SHORTS, _f16_wide, _f16_narrow, past) for past in (False, True)]
    if HALVES
    else (fuse_bf16, fuse_bf16_past_caches)
)
"""The same of float16, for use where `HALVES`."""


@intrinsic
def fence(_typing):
    """What was stored before is seen before what is stored after."""

    def generate(context, builder, _signature, _arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate
