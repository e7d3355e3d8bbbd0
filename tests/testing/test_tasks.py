"""The shipped contract test: every promise broken in turn is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from genepool.errors import EvaluationError
from genepool.testing.tasks import check_task

Indices = NDArray[np.int64]


class Good:
    """Keeps the contract; the rest each break one promise of it."""

    samples: Any = tuple(f"s{i}" for i in range(30))
    held_out: Any = ("h0", "h1", "h2")
    digest: Any = "0123456789abcdef"
    binary: Any = False

    def score(self, model: Any, indices: Indices, *, held_out: bool = False) -> Any:
        size = len(self.held_out if held_out else self.samples)
        if indices.size and not 0 <= indices.min() <= indices.max() < size:
            raise EvaluationError("no such example")
        if np.isnan(model["w"]).any():
            raise EvaluationError("the weights hold NaN")
        return self.value(model, indices, size)

    def value(self, model: Any, indices: Indices, size: int) -> Any:
        return (indices / size).astype(np.float32)


def model() -> dict[str, Any]:
    return {"w": np.ones(3, dtype=np.float32), "steps": np.array(3)}


def test_a_good_task_passes() -> None:
    check_task(Good(), model(), reopen=Good)
    check_task(Painting(), model(), reopen=Painting)


class Listed(Good):
    samples = [f"s{i}" for i in range(30)]  # noqa: RUF012


class Numbered(Good):
    samples = tuple(range(30))


class Empty(Good):
    samples = ()


class Twice(Good):
    samples = ("a", "b", "a")


class Leaking(Good):
    held_out = ("h0", "s3")


class Short(Good):
    digest = "abc"


class Vague(Good):
    binary = 1


class Restless(Good):
    calls = 0

    @property
    def digest(self) -> str:  # pyright: ignore
        self.calls += 1
        return f"0123456789abcdef{self.calls}"


class Wide(Good):
    def value(self, model: Any, indices: Indices, size: int) -> Any:
        return indices / size


class Column(Good):
    def value(self, model: Any, indices: Indices, size: int) -> Any:
        return super().value(model, indices, size)[:, None]


class Plain(Good):
    def value(self, model: Any, indices: Indices, size: int) -> Any:
        return super().value(model, indices, size).tolist()


class OneForNone(Good):
    def value(self, model: Any, indices: Indices, size: int) -> Any:
        return super().value(model, indices if indices.size else np.zeros(1), size)


class Painting(Good):
    """Draws, and keeps the contract of that."""

    def drawn(self, model: Any, indices: Indices, *, held_out: bool = False) -> Any:
        return np.zeros((indices.size, 4, 5, 3), np.uint8)

    def captions(self, indices: Indices, *, held_out: bool = False) -> Any:
        return ["a dot"] * indices.size

    def references(self, indices: Indices, *, held_out: bool = False) -> Any:
        return None


class Grey(Painting):
    def drawn(self, model: Any, indices: Indices, *, held_out: bool = False) -> Any:
        return super().drawn(model, indices)[..., 0]


class Floating(Painting):
    def references(self, indices: Indices, *, held_out: bool = False) -> Any:
        return self.drawn({}, indices) / 255


class Unasked(Painting):
    def drawn(self, model: Any, indices: Indices, *, held_out: bool = False) -> Any:
        return super().drawn(model, indices if indices.size else np.zeros(1, np.int64))


class Wordless(Painting):
    def captions(self, indices: Indices, *, held_out: bool = False) -> Any:
        return ()


class Above(Good):
    def value(self, model: Any, indices: Indices, size: int) -> Any:
        return (indices / 10).astype(np.float32)


class Unknown(Good):
    def value(self, model: Any, indices: Indices, size: int) -> Any:
        return np.where(indices == 4, np.nan, 0.5).astype(np.float32)


class NotBinary(Good):
    binary = True


class Random(Good):
    draws = np.random.default_rng(0)

    def value(self, model: Any, indices: Indices, size: int) -> Any:
        return self.draws.random(indices.size).astype(np.float32)


class Positional(Good):
    def value(self, model: Any, indices: Indices, size: int) -> Any:
        return (np.arange(indices.size) / 100).astype(np.float32)


class Neighbourly(Good):
    def value(self, model: Any, indices: Indices, size: int) -> Any:
        mean = np.float32(0.001) * np.float32(indices.size)
        return super().value(model, indices, size) * (1 - mean)


class LastBit(Good):
    def value(self, model: Any, indices: Indices, size: int) -> Any:
        scores = super().value(model, indices, size)
        return np.nextafter(scores, np.float32(1)) if indices.size == 1 else scores


class Sorting(Good):
    def value(self, model: Any, indices: Indices, size: int) -> Any:
        indices.sort()
        return super().value(model, indices, size)


class Sharing(Good):
    kept: Any = None

    def value(self, model: Any, indices: Indices, size: int) -> Any:
        key = indices.tobytes()
        if self.kept is None or self.kept[0] != key:
            self.kept = (key, super().value(model, indices, size))
        return self.kept[1]


class Training(Good):
    def value(self, model: Any, indices: Indices, size: int) -> Any:
        model["w"] += 1
        return super().value(model, indices, size)


class Generous(Good):
    def score(self, model: Any, indices: Indices, *, held_out: bool = False) -> Any:
        size = len(self.held_out if held_out else self.samples)
        if indices.size and not 0 <= indices.min() <= indices.max() < size:
            raise EvaluationError("no such example")
        return self.value(model, indices, size)


class Crashing(Generous):
    def value(self, model: Any, indices: Indices, size: int) -> Any:
        if np.isnan(model["w"]).any():
            raise ValueError("NaN")
        return super().value(model, indices, size)


class Wrapping(Good):
    def score(self, model: Any, indices: Indices, *, held_out: bool = False) -> Any:
        size = len(self.held_out if held_out else self.samples)
        return super().score(model, indices % size, held_out=held_out)


class Verbose(Good):
    def score(self, model: Any, indices: Indices, *, held_out: bool = False) -> Any:
        try:
            return super().score(model, indices, held_out=held_out)
        except EvaluationError as error:
            raise EvaluationError(f"first\nsecond {error}") from error


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Listed, "samples must be a tuple of str; got list"),
        (Numbered, "samples must be a tuple of str"),
        (Empty, "samples is empty"),
        (Twice, "id 'a' occurs twice"),
        (Leaking, "id 's3' occurs twice"),
        (Short, "at least 16 characters; got 'abc'"),
        (Vague, "binary must be a bool"),
        (Restless, "must not change"),
        (Wide, r"expected scores float32\[30\]; got float64"),
        (Column, r"got float32\[30, 1\]"),
        (Plain, "got list"),
        (OneForNone, r"expected scores float32\[0\]; got float32\[1\]"),
        (Grey, r"drawn: expected uint8\[2, height, width, 3\]; got uint8\[2, 4, 5\]"),
        (Floating, r"references: expected uint8\[2, height, width, 3\]; got float64"),
        (Unasked, r"drawn: expected uint8\[0, height, width, 3\]; got uint8\[1, 4, 5, 3\]"),
        (Wordless, "captions: expected 2 texts; got 0"),
        (Above, r"scores must lie in \[0, 1\]"),
        (Unknown, r"scores must lie in \[0, 1\]; got \[nan"),
        (NotBinary, "binary is true, but scores such as"),
        (Random, "when asked a second time"),
        (Positional, "when asked in another order"),
        (Neighbourly, "when asked in a block"),
        (LastBit, "when asked alone|when asked in a block of 1"),
        (Sorting, r"changed the indices"),
        (Sharing, r"return a new one"),
        (Training, "scoring changed the model"),
        (Generous, "weights are all NaN was given scores"),
        (Crashing, "must end in EvaluationError; got ValueError"),
        (Wrapping, "position 30 does not exist, yet it was scored"),
        (Verbose, "must be one line"),
    ],
)
def test_a_broken_promise_is_found(task: Callable[[], Any], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_task(task(), model())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"digest": "fedcba9876543210"}, "opened again, digest differs"),
        ({"samples": tuple(f"s{i}" for i in range(29))}, "opened again, samples differs"),
        ({"value": lambda *_: np.zeros(30, dtype=np.float32)}, "gives other scores"),
    ],
)
def test_a_task_that_is_another_when_opened_again_is_found(
    changed: dict[str, Any], words: str
) -> None:
    again = Good()
    for name, value in changed.items():
        setattr(again, name, value)
    with pytest.raises(AssertionError, match=words):
        check_task(Good(), model(), reopen=lambda: again)


def test_a_model_of_another_kind_needs_a_broken_one() -> None:
    class Any_(Good):
        def score(self, model: Any, indices: Indices, *, held_out: bool = False) -> Any:
            return super().score({"w": np.array(model)}, indices, held_out=held_out)

    check_task(Any_(), 1.0, broken=float("nan"))
    with pytest.raises(AssertionError, match="give `broken`"):
        check_task(Any_(), 1.0)
