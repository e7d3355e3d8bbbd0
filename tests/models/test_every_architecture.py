"""Every causal language model that transformers builds tiny and loads is one that runs open."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import transformers
from transformers.models.auto import modeling_auto

from genepool.checkpoints.family import find_source, make_family, open_source
from genepool.core.genome import seed_recipe
from genepool.errors import CheckpointError
from genepool.models.build import ModelOptions, build_model
from genepool.tasks.agent.likelihoods import Reader

# Transformers and torch warn of their own future.
pytestmark = pytest.mark.filterwarnings("ignore")

_TF = cast("Any", transformers)
KINDS: list[str] = sorted(cast("Any", modeling_auto).MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
_MOST = 3_000_000

# Sizes that make a model tiny, wherever a configuration has such a key.
_SMALL: dict[int, str] = {
    0: "num_nextn_predict_layers pad_token_id",
    1: "encoder_layers num_encoder_layers n_shared_experts num_shared_experts n_group topk_group "
    "moe_num_shared_experts mamba_n_groups n_groups mamba_ngroups bos_token_id "
    "decoder_start_token_id",
    2: "num_hidden_layers n_layer n_layers num_layers decoder_layers num_decoder_layers "
    "num_key_value_heads num_kv_heads num_query_groups swa_num_key_value_heads top_k_experts "
    "num_experts_per_tok num_experts_per_token moe_topk moe_k index_n_heads n_mamba_heads "
    "linear_num_key_heads eos_token_id altup_num_inputs",
    3: "sep_token_id",
    4: "num_attention_heads n_head n_heads num_heads attention_heads encoder_attention_heads "
    "decoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads "
    "swa_num_attention_heads num_experts num_local_experts n_routed_experts moe_num_experts "
    "index_topk linear_num_value_heads time_step_rank mamba_dt_rank laurel_rank rotary_dim",
    5: "image_token_id image_token_index",
    6: "video_token_id",
    7: "audio_token_id",
    8: "head_dim d_head kv_channels dim_head attention_head_dim swa_head_dim attention_head_size "
    "global_head_dim q_lora_rank kv_lora_rank qk_rope_head_dim qk_nope_head_dim v_head_dim "
    "index_head_dim state_size ssm_state_size mamba_d_state mamba_n_heads mamba_num_heads "
    "mamba_d_head mamba_head_dim mamba_headdim linear_key_head_dim linear_value_head_dim "
    "sliding_window attention_window_size window_size hidden_size_per_layer_input",
    14: "patch_size",
    16: "moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size "
    "shared_intermediate_size moe_shared_expert_intermediate_size chunk_size mamba_chunk_size "
    "shared_experts_intermediate_size qk_head_dim attention_chunk_size",
    28: "image_size",
    32: "hidden_size n_embd d_model dim emb_dim embedding_size word_embed_proj_dim lru_width "
    "attention_hidden_size hidden_dim intermediate_size n_inner d_ff ffn_dim encoder_ffn_dim "
    "decoder_ffn_dim ffn_hidden_size dim_ff dff d_inner feed_forward_size intermediate_size_mlp "
    "prefix_dense_intermediate_size dense_intermediate_size",
    64: "vocab_size decoder_vocab_size vocab_size_per_layer_input unpadded_vocab_size n_positions "
    "max_position_embeddings n_ctx max_seq_len max_target_positions max_source_positions "
    "block_size context_length model_max_length mamba_d_ssm",
}
_SIZES = {key: size for size, keys in _SMALL.items() for key in keys.split()}
# What some need besides, so that the sizes agree.
_BESIDES: dict[str, dict[str, Any]] = {
    "dots3_note_text": {"num_key_value_heads": 4},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "expand": 2},
    "ministral": {"head_dim": 8},
    "roc_bert": {
        "pronunciation_vocab_size": 32,
        "shape_vocab_size": 32,
        "pronunciation_embed_dim": 8,
        "shape_embed_dim": 8,
    },
    "zamba2": {
        "layers_block_type": ["mamba", "hybrid"],
        "layer_types": ["mamba", "hybrid"],
        "hybrid_layer_ids": [1],
    },
    "zaya": {"num_experts_per_tok": 1},
}

# Those that transformers 5.23 itself does not build at such a size, or not load on its own.
NOT_BUILT = {
    "blt": "its parts have sizes that do not shrink together",
    "cohere_compass_text": "its rotary settings are for kinds of layers that its default lacks",
    "dbrx": "its nested configurations take only the keys of old files",
    "dots1": "its attention is not built from a shrunk configuration",
    "dots3_note": "it wants as many key and value heads as heads in its nested configuration",
    "emu3": "what is saved has the type of its text part, which no Auto class loads",
    "gemma3n": "its vision tower needs the package timm",
    "gemma4_assistant": "its own defaults contradict each other",
    "gemma4_unified_assistant": "its layers share caches in an order that shrinking breaks",
    "kimi_linear": "over three million parameters however it is shrunk",
    "mllama": "what is saved has the type of its text part, which no Auto class loads",
    "musicgen": "its configuration is made of three others, without which it cannot be built",
    "musicgen_melody": "as musicgen",
    "nemotron": "its head size is computed from what its default does not say",
    "phi4_multimodal": "over three million parameters however it is shrunk",
    "reformer": "its axial positions have to factor its size",
    "zamba": "the layers that share weights are not found when there are two",
}  # fmt: skip
# Those that are refused, with the word that says why.
REFUSED = {"hrm_text": "recomputes", "inkling2_text": "recomputes"}


def shrunk(values: dict[str, Any]) -> dict[str, Any]:
    """The keys of a configuration that make it tiny, nested ones too."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and "model_type" in value:
            nested = cast("dict[str, Any]", value)
            out[key] = {**shrunk(nested), "model_type": nested["model_type"]}
        elif key in _SIZES and (value is not None or key == "pad_token_id"):
            out[key] = _SIZES[key]
    return out


