"""The dtypes of safetensors files that genepool reads, under their names there ("BF16", ...)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Raw = NDArray[Any]


@dataclass(frozen=True, slots=True)
class DType:
    """One element type.

    Attributes:
        code: its name in safetensors.
        storage: how genepool holds it in numpy; bfloat16, which numpy lacks, as its 16 raw bits.
        floating: whether tensors of it merge (all others are carried over from the first seed).
    """

    code: str
    storage: np.dtype[Any]
    floating: bool

    @property
    def size(self) -> int:
        """Bytes per element."""
        return self.storage.itemsize


DTYPES: dict[str, DType] = {
    code: DType(code, np.dtype(storage), floating)
    for code, storage, floating in (
        ("F64", "<f8", True),
        ("F32", "<f4", True),
        ("F16", "<f2", True),
        ("BF16", "<u2", True),
        ("I64", "<i8", False),
        ("I32", "<i4", False),
        ("I16", "<i2", False),
        ("I8", "<i1", False),
        ("U64", "<u8", False),
        ("U32", "<u4", False),
        ("U16", "<u2", False),
        ("U8", "<u1", False),
        ("BOOL", "<u1", False),
    )
}

FLOATING = tuple(code for code, dtype in DTYPES.items() if dtype.floating)

# Bits of a value's fraction: of more, a weight loses digits.
FRACTIONS = {"F64": 52, "F32": 23, "F16": 10, "BF16": 7}

# As torch, and with it Hugging Face's config.json, calls the floating dtypes.
TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

_NAMED = {
    **{code.lower(): code for code in TORCH_NAMES},
    **{name: code for code, name in TORCH_NAMES.items()},
    **{f"fp{bits}": f"F{bits}" for bits in (64, 32, 16)},
}


def floating_named(name: str) -> str | None:
    """The code of a floating dtype by any name in use: BF16, bf16, bfloat16, fp16, ...."""
    return _NAMED.get(name.lower())


def as_float32(raw: Raw, code: str) -> NDArray[np.float32]:
    """The values of a raw array of a floating dtype, rounded to float32 (a new array).

    Plain numpy, for small pieces and for checking; whole models go through the kernels.
    """
    if code == "BF16":
        return np.frombuffer(raw.astype(np.uint32) << np.uint32(16), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return raw.astype(np.float32)


def all_finite(raw: Raw, code: str) -> bool:
    """Whether a raw array of a floating dtype holds neither NaN nor infinity."""
    if code not in ("BF16", "F16"):
        return bool(np.isfinite(raw).all())
    # As integers, since numpy computes with 16-bit floats one by one: of the positive ones the
    # largest, then of the negative ones.
    infinite = 0x7F80 if code == "BF16" else 0x7C00
    largest = raw.view(np.int16).max(initial=0), raw.view(np.uint16).max(initial=0)
    return bool(largest[0] < infinite and largest[1] < 0x8000 + infinite)


def from_float32(values: NDArray[np.float32], code: str) -> Raw:
    """float32 values rounded once, to nearest with ties to even, to a floating dtype (a new array).

    As `as_float32` the other way. Beyond the dtype's range values become infinite; NaN stays NaN.
    """
    if code == "BF16":
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        rounded = (bits + (np.uint32(0x7FFF) + odd)) >> np.uint32(16)
        quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
        return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(DTYPES[code].storage)
