"""Decoders of several families, as transformers saves them: opened, laid out, merged, loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.checkpoints.layout import build_layout, flatten
from genepool.core.slerp import merge_vectors
from genepool.output.by_hand import merge
from tests import language

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

# More than ten layers and experts, so that natural order differs from that of the alphabet.
_SIZES: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 11,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 1}
_GPT2 = {"vocab_size": 48, "n_embd": 16, "n_layer": 11, "n_head": 2, "n_positions": 32}
_MOE = {**_GROUPED, "num_hidden_layers": 2, "num_local_experts": 11}

# Model, configuration, dtype, size of shards, first and last names on the axis.
FAMILIES: dict[str, tuple[str, str, dict[str, Any], str, str, list[str], list[str]]] = {
    "llama": (
        *("LlamaForCausalLM", "LlamaConfig", {**_GROUPED, "tie_word_embeddings": False}),
        *("float32", "20KB", ["model.embed_tokens.weight"]),
        ["model.norm.weight", "lm_head.weight"],
    ),
    "llama, tied": (
        *("LlamaForCausalLM", "LlamaConfig", {**_GROUPED, "tie_word_embeddings": True}),
        *("bfloat16", "5GB", ["model.embed_tokens.weight"], ["model.norm.weight"]),
    ),
    "qwen2": (
        *("Qwen2ForCausalLM", "Qwen2Config", {**_GROUPED, "tie_word_embeddings": False}),
        *("bfloat16", "10KB", ["model.embed_tokens.weight"]),
        ["model.norm.weight", "lm_head.weight"],
    ),
    "gemma": (
        *("GemmaForCausalLM", "GemmaConfig", {**_GROUPED, "head_dim": 8}, "bfloat16", "5GB"),
        *(["model.embed_tokens.weight"], ["model.norm.weight"]),
    ),
    "gpt-neox": (
        *("GPTNeoXForCausalLM", "GPTNeoXConfig", _SIZES, "float16", "20KB"),
        ["gpt_neox.embed_in.weight"],
        [
            "gpt_neox.final_layer_norm.weight",
            "gpt_neox.final_layer_norm.bias",
            "embed_out.weight",
        ],
    ),
    "gpt2": (
        *("GPT2LMHeadModel", "GPT2Config", _GPT2, "float32", "5GB"),
        ["transformer.wpe.weight", "transformer.wte.weight"],
        ["transformer.ln_f.weight", "transformer.ln_f.bias"],
    ),
    "mixtral": (
        *("MixtralForCausalLM", "MixtralConfig", _MOE, "float16", "30KB"),
        *(["model.embed_tokens.weight"], ["model.norm.weight", "lm_head.weight"]),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family(tmp_path: Path, family: str) -> None:
    model, config, settings, dtype, shards, first, last = FAMILIES[family]
    for number in range(2):
        made = language.build(
            getattr(transformers, model), getattr(transformers, config)(**settings), number
        )
        made.to(getattr(torch, dtype))
        language.save(made, tmp_path / str(number), max_shard_size=shards)
    sharded = (tmp_path / "0/model.safetensors.index.json").exists()
    assert sharded == (shards != "5GB")
    seeds = [open_checkpoint(tmp_path / str(number)) for number in range(2)]
    layout = build_layout(seeds)
    names = [slot.name for slot in layout.slots]
    assert set(names) == set(seeds[0].tensors)
    assert names[: len(first)] == first
    assert names[-len(last) :] == last
    # Layers, and experts within a layer's block, count upwards.
    numbers = [[int(n) for n in re.findall(r"\.(\d+)\.", name)] for name in names]
    body = [entry for entry in numbers if entry]
    assert len(body) == len(names) - len(first) - len(last)
    assert [entry[0] for entry in body] == sorted(entry[0] for entry in body)
    experts = [entry for entry in body if len(entry) == 2]
    assert experts == sorted(experts)
    assert (family == "mixtral") == bool(experts)

    done = merge(*(tmp_path / str(n) for n in range(2)), tmp_path / "out", ratio=0.4)
    assert done.details["notices"] == []
    a, b = (flatten(seed, layout).astype(np.float64) for seed in seeds)
    expected = merge_vectors(a, b, 0.4, layout.axis.size)
    step = {"float32": 2**-19, "float16": 2**-10, "bfloat16": 2**-7}[dtype]
    found = flatten(open_checkpoint(done.directory), layout)
    np.testing.assert_allclose(found, expected, rtol=step, atol=1e-7 + step * 0.01)
    # It loads from the directory alone, into the dtype of the seeds, with nothing left over.
    loaded, info = getattr(transformers, model).from_pretrained(
        done.directory, output_loading_info=True, dtype="auto"
    )
    assert loaded.dtype == getattr(torch, dtype)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert transformers.AutoTokenizer.from_pretrained(done.directory).decode([5]) == "w2"
    merge(*(tmp_path / str(n) for n in range(2)), tmp_path / "same", ratio=0.0)
    assert torch.equal(language.logits(tmp_path / "same"), language.logits(tmp_path / "0"))
    assert not torch.equal(language.logits(done.directory), language.logits(tmp_path / "0"))
