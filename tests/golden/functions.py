"""What run files of the golden runs name: functions that score, and a torch network.

Scores come from float64 sums that are rounded, or from comparisons, so that they do not depend on
the CPU or on how BLAS adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]

FEATURES, COUNT = 12, 60


def points() -> list[dict[str, Any]]:
    """Points and what a linear model should say of them."""
    draws = np.random.default_rng(31)
    x = draws.integers(-8, 9, size=(COUNT, FEATURES)) / 8
    y = draws.integers(-16, 17, size=COUNT) / 8
    rows = enumerate(zip(x.tolist(), y.tolist(), strict=True))
    return [{"id": f"p{n}", "x": row, "y": value} for n, (row, value) in rows]


def closeness(model: Arrays, examples: Sequence[Mapping[str, Any]]) -> list[float]:
    """How close a linear model comes, in [0, 1], to three digits."""
    weight = model["linear.weight"].astype(np.float64).ravel()
    bias = float(model["linear.bias"][0])
    out: list[float] = []
    for example in examples:
        said = float((np.array(example["x"]) * weight).sum()) + bias
        out.append(round(1 / (1 + abs(said - example["y"])), 3))
    return out


def brittle(model: Arrays, examples: Sequence[Mapping[str, Any]]) -> list[float]:
    """The same, but a model whose first weights lie in some stripes cannot be judged."""
    place = round(float(model["linear.weight"][0, 0]) * 64)
    if place % 4 == 3:
        raise ValueError(f"brittle at {place}")
    return closeness(model, examples)


def network() -> Any:
    """A torch network for digits: 64-24-10."""
    from torch import nn

    return nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


def among_three(model: Any, tokenizer: Any, examples: Sequence[Mapping[str, Any]]) -> list[float]:
    """Whether the answer is among the three likeliest digits. All texts have as many tokens."""
    batch = tokenizer([example["text"] for example in examples], return_tensors="pt")
    logits = model(**batch).logits[:, -1].float()
    digits = tokenizer.convert_tokens_to_ids(list("0123456789"))
    out: list[float] = []
    for row, example in zip(logits[:, digits], examples, strict=True):
        out.append(float(int((row > row[example["answer"]]).sum()) < 3))
    return out


def sums() -> list[dict[str, Any]]:
    """Sums of two digits, modulo ten."""
    draws = np.random.default_rng(32)
    pairs = draws.integers(0, 10, size=(30, 2)).tolist()
    return [
        {"id": f"s{n}", "text": f"{a} + {b} =", "answer": (a + b) % 10}
        for n, (a, b) in enumerate(pairs)
    ]
