"""What the public functions of core ask of their arguments, beyond shapes and ranges."""

from __future__ import annotations

import math
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genepool.errors import InputError
from genepool.messages import one_line


def numbers(values: ArrayLike, name: str) -> NDArray[Any]:
    """The values as an array of booleans, integers or floats.

    numpy by itself would read numbers from text, drop imaginary parts with a mere warning, and take
    what lies behind a mask.

    Raises:
        InputError: they are something else, or rows differ in length; names the argument.
    """
    if np.ma.is_masked(values):
        raise InputError(f"{name} must be known throughout; some are masked")
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # torch: "Can't call numpy() on ..."
        what = f"{name} must be numbers, in rows of one length"
        raise InputError(f"{what}: {one_line(error)}") from error
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} must be numbers, in rows of one length; got {array.dtype}")
    return array


def float32(values: ArrayLike, name: str) -> NDArray[np.float32]:
    """As `numbers`, in float32, whatever numpy was told to do about numbers too small for it.

    Raises:
        InputError: as `numbers`.
    """
    array = numbers(values, name)
    if array.dtype == np.float32:
        return array
    with np.errstate(under="ignore", over="ignore"):
        return array.astype(np.float32, copy=False)


def in_range(value: object, low: float, high: float = math.inf) -> bool:
    """Whether value is a finite number in low..high, both ends included."""
    # float first: asking for a protocol is slow, and plans are checked at every step.
    known = isinstance(value, (float, SupportsFloat))
    return known and math.isfinite(value) and low <= float(value) <= high


def is_whole(value: object) -> bool:
    """Whether value can be an index: an integer of Python or numpy."""
    return isinstance(value, (int, SupportsIndex))
