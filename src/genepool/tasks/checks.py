"""What every evaluator checks: scores, positions, ids; and how content is digested."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from genepool.core.checks import float32
from genepool.errors import ConfigError, EvaluationError
from genepool.messages import cause, one_line, pass_on, shown


def checked_scores(
    raw: object, n: int, *, ids: Sequence[str] | None = None, binary: bool = False
) -> NDArray[np.float32]:
    """What an evaluator returned, if it is a list of scores.

    Args:
        raw: numbers or booleans, anything that numpy takes as one dimension of length n.
        n: how many examples were asked.
        ids: of the examples asked, for messages.
        binary: whether every score must be 0 or 1.

    Returns:
        float32[n], a new array, in [0, 1].

    Raises:
        EvaluationError: anything else; the message names the first example that offends. Nothing
            is clipped, filled in or guessed.
    """
    hidden = _masked(raw)
    if hidden is not None:
        raise EvaluationError(
            f"the score of {_example(hidden, ids)} is masked, so that it is not known; a score is "
            "never filled in: return a number for every example, or raise an error"
        )
    try:
        given = np.asarray(raw)
    except BaseException as error:
        pass_on(error)
        raise EvaluationError(
            f"expected {n} scores; got {type(raw).__name__}, which is not a list of numbers: "
            f"{cause(error)}"
        ) from error
    if given.shape != (n,):
        raise EvaluationError(
            f"expected {n} scores, one per example; got {type(raw).__name__} of shape {given.shape}"
        )
    if n == 0:
        return np.empty(0, dtype=np.float32)
    if given.dtype.kind not in "biuf":
        # Of a list the items themselves: numpy turns [0.5, "1"] into text throughout.
        own = cast("Sequence[object]", raw) if isinstance(raw, (list, tuple)) else None
        items = given.tolist() if own is None else own
        wrong = next((i for i, item in enumerate(items) if not isinstance(item, Real)), 0)
        raise EvaluationError(
            f"the score of {_example(wrong, ids)} is not a number: {shown(items[wrong])}"
        )
    values = given.astype(np.float64)
    fine = (values >= 0) & (values <= 1)  # false for NaN
    if binary:
        fine &= (values == 0) | (values == 1)
    if not fine.all():
        wrong = int(np.argmin(fine))
        expected = "0 or 1 (the task is declared binary)" if binary else "a number from 0 to 1"
        raise EvaluationError(
            f"the score of {_example(wrong, ids)} is {values[wrong]:.9g}; expected {expected}"
        )
    # Adding 0 turns -0.0 into 0.0, so that equal scores have equal bytes.
    return float32(values, "scores") + np.float32(0)


def checked_indices(indices: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """`indices` as contiguous int64[n], if each of them lies in 0..size-1.

    Raises:
        EvaluationError: they are not integers, not of one dimension, or out of range.
    """
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise EvaluationError(
            f"expected a list of example positions (int64[n]); got {indices.dtype} of shape "
            f"{indices.shape}"
        )
    if indices.size and not (indices.min() >= 0 and indices.max() < size):
        raise EvaluationError(
            f"example positions must lie in 0..{size - 1}; got {indices.min()} to {indices.max()}"
        )
    return np.ascontiguousarray(indices, dtype=np.int64)


def require_unique(ids: Sequence[str], what: str) -> None:
    """Refuse a set of examples in which two have the same id.

    Raises:
        ConfigError: naming the id and the positions of the two.
    """
    first: dict[str, int] = {}
    for position, name in enumerate(ids):
        if name in first:
            raise ConfigError(
                f"{what}: examples {first[name]} and {position} have the same id "
                f"'{one_line(name)}' (counting from 0); every example must occur once"
            )
        first[name] = position


def content_digest(parts: Iterable[str | bytes | NDArray[np.generic]]) -> str:
    """Hex digest, 32 characters, of a sequence of parts, each hashed with its kind and length."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            array = cast("NDArray[Any]", part)
            little = array.dtype.str.replace(">", "<")
            total.update(f"a{little}{array.shape};".encode())
            total.update(array.astype(little, copy=False).tobytes())
        else:
            data = part.encode() if isinstance(part, str) else part
            total.update(f"{'s' if isinstance(part, str) else 'b'}{len(data)};".encode())
            total.update(data)
    return total.hexdigest()


def _masked(raw: object) -> int | None:
    """Position of the first score that numpy.ma hides; None if it hides none."""
    if isinstance(raw, (list, tuple)):
        items = cast("Sequence[object]", raw)
        return next((at for at, item in enumerate(items) if np.ma.is_masked(item)), None)
    if np.ma.is_masked(raw):
        return int(np.flatnonzero(np.ma.getmaskarray(cast("NDArray[Any]", raw)))[0])
    return None


def _example(position: int, ids: Sequence[str] | None) -> str:
    return f"example {position}" if ids is None else f"example '{one_line(ids[position])}'"
