"""Prefixes by which the tensor names of two checkpoints differ."""

from __future__ import annotations

import numpy as np
import pytest

from genepool.checkpoints.files.safetensors import Tensor
from genepool.checkpoints.naming import renaming, under_another_prefix


def tensors(*names: str, size: int = 2) -> dict[str, Tensor]:
    return {name: Tensor(name, "F32", (size,), np.zeros(size, np.float32)) for name in names}


LANGUAGE = tensors("model.embed.weight", "model.layers.0.weight", "model.layers.1.weight")
VISION = tensors(
    "vision.layers.0.weight",
    "vision.layers.1.weight",
    *(f"text.{name}" for name in LANGUAGE),
)
BARE = tensors("embed.weight", "layers.0.weight", "layers.1.weight")


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (LANGUAGE, VISION, ({"text.": ""}, 3)),
        (VISION, LANGUAGE, ({"": "text."}, 3)),
        (LANGUAGE, BARE, ({"": "model."}, 3)),
        (BARE, LANGUAGE, ({"model.": ""}, 3)),
        (
            LANGUAGE,
            tensors(*(n.replace("model.", "gpt.") for n in LANGUAGE)),
            ({"gpt.": "model."}, 3),
        ),
        (LANGUAGE, LANGUAGE, None),
        (LANGUAGE, tensors(*BARE, size=3), None),
        (LANGUAGE, tensors("a.weight", "b.weight", "c.weight"), None),
        (LANGUAGE, {}, None),
        ({}, LANGUAGE, None),
    ],
)
def test_the_prefix_that_fits_most(
    ours: dict[str, Tensor],
    theirs: dict[str, Tensor],
    expected: tuple[dict[str, str], int] | None,
) -> None:
    assert renaming(ours, theirs) == expected


@pytest.mark.parametrize(
    ("wanted", "held", "expected"),
    [
        (["a.layers.0.q.weight"], ["b.c.layers.0.q.weight"], ["b.c.layers.0.q.weight"]),
        (["a.layers.0.q.weight"], ["layers.0.q.weight"], ["layers.0.q.weight"]),
        (["layers.0.q.weight"], ["b.layers.0.q.weight"], ["b.layers.0.q.weight"]),
        # Another layer, or another module, is no other prefix.
        (["a.layers.1.q.weight"], ["b.layers.0.q.weight"], []),
        (["a.layers.0.k.weight"], ["b.layers.0.q.weight"], []),
        (["a.0.q.weight"], ["b.1.q.weight"], []),
        # Two fit.
        (["a.layers.0.q.weight"], ["b.layers.0.q.weight", "c.layers.0.q.weight"], []),
        # Two fit one of the names, one fits all.
        (
            ["a.layers.0.q.weight", "a.layers.1.q.weight"],
            ["b.layers.0.q.weight", "c.layers.0.q.weight", "c.layers.1.q.weight"],
            ["c.layers.0.q.weight", "c.layers.1.q.weight"],
        ),
        # No single prefix fits both.
        (
            ["a.layers.0.q.weight", "a.layers.1.q.weight"],
            ["b.layers.0.q.weight", "c.layers.1.q.weight"],
            [],
        ),
        (["a.weight"], ["b.weight"], []),
        (["a.q.weight"], ["b.q.weight"], []),
        ([], ["b.layers.0.q.weight"], []),
    ],
)
def test_names_under_another_prefix(
    wanted: list[str], held: list[str], expected: list[str]
) -> None:
    assert list(under_another_prefix(wanted, held).values()) == expected
