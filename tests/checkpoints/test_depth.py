"""Depth order of the names that real models use."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.checkpoints.depth import depth_key

FAMILIES = {
    "llama": """model.embed_tokens.weight model.layers.2.input_layernorm.weight
        model.layers.2.mlp.up_proj.weight model.layers.2.self_attn.q_proj.weight
        model.layers.2.self_attn.q_proj.bias model.layers.10.mlp.up_proj.weight
        model.norm.weight lm_head.weight""",
    "llama, original names": "tok_embeddings.weight layers.0.wo.weight norm.weight output.weight",
    "gpt2": """wpe.weight wte.weight h.0.attn.c_attn.weight h.0.attn.c_attn.bias h.0.ln_1.weight
        h.11.ln_1.weight ln_f.weight ln_f.bias""",
    "gpt_neox": """gpt_neox.embed_in.weight gpt_neox.layers.0.attention.dense.weight
        gpt_neox.final_layer_norm.weight gpt_neox.final_layer_norm.bias embed_out.weight""",
    "bert": """bert.embeddings.LayerNorm.weight bert.embeddings.word_embeddings.weight
        bert.encoder.layer.0.attention.output.dense.weight bert.encoder.layer.3.output.dense.weight
        bert.pooler.dense.weight classifier.weight classifier.bias""",
    "t5": """shared.weight encoder.block.0.a.weight encoder.block.10.a.weight
        encoder.final_layer_norm.weight decoder.block.0.a.weight decoder.final_layer_norm.weight
        lm_head.weight""",
    "vit": """cls_token pos_embed patch_embed.proj.weight blocks.0.norm1.weight
        blocks.11.norm1.weight norm.weight head.weight head.bias""",
    "unet": """conv_in.weight time_embedding.linear_1.weight
        down_blocks.0.resnets.0.time_emb_proj.weight mid_block.resnets.0.weight
        up_blocks.0.resnets.0.weight conv_norm_out.weight conv_out.weight""",
    "resnet": "bn1.weight conv1.weight layer1.0.bn1.weight layer2.0.bn1.weight fc.weight fc.bias",
    "mlp": "fc1.weight fc1.bias fc2.weight fc2.bias fc10.weight",
    "sequential": "0.weight 0.bias 2.weight 2.bias 10.weight",
    "one module": "norm1.weight norm1.bias norm1.num_batches_tracked norm1.running_mean",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_names_sort_by_depth(family: str) -> None:
    expected = FAMILIES[family].split()
    names = expected.copy()
    random.Random(0).shuffle(names)
    assert sorted(names, key=depth_key) == expected


part = st.one_of(
    st.sampled_from(
        ["layers", "weight", "bias", "lm_head", "embed", "norm", "encoder", "a1", "a01"]
    ),
    st.text(max_size=4),
    st.integers(0, 200).map(str),
)
names = st.lists(part, min_size=1, max_size=5).map(".".join)


@pytest.mark.slow
@given(st.lists(names, unique=True, max_size=20), st.randoms())
def test_the_order_is_total(items: list[str], rng: random.Random) -> None:
    ordered = sorted(items, key=depth_key)
    rng.shuffle(items)
    assert sorted(items, key=depth_key) == ordered


def test_very_long_numbers_are_compared_and_not_converted() -> None:
    low, high = "x" + "1" * 5000, "x" + "1" * 5001
    assert sorted([high, low], key=depth_key) == [low, high]
