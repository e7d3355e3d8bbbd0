"""Tiny language models of many architectures, with a tokenizer that pads and a few words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
WORDS = [*_SPECIAL, *"0123456789", *"+-=?", *"abcdefghijklmnopqrstuvwxyz", "yes", "no"]
SIZE = len(WORDS)


def write_tokenizer(directory: Path, template: str | None = None) -> None:
    """One token a word, words apart by spaces."""
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    )
    if template is not None:
        fast.chat_template = template
    fast.save_pretrained(str(directory))


def tiny_config(kind: str = "llama", **changes: Any) -> Any:
    """A config of a tiny model of that family."""
    llama: dict[str, Any] = {
        "vocab_size": SIZE,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if kind == "llama":
        return transformers.LlamaConfig(**{"tie_word_embeddings": True, **llama, **changes})
    if kind == "qwen2":
        return transformers.Qwen2Config(**{"tie_word_embeddings": True, **llama, **changes})
    if kind == "gemma":
        return transformers.GemmaConfig(head_dim=8, **{**llama, **changes})
    if kind == "gemma3_text":
        return transformers.Gemma3TextConfig(head_dim=8, **{**llama, **changes})
    if kind == "mixtral":
        return transformers.MixtralConfig(num_local_experts=4, **{**llama, **changes})
    if kind == "qwen2_moe":
        experts = {"num_experts": 4, "moe_intermediate_size": 8}
        return transformers.Qwen2MoeConfig(
            shared_expert_intermediate_size=8, **experts, **{**llama, **changes}
        )
    if kind == "gpt_neox":
        return transformers.GPTNeoXConfig(**{**llama, **changes})
    if kind == "mamba":
        return transformers.MambaConfig(
            vocab_size=SIZE, hidden_size=16, state_size=4, num_hidden_layers=2,
            bos_token_id=1, eos_token_id=2, pad_token_id=0, **changes,
        )  # fmt: skip
    if kind == "gpt2":
        return transformers.GPT2Config(
            vocab_size=SIZE, n_embd=16, n_layer=2, n_head=2, n_positions=64,
            bos_token_id=1, eos_token_id=2, **changes,
        )  # fmt: skip
    if kind == "llava":
        vision = transformers.CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        )
        return transformers.LlavaConfig(
            vision_config=vision, text_config=tiny_config(), image_token_index=3, **changes
        )
    raise ValueError(kind)


def write_lm(
    directory: Path,
    seed: int = 0,
    kind: str = "llama",
    dtype: str = "float32",
    tokenizer: bool = True,
    template: str | None = None,
    shard: str = "5GB",
    **changes: Any,
) -> Path:
    """A checkpoint directory as transformers saves it, with random weights of some size."""
    torch.manual_seed(seed)
    auto: Any = (
        transformers.AutoModelForImageTextToText
        if kind == "llava"
        else transformers.AutoModelForCausalLM
    )
    model = auto.from_config(tiny_config(kind, **changes), dtype=getattr(torch, dtype))
    with torch.no_grad():
        # Wider than the usual beginning, so that two models say different things.
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(str(directory), max_shard_size=shard)
    if tokenizer:
        write_tokenizer(directory, template)
    return directory


def rewrite_config(directory: Path, **changes: Any) -> None:
    """Change keys of a config.json; None takes the key away."""
    file = directory / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
