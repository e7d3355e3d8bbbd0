"""ReLU MLPs given as plain arrays: which examples of a fixed set get their label right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.checkpoints.depth import depth_key
from genepool.core.early_stop.lossless import Rule
from genepool.errors import EvaluationError
from genepool.messages import one_line, some
from genepool.tasks.classifier import mlp_kernels as kernels

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
ArrayModel = Mapping[str, NDArray[Any]]

# Below this share of non-zero inputs leaving out the zeros is faster (measured: equal at 0.66).
_SPARSE_BELOW = 0.6


@dataclass(frozen=True, eq=False, slots=True)
class _Bound:
    """A model whose arrays have been checked.

    Attributes:
        arrays: (name, array) for all of them: the addresses below hold while these are in place.
        layers: names of the layers.
        widths: int64[L+1].
        addresses: int64[L, 2].
    """

    arrays: tuple[tuple[str, NDArray[Any]], ...]
    layers: tuple[str, ...]
    widths: Int64
    addresses: Int64

    def holds(self, model: ArrayModel) -> bool:
        """Whether `model` still has the arrays that were checked."""
        return len(model) == len(self.arrays) and all(
            model.get(name) is array for name, array in self.arrays
        )


@dataclass(frozen=True, eq=False, slots=True)
class _Room:
    """Working memory for models of one shape; see `kernels.score_rows`."""

    widths: Int64
    padded: Int64
    pack: Float32
    work: Float32


class Mlp:
    """Forward passes over one fixed set of examples; not for several threads at once.

    A model is a mapping of `<layer>.weight` float32[in, out] and `<layer>.bias` float32[out], with
    ReLU between the layers, which come in depth order of their names.

    Measured on one core (64-256-10, digits): 0.31 microseconds per example and 6 per call.
    """

    def __init__(self, inputs: Float32, labels: Int64, ids: Sequence[str]) -> None:
        """Prepare.

        Args:
            inputs: float32[X, features], finite.
            labels: int64[X], at least 0.
            ids: X names, for messages.
        """
        self._ids = ids
        self._features = inputs.shape[1]
        present = inputs != 0
        starts, columns = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32)
        values, dense = np.empty(0, dtype=np.float32), np.empty((0, self._features), np.float32)
        if present.mean() < _SPARSE_BELOW:
            starts = np.concatenate([[0], np.cumsum(present.sum(axis=1, dtype=np.int64))])
            columns = np.nonzero(present)[1].astype(np.int32)
            values = inputs[present]
        else:
            dense = np.array(inputs, dtype=np.float32, order="C")
        self._labels = np.array(labels, dtype=np.int64)
        self._data = starts, columns, values, dense, self._labels
        self._bound: _Bound | None = None
        self._room: _Room | None = None
        self._order = np.empty(0, dtype=np.int64)

    def correct(self, model: ArrayModel, rows: Int64, first: int, last: int) -> Float32:
        """Score a model: 1 where the first largest logit is the label's, else 0.

        Args:
            model: the model.
            rows: int64[n], examples counted from `first`.
            first: the first example that may be asked for.
            last: the first after it that may not.

        Returns:
            float32[n].

        Raises:
            EvaluationError: the model is no such MLP or does not fit the examples, weights are not
                finite, a logit is NaN, or a row is out of range.
        """
        bound = self._bind(model)
        room = self._prepare(bound)
        # Compiled code is chosen by the type of an array: read-only or strided is another type.
        rows = np.ascontiguousarray(rows, dtype=np.int64)
        if not rows.flags.writeable:
            rows = rows.copy()
        out = np.empty(rows.size, dtype=np.float32)
        status, position = kernels.score_rows(
            *(bound.addresses, room.widths, room.padded, self._data),
            *(rows, first, last, room.pack, room.work, out),
        )
        if status == kernels.OK:
            return out
        if status == kernels.BAD_ROW:
            raise EvaluationError(
                f"example positions must lie in 0..{last - first - 1}; got {int(rows[position])}"
            )
        raise self._fault(status, bound, position, first + rows)

    def settle(self, model: ArrayModel, rule: Rule) -> Float32:
        """Score one model on the first examples as far as a rule asks.

        Args:
            model: the model.
            rule: over the first N examples.

        Returns:
            float32[N], NaN where the rule did not lead to.

        Raises:
            EvaluationError: as `correct`.
        """
        bound = self._bind(model)
        room = self._prepare(bound)
        size = rule.worth.size
        if self._order.size != size:
            self._order = np.empty(size, dtype=np.int64)
        out = np.empty(size, dtype=np.float32)
        status, position = kernels.settle(
            *(bound.addresses, room.widths, room.padded, self._data),
            *(rule.worth, rule.swing, rule.totals.copy(), rule.margin, rule.eager),
            *(rule.smallest, rule.largest, rule.grain),
            *(room.pack, room.work, self._order, out),
        )
        if status == kernels.OK:
            return out
        raise self._fault(status, bound, position, self._order)

    def _fault(self, status: int, bound: _Bound, position: int, rows: Int64) -> EvaluationError:
        if status == kernels.BAD_WEIGHTS:
            return EvaluationError(
                f"layer '{one_line(bound.layers[position])}' of the model holds NaN or "
                "infinity, so it cannot be scored"
            )
        example = self._ids[int(rows[position])]
        return EvaluationError(
            f"the model's logits for example '{one_line(example)}' hold NaN (its weights are "
            "finite: the sums overflow)"
        )

    def _bind(self, model: ArrayModel) -> _Bound:
        if self._bound is not None and self._bound.holds(model):
            return self._bound
        layers, widths, arrays = _layers(model, self._features)
        largest = int(self._labels.max())
        if largest >= widths[-1]:
            raise EvaluationError(
                f"the model has {widths[-1]} outputs, but label {largest} occurs in the data; "
                f"expected at least {largest + 1} outputs"
            )
        addresses = np.array(
            [[weight.ctypes.data, bias.ctypes.data] for weight, bias in arrays], dtype=np.int64
        )
        named = tuple(model.items())
        self._bound = _Bound(named, layers, np.array(widths, np.int64), addresses)
        return self._bound

    def _prepare(self, bound: _Bound) -> _Room:
        room, widths = self._room, bound.widths
        if room is None or (room.widths is not widths and not np.array_equal(room.widths, widths)):
            room = self._room = _room(widths)
        return room


def _layers(
    model: ArrayModel, features: int
) -> tuple[tuple[str, ...], list[int], list[tuple[NDArray[Any], NDArray[Any]]]]:
    names = sorted(
        (name.removesuffix(".weight") for name in model if name.endswith(".weight")), key=depth_key
    )
    expected = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    if not names or expected != set(model):
        missing, extra = sorted(expected - set(model)), sorted(set(model) - expected)
        found = f"it lacks {some(missing)}" if missing else f"it has {some(extra)}"
        raise EvaluationError(
            "the model is not a plain MLP: expected '<layer>.weight' and '<layer>.bias' for every "
            f"layer and nothing else; {found}; for other models name a 'network'"
        )
    widths = [features]
    arrays: list[tuple[NDArray[Any], NDArray[Any]]] = []
    for name in names:
        weight, bias = model[f"{name}.weight"], model[f"{name}.bias"]
        for part, array, shape in (("weight", weight, (widths[-1], -1)), ("bias", bias, (-1,))):
            if array.dtype != np.float32 or not array.flags.c_contiguous:
                raise EvaluationError(
                    f"'{one_line(name)}.{part}': expected a contiguous float32 array; "
                    f"got {array.dtype}"
                )
            if array.ndim != len(shape):
                raise EvaluationError(
                    f"'{one_line(name)}.{part}': expected {len(shape)} dimensions; "
                    f"got shape {array.shape}"
                )
        if weight.shape[0] != widths[-1] or weight.shape[1] < 1 or bias.shape != weight.shape[1:]:
            order = ", ".join(one_line(layer) for layer in names)
            raise EvaluationError(
                f"layer '{one_line(name)}' has weight {weight.shape} and bias {bias.shape}; "
                f"expected (in, out) with in = {widths[-1]} and out biases, the layers being "
                f"in the order {order} on {features} features; torch stores (out, in): for such "
                "models name a 'network'"
            )
        widths.append(int(weight.shape[1]))
        arrays.append((weight, bias))
    return tuple(names), widths, arrays


def _room(widths: Int64) -> _Room:
    lanes = kernels.LANES
    padded = -(-widths // lanes) * lanes
    padded[0] = widths[0]
    packed = int(((widths[:-1] + 1) * padded[1:]).sum())
    working = kernels.BLOCK * int(widths[0] + 2 * padded[1:].max())
    return _Room(widths, padded, _aligned(packed), _aligned(working))


def _aligned(size: int) -> Float32:
    """float32[size] at the start of a cache line: loads that straddle two cost twice."""
    room = np.empty(size + 16, dtype=np.float32)
    start = -room.ctypes.data % 64 // 4
    return room[start : start + size]