def write_two(directory: Path, kind: str) -> None:
    """Two models of a kind as transformers saves them; loads both, to see that it does."""
    make = _TF.CONFIG_MAPPING[kind]
    config = make(**{**shrunk(make().to_dict()), **_BESIDES.get(kind, {})})
    torch.manual_seed(0)
    model = _TF.AutoModelForCausalLM.from_config(config)
    if sum(p.numel() for p in model.parameters()) > _MOST:
        raise ValueError("it is large")
    for name in "ab":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        model.save_pretrained(directory / name)
        _TF.AutoModelForCausalLM.from_pretrained(directory / name)


def logits(model: Any) -> torch.Tensor | None:
    """What a model says of four tokens; None if it needs to be given more than tokens."""
    with torch.inference_mode():
        try:
            return model(input_ids=torch.tensor([[1, 9, 14, 20]]), use_cache=False).logits
        except Exception:
            return None


# Those whose likelihoods are others when they go on from what they have read.
GOES_ON_OTHERWISE = {
    "cpmant": "it puts tokens of its own before a text",
    "git": "with padding: it is made for captions of pictures",
    "moshi": "past its window, and so it does when it generates: it is made for speech",
}


def likelihood(model: Any, prompt: list[int], row: list[int]) -> float:
    """Of a row after a prompt: the mean over its tokens, in one pass over both."""
    said = model(input_ids=torch.tensor([prompt + row]), use_cache=False).logits[0].double()
    wanted = torch.tensor(row)[:, None]
    return float(said[len(prompt) - 1 : -1].log_softmax(-1).gather(1, wanted).mean())


def check_likelihoods(value: Any, kind: str) -> None:
    """Agents choose by likelihoods: of several prompts and endings they are those of each alone."""
    draw = np.random.default_rng(0)
    rows = [draw.integers(9, 32, n).tolist() for n in (13, 5, 21, 9)]
    ends = [
        [draw.integers(9, 32, n).tolist() for n in each]
        for each in ((3, 1, 4), (2,), (5, 1), (2, 3))
    ]
    with torch.inference_mode():
        ahead = value.model(input_ids=torch.tensor([rows[2]]), use_cache=False).logits[0, :9]
        apart = value.model(input_ids=torch.tensor([rows[2][:9]]), use_cache=False).logits[0]
        # Some look ahead (encoders), or choose what to look at: then there is no such thing.
        if not torch.allclose(ahead, apart, atol=1e-4):
            return
        try:
            value.model(input_ids=torch.tensor([rows[0]] * 2), use_cache=True)
        except Exception:
            return  # Nor does it generate, at such a size.
        reader = Reader(value)
        found = reader.likelihoods(rows, ends)
        # The conversations go on, but for one: by much and by little, and one in another way.
        grown = [
            rows[2] + [9, 10],
            rows[0][:8] + [12] * 6,
            rows[1] + draw.integers(9, 32, 14).tolist(),
        ]
        ends += [[[11, 12], [13]], [[14, 15, 16], [17, 18]], [[19], [20, 21]]]
        found += reader.likelihoods(grown, ends[4:])
        expected = [
            [likelihood(value.model, row, end) for end in each]
            for row, each in zip([*rows, *grown], ends, strict=True)
        ]
    differ = max(np.abs(np.subtract(a, b)).max() for a, b in zip(found, expected, strict=True))
    assert (differ > 1e-3) == (kind in GOES_ON_OTHERWISE), differ


# These write numbers into their configurations that JSON does not have, or are hybrids of such.
_ALWAYS = {"mamba2", "falcon_h1", "granitemoehybrid", "nemotron_h", "gemma3_text", "bloom"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=() if k in _ALWAYS else pytest.mark.slow) for k in KINDS],
)
def test_what_transformers_loads_is_opened(tmp_path: Path, kind: str) -> None:
    try:
        write_two(tmp_path, kind)
    except Exception:
        if kind not in NOT_BUILT:
            raise
        return
    assert kind not in NOT_BUILT, "take it off the list"
    sources = [find_source(name, tmp_path) for name in "ab"]
    family = make_family([open_source(source) for source in sources])
    options = ModelOptions(kind="transformers")
    if kind in REFUSED:
        with pytest.raises(CheckpointError, match=REFUSED[kind]):
            build_model(options, family.layout, family.checkpoints, tmp_path)
        return
    live = build_model(options, family.layout, family.checkpoints, tmp_path)
    writer = live.writer(family.checkpoints, family.layout)
    for number, name in enumerate("ab"):
        writer.write(seed_recipe(family.layout.axis.size, number, 2))
        alone = _TF.AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()
        expected, found = logits(alone), logits(cast("Any", live.value).model)
        assert (expected is None) == (found is None)
        if expected is not None and found is not None:
            torch.testing.assert_close(found, expected, equal_nan=True)
            if number == 1 and not found.isnan().any():
                check_likelihoods(live.value, kind)
