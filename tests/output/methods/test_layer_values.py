"""Values for tensors, along the layers and by parts of their names."""

from __future__ import annotations

import pytest

from genepool.errors import InputError
from genepool.output.methods.layer_values import Values, along_layers

NAMES = [
    "model.embed_tokens.weight",
    *(f"model.layers.{n}.{part}.weight" for n in range(5) for part in ("self_attn.q", "mlp.up")),
    "model.norm.weight",
    "lm_head.weight",
]


def along(values: dict[str, Values], names: list[str] = NAMES) -> dict[str, float]:
    return dict(zip(names, along_layers(names, values), strict=True))


def test_values_are_joined_by_straight_lines_from_the_first_layer_to_the_last() -> None:
    found = along({"": [0, 0.5, 1]})
    assert [found[f"model.layers.{n}.mlp.up.weight"] for n in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    # As mergekit has it: what is before the layers gets the first value, what is behind the last.
    assert found["model.embed_tokens.weight"] == 0
    assert found["model.norm.weight"] == found["lm_head.weight"] == 1
    uneven = along({"": [1, 0, 0.5, 0.2]})
    got = [uneven[f"model.layers.{n}.mlp.up.weight"] for n in range(5)]
    assert got == pytest.approx([1, 0.25, 0.25, 0.425, 0.2])


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("transformer.wpe.weight", 0), ("embeddings.LayerNorm.bias", 0), ("score.weight", 1),
        ("transformer.ln_f.bias", 1), ("decoder.final_layer_norm.weight", 1),
        ("unet.conv_in.weight", 0), ("unet.time_embedding.linear_1.weight", 0),
        ("unet.conv_norm_out.weight", 1), ("unet.conv_out.bias", 1),
    ],
)  # fmt: skip
def test_outside_of_layers(name: str, depth: float) -> None:
    names = [name, "h.0.weight", "h.3.weight"]
    assert along({"": [0.25, 0.75]}, names)[name] == 0.25 + 0.5 * depth


def test_the_first_text_that_a_name_contains_decides() -> None:
    found = along({"self_attn": [0, 1], "layers.4.": 0.3, "": 0.7})
    assert found["model.layers.4.self_attn.q.weight"] == 1
    assert found["model.layers.4.mlp.up.weight"] == 0.3
    assert found["model.layers.2.self_attn.q.weight"] == 0.5
    assert found["model.layers.2.mlp.up.weight"] == found["lm_head.weight"] == 0.7


def test_every_stack_has_layers_of_its_own() -> None:
    names = ["encoder.block.0.w", "encoder.block.1.w", "encoder.block.2.w", "decoder.h.0.w"]
    assert list(along({"": [0.2, 0.6]}, names).values()) == pytest.approx([0.2, 0.4, 0.6, 0.6])
    experts = ["h.0.experts.7.w", "h.1.experts.0.w", "h.2.experts.3.w"]
    assert list(along({"": [0, 1]}, experts).values()) == [0, 0.5, 1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mlp": 0.5}, "no value for 'model.embed_tokens.weight'"),
        ({"": 0.5, "mlp": 0.3}, "no tensor's value comes from 'mlp'"),
        ({"attention": 0.5, "": 0.3}, "no tensor's value comes from 'attention'"),
        ({"": []}, "one value or more"),
    ],
)
def test_values_that_do_not_fit(values: dict[str, Values], message: str) -> None:
    with pytest.raises(InputError, match=message):
        along(values)
