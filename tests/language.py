"""Tiny language models from configurations, with tokenizers, as transformers saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

WORDS = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(45))]


def llama(seed: int = 0, **changes: Any) -> Any:
    """A Llama of about 13,000 parameters; `changes` go to its configuration."""
    settings: dict[str, Any] = {
        "vocab_size": len(WORDS),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        **changes,
    }
    return build(transformers.LlamaForCausalLM, transformers.LlamaConfig(**settings), seed)


def build(model: Any, config: Any, seed: int) -> Any:
    """A model with weights drawn from `seed`, large enough that models differ visibly."""
    torch.manual_seed(seed)
    made = model(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    return made


def save(model: Any, directory: Path, words: list[str] | None = None, **options: Any) -> Path:
    """Save a model with a word-level tokenizer; `words=[]` leaves the tokenizer out."""
    model.save_pretrained(directory, **options)
    given = WORDS if words is None else words
    if given:
        save_tokenizer(directory, given)
    return directory


def save_tokenizer(directory: Path, words: list[str]) -> None:
    """A word-level tokenizer whose ids are the places in `words`."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "unk_token": "<unk>",
                "bos_token": "<s>",
                "eos_token": "</s>",
            }
        )
    )


def logits(directory: Path, **options: Any) -> torch.Tensor:
    """What a saved model says of some fixed tokens, float32[1, 8, vocabulary]."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, **options
    )
    with torch.no_grad():
        return model(torch.arange(3, 11)[None]).logits
