"""Puzzles of reasoning-gym as a task: made from a seed, scored by reasoning-gym itself.

`score` is what the run file names; `examples` and `held_out` are what it is asked. Any of the more
than a hundred generators of reasoning-gym can stand in `NAME`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import reasoning_gym
import torch

NAME, SETTINGS = "chain_sum", {"max_terms": 2, "min_digits": 1, "max_digits": 2}
TOKENS = 24

_puzzles = reasoning_gym.create_dataset(NAME, seed=0, size=1, **SETTINGS)


def examples() -> list[dict[str, Any]]:
    """200 puzzles to select by."""
    return _made(seed=1, size=200)


def held_out() -> list[dict[str, Any]]:
    """100 others."""
    return _made(seed=2, size=100)


def _made(seed: int, size: int) -> list[dict[str, Any]]:
    made = reasoning_gym.create_dataset(NAME, seed=seed, size=size, **SETTINGS)
    return [
        {"id": f"{NAME}-{seed}-{number}", "puzzle": puzzle} for number, puzzle in enumerate(made)
    ]


def score(model: Any, tokenizer: Any, examples: Sequence[dict[str, Any]]) -> list[float]:
    """What reasoning-gym gives for the first line of each greedy answer, in [0, 1]."""
    texts = [f"{e['puzzle']['question']}\nAnswer:" for e in examples]
    prompts = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.inference_mode():
        out = model.generate(
            **prompts.to(model.device),
            max_new_tokens=TOKENS,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
    said = tokenizer.batch_decode(out[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True)
    lines = [(text.strip().splitlines() or [""])[0].strip() for text in said]
    return [
        float(_puzzles.score_answer(line, e["puzzle"]))
        for line, e in zip(lines, examples, strict=True)
    ]
