"""The layout: order, chromosomes, split positions, and what is said of checkpoints that differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from genepool.checkpoints.files.checkpoint import Checkpoint, open_checkpoint
from genepool.checkpoints.layout import Layout, build_layout, flatten, layout_again
from genepool.checkpoints.tensor_notices import tensor_notices
from genepool.errors import CheckpointError, InputError
from tests.build import Tensors, network, opened, values


def layout_of(directory: Path, *models: Tensors) -> Layout:
    return build_layout([opened(directory / f"m{i}", model) for i, model in enumerate(models)])


def model(layers: Sequence[int], width: int = 2, vocabulary: int = 4) -> dict[str, torch.Tensor]:
    tensors = {
        "model.embed_tokens.weight": torch.zeros(vocabulary, width),
        "model.norm.weight": torch.zeros(width),
        "lm_head.weight": torch.zeros(vocabulary, width),
    }
    for layer in layers:
        tensors[f"model.layers.{layer}.attn.weight"] = torch.zeros(width, width)
        tensors[f"model.layers.{layer}.mlp.weight"] = torch.zeros(width, 3)
        tensors[f"model.layers.{layer}.mlp.bias"] = torch.zeros(3)
    return tensors


def test_slots_lie_end_to_end_in_depth_order(tmp_path: Path) -> None:
    tensors = {**model([0, 2, 10]), "model.steps": torch.arange(3), "model.none": torch.zeros(0)}
    layout = layout_of(tmp_path, tensors)
    names = [slot.name for slot in layout.slots]
    parts = ("attn.weight", "mlp.weight", "mlp.bias")
    layers = [f"model.layers.{number}.{part}" for number in (0, 2, 10) for part in parts]
    assert names == ["model.embed_tokens.weight", *layers, "model.norm.weight", "lm_head.weight"]
    assert layout.carried == ("model.none", "model.steps")
    assert layout.axis.tensors.tolist() == [0, *(slot.stop for slot in layout.slots)]
    assert layout.axis.chromosomes.tolist() == [0, layout.axis.size]
    assert layout.axis.names == ("all",)
    for slot in layout.slots:
        assert slot.stop - slot.start == torch.Size(slot.shape).numel()
        assert slot.dtype == "F32"


def test_numbered_chromosomes_are_laid_out_again(tmp_path: Path) -> None:
    """Older releases kept them in the order of their names, and not all orders can be tried."""
    checkpoint = opened(tmp_path / "m", model(range(12)))
    chromosomes = {f"layer_{i}": [f"model.layers.{i}.*"] for i in range(12)}
    layout = build_layout([checkpoint], chromosomes)
    kept = dict(sorted(chromosomes.items()))
    assert layout_again(layout.digest, [checkpoint], kept).digest == layout.digest


def test_dtypes_may_differ_and_the_first_seed_names_them(tmp_path: Path) -> None:
    models = [network(0, "BF16"), network(1, "F64"), network(2, "F16")]
    checkpoints = [opened(tmp_path / str(i), m) for i, m in enumerate(models)]
    layout = build_layout(checkpoints)
    assert {slot.dtype for slot in layout.slots} == {"BF16"}
    assert layout.digest == build_layout(checkpoints[::-1]).digest
    for checkpoint, tensors in zip(checkpoints, models, strict=True):
        assert np.array_equal(flatten(checkpoint, layout), values(tensors, layout))


def test_chromosomes_divide_the_axis(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, model([0, 1]))
    layout = build_layout(
        [checkpoint], {"attention": ["*.attn.*"], "head": ["re:lm_.*|nothing", "*.norm.weight"]}
    )
    assert layout.axis.names == ("attention", "head", "rest")
    assert [slot.name for slot in layout.slots][:5] == [
        "model.layers.0.attn.weight",
        "model.layers.1.attn.weight",
        "model.norm.weight",
        "lm_head.weight",
        "model.embed_tokens.weight",
    ]
    assert layout.axis.chromosomes.tolist() == [0, 8, 18, layout.axis.size]
    whole = build_layout([checkpoint], {"a": ["*.layers.*"], "b": ["*"]})
    assert whole.axis.names == ("a", "b")
    digests = {layout.digest, whole.digest, build_layout([checkpoint]).digest}
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("chromosomes", "message"),
    [
        ({"a": ["nothing*"]}, "'a' matches no tensor.*model.embed_tokens.weight"),
        ({"a": ["*"], "b": ["*"]}, "'b' matches no tensor, or only tensors that an earlier"),
        ({"a": ["re:("]}, "'a': 're:\\(' is not a regular expression"),
        ({"a": []}, "'a': expected a list of patterns"),
        ({"a": "*"}, "'a': expected a list of patterns"),
        ({"rest": ["*"]}, "'rest' is the name of what no pattern matches"),
    ],
)
def test_unusable_chromosomes_are_refused(
    tmp_path: Path, chromosomes: dict[str, list[str]], message: str
) -> None:
    checkpoint = opened(tmp_path, model([0]))
    with pytest.raises(InputError, match=message):
        build_layout([checkpoint], chromosomes)


def test_positions(tmp_path: Path) -> None:
    layout = layout_of(tmp_path, {**model([0]), "model.steps": torch.arange(3)})
    size = layout.axis.size
    assert layout.position(0.0) == layout.position(0) == 0
    assert layout.position(1.0) == layout.position(size) == size
    assert layout.position(1) == 1
    assert layout.position(0.5) == round(size / 2)
    for slot in layout.slots:
        assert layout.position(slot.name) == slot.start
    for split, message in [
        (size + 1, rf"position in 0\.\.{size}; got {size + 1}"),
        (-1, "got -1"),
        (1.5, r"fraction of the parameter axis in \[0, 1\]; got 1.5"),
        (float("nan"), "got nan"),
        (True, "got True"),
        ("model.layers.0.mlp.wieght", "did you mean 'model.layers.0.mlp.weight'"),
        ("zzz", "there is no tensor 'zzz'; they are called like 'model.embed"),
        ("model.steps", "carried over, not merged"),
    ]:
        with pytest.raises(InputError, match=message):
            layout.position(split)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return layout_of(tmp_path_factory.mktemp("small"), model([0, 1]))


@given(fraction=st.floats(0, 1))
def test_every_fraction_is_a_position(small: Layout, fraction: float) -> None:
    assert 0 <= small.position(fraction) <= small.axis.size


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (model([0]), r"lacks 3 tensors \('model.layers.1.attn.weight'.*of one architecture"),
        (model([0, 1, 2]), r"has besides 3 tensors \('model.layers.2.attn.weight'"),
        (
            model([0, 1], vocabulary=7),
            r"'model.embed_tokens.weight' \[7, 2\] against \[4, 2\].*vocabularies.*by 3 rows",
        ),
        (
            model([0, 1], width=3),
            r"shapes differ: .*\[4, 3\] against \[4, 2\].* more; are they",
        ),
        (
            {k.replace("model.", "net."): v for k, v in model([0, 1]).items() if k[0] == "m"}
            | {"x.head.weight": torch.zeros(2)},
            "the names differ by a prefix",
        ),
        (
            {f"base.{k}.lora_A.weight": v for k, v in model([0, 1]).items()},
            "LoRA adapter: merge it into its base model",
        ),
        (
            {k: v for k, v in model([0, 1]).items() if not k.startswith("lm_head")},
            r"lacks 1 tensor \('lm_head.weight'\).*tied weights",
        ),
        (
            {**model([0, 1]), "model.layers.0.mlp.weight": torch.zeros(3, 2)},
            "transposed or reshaped",
        ),
        (
            {**model([0, 1]), "model.layers.0.mlp.bias": torch.zeros(3, dtype=torch.int8)},
            "'model.layers.0.mlp.bias' has dtype I8 against F32.*quantised",
        ),
    ],
)
def test_checkpoints_that_differ_are_refused_with_the_likely_cause(
    tmp_path: Path, other: dict[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        layout_of(tmp_path, model([0, 1]), other)
    text = str(caught.value)
    assert str(tmp_path / "m1") in text
    assert "\n" not in text


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("name", "constant"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(4)),
        ("roberta.embeddings.position_ids", torch.arange(6)[None]),
        ("transformer.h.0.attn.bias", torch.ones(1, 1, 4, 4).tril()),
        ("h.0.attn.bias", torch.ones(1, 1, 4, 4).tril().byte()),
        ("gpt_neox.layers.0.attention.bias", torch.ones(1, 1, 4, 4).tril().bool()),
        ("transformer.h.0.attn.attention.bias", torch.ones(1, 1, 4, 4).tril().half()),
    ],
)
def test_constants_are_carried_even_if_only_one_file_has_them(
    tmp_path: Path, name: str, constant: torch.Tensor, first: bool
) -> None:
    pair = ({**model([0]), name: constant}, model([0]))
    assert layout_of(tmp_path, *(pair if first else pair[::-1])).carried == (name,) * first


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("h.0.attn.bias", torch.ones(6)),
        ("h.0.attn.bias", torch.ones(1, 1, 1, 4)),
        ("h.0.attn.relative.bias", torch.ones(1, 1, 4, 4)),
        ("embeddings.position_ids", torch.ones(1, 6)),
        ("h.0.steps", torch.arange(4)),
    ],
)
def test_what_looks_like_a_constant_is_not_left_out(
    tmp_path: Path, name: str, weight: torch.Tensor
) -> None:
    """Weights of such a name merge, and whole numbers of another are part of the architecture."""
    with pytest.raises(CheckpointError, match=name):
        layout_of(tmp_path / "lacks", {**model([0]), name: weight}, model([0]))
    layout = layout_of(tmp_path / "has", *[{**model([0]), name: weight}] * 2)
    assert (name in layout.carried) == (not weight.is_floating_point())


def test_a_model_without_floats_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no floating-point tensors"):
        layout_of(tmp_path, {"steps": torch.arange(3)})
    with pytest.raises(InputError, match="at least one checkpoint"):
        build_layout([])


@pytest.mark.parametrize(
    ("name", "ours", "theirs", "told"),
    [
        ("mask", torch.tensor([True, False]), torch.tensor([True, True]), True),
        ("l.qw", torch.ones(4, 4, dtype=torch.int8), torch.zeros(4, 4, dtype=torch.int8), True),
        ("0.rotary_emb.inv_freq", torch.tensor([1.0, 0.1]), torch.tensor([1.0, 0.2]), True),
        ("ids", torch.arange(4), torch.arange(4), False),
        ("ids", torch.arange(4), torch.arange(4, dtype=torch.int32), False),
        ("0.rotary_emb.inv_freq", torch.tensor([0.1]), torch.tensor([0.1]).half(), False),
        ("bn.num_batches_tracked", torch.tensor(3), torch.tensor(4), False),
        ("none", torch.zeros(0), torch.zeros(0), False),
    ],
)
def test_what_does_not_merge_and_differs_is_told(
    tmp_path: Path, name: str, ours: torch.Tensor, theirs: torch.Tensor, told: bool
) -> None:
    pair = [
        opened(tmp_path / str(n), {"fc.weight": torch.ones(2, 2), name: each})
        for n, each in enumerate((ours, theirs))
    ]
    notices = tensor_notices(pair, build_layout(pair))
    assert len(notices) == told
    assert all(f"other values of '{name}'" in notice for notice in notices)


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        ("float32", "float32", None),
        ("float32", "bfloat16", None),
        ("bfloat16", "float32", "'b.weight' in F32, which is finer than the BF16 of"),
        ("bfloat16", "float16", "'b.weight' in F16, which is finer than the BF16 of"),
        ("float16", "bfloat16", None),
        ("float32", "float64", "in F64, which are rounded to float32"),
    ],
)
def test_rounding_is_told(tmp_path: Path, ours: str, theirs: str, told: str | None) -> None:
    pair = [
        opened(tmp_path / str(n), {"b.weight": torch.ones(2, 2).to(dtype)})
        for n, dtype in enumerate((getattr(torch, ours), getattr(torch, theirs)))
    ]
    notices = tensor_notices(pair, build_layout(pair))
    assert any(told in notice for notice in notices) if told else notices == []


@pytest.mark.parametrize("formats", [("pt", "tf"), ("mlx", None), (None, "odd\nname")])
def test_files_of_other_libraries_are_told(
    tmp_path: Path, formats: tuple[str | None, str | None]
) -> None:
    pair: list[Checkpoint] = []
    for n, name in enumerate(formats):
        metadata = None if name is None else {"format": name}
        save_file({"w": torch.ones(2, 2)}, tmp_path / f"{n}.safetensors", metadata=metadata)
        pair.append(open_checkpoint(tmp_path / f"{n}.safetensors"))
    (notice,) = tensor_notices(pair, build_layout(pair))
    assert "may order the values of a tensor otherwise" in notice and "\n" not in notice
    assert tensor_notices([pair[0], pair[0]], build_layout([pair[0], pair[0]])) == []
