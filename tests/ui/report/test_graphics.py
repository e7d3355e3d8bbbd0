"""Curves as steps over whole children, and layers by their parts."""

from __future__ import annotations

import re

import pytest

from genepool.ui.report.graphics import Line, chart
from genepool.ui.report.report import place


def test_a_value_holds_until_the_child_that_changes_it() -> None:
    drawn = chart("Score", [0, 1, 2, 4], [Line("a", [0.5, 0.5, 1.0, 1.0], "best")], percent=True)
    (line,) = drawn.lines
    assert (line.last, line.dot) == ("100.0 %", False)
    assert line.d == "M0 300.0H500.0V0.0H1000"
    assert drawn.heard == "Score, over 4 children. In the end a: 100.0 %."


def test_a_value_can_fall_too() -> None:
    """A champion's held-out score does, and with subsets the best score."""
    drawn = chart("Score", [0, 1, 2], [Line("a", [1.0, 0.5, 0.75], "best")], percent=True)
    assert drawn.lines[0].d == "M0 0.0H500.0V300.0H1000.0V150.0H1000"


def test_what_is_known_of_the_last_child_alone_is_a_point() -> None:
    """Where held-out scores are not tracked, seeds and the last champion have one."""
    lines = [
        Line("all", [0.0, 0.25, 0.5], "best"),
        Line("held", [0.25, None, 0.5], "held"),
        Line("never", [None, None, None], "held"),
        Line("level", [0.5], "level"),
    ]
    drawn = chart("Score", [0, 5, 10], lines, percent=True)
    assert [line.dot for line in drawn.lines] == [False, True, False, False]
    assert drawn.lines[1].d == "M1000.0 0.0h.01"
    assert (drawn.lines[2].last, drawn.lines[2].d) == ("not measured", "")
    assert drawn.lines[3].d == "M0 0.0H1000"


@pytest.mark.parametrize("end", [0, 1, 2, 3, 5, 7, 13, 99, 1000, 1001, 123_456, 10**9])
def test_children_are_counted_in_whole_numbers(end: int) -> None:
    at = [0, end] if end else [0]
    drawn = chart("Score", at, [Line("a", [0.5] * len(at), "best")], percent=True)
    words = [word for _, word in drawn.children]
    assert all(re.fullmatch(r"[\d,]+", word) for word in words)
    assert (words[0], words[-1]) == ("0", f"{max(end, 1):,}")
    assert 2 <= len(words) <= 7
    places = [float(place) for place, _ in drawn.children]
    assert places == sorted(set(places))


@pytest.mark.parametrize(
    ("tensor", "layer", "part"),
    [
        ("model.layers.12.self_attn.q_proj.weight", "model.layers.12", "attention"),
        ("model.layers.12.mlp.experts.3.up_proj.weight", "model.layers.12", "MLP"),
        ("model.layers.12.input_layernorm.weight", "model.layers.12", "other"),
        ("transformer.h.0.attn.c_attn.weight", "transformer.h.0", "attention"),
        ("transformer.wte.weight", "transformer.wte.weight", "embeddings"),
        ("model.embed_tokens.weight", "model.embed_tokens.weight", "embeddings"),
        ("lm_head.weight", "lm_head.weight", "embeddings"),
        ("encoder.layer.3.intermediate.dense.bias", "encoder.layer.3", "MLP"),
        ("0.weight", "0", "other"),
        ("hidden.bias", "hidden.bias", "other"),
    ],
)
def test_a_tensor_belongs_to_a_part_of_a_layer(tensor: str, layer: str, part: str) -> None:
    assert place(tensor) == (layer, part)
