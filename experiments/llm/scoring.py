"""How the language models of this experiment are scored: exact match of the greedy answer.

Greedy generation writes the wanted answer exactly if, with the prompt and the answer so far before
it, every token of the answer is the likeliest one; so one forward pass over prompt and answer
decides it, without generating. The answer must also end there: what the model likes best after it
may not go on with a letter or a digit (" 6" is not right where " 68" was going to be written).
"""

from __future__ import annotations

from typing import Any

import torch


def exact(model: Any, tokenizer: Any, examples: list[dict[str, Any]]) -> list[float]:
    """1 for every example whose greedy answer is exactly the wanted one, else 0.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        examples: with "prompt" and "answer"; scored in one batch.

    Raises:
        ValueError: the model's logits are not finite.
    """
    rows = [encoded(tokenizer, example) for example in examples]
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    # Padded on the right without a mask: a causal model never looks there.
    ids = torch.zeros((len(rows), longest), dtype=torch.int64)
    where: list[tuple[int, int]] = []
    for row, (prompt, answer) in enumerate(rows):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        where += [(row, len(prompt) - 1 + i) for i in range(len(answer) + 1)]
    with torch.inference_mode():
        hidden = model.get_decoder()(input_ids=ids.to(model.device), use_cache=False)
        at_row, at_place = (torch.tensor(part) for part in zip(*where, strict=True))
        # The head is a fifth of a small model's work: only where an answer is read.
        logits = model.get_output_embeddings()(hidden.last_hidden_state[at_row, at_place])
        if not bool(torch.isfinite(logits).all()):
            raise ValueError("the model's logits are not finite")
        likeliest: list[int] = logits.argmax(-1).tolist()
    scores: list[float] = []
    at = 0
    for _, answer in rows:
        said, after = likeliest[at : at + len(answer)], likeliest[at + len(answer)]
        goes_on = tokenizer.decode([after])[:1].isalnum()
        scores.append(float(said == answer and not goes_on))
        at += len(answer) + 1
    return scores


def encoded(tokenizer: Any, example: dict[str, Any]) -> tuple[list[int], list[int]]:
    """The tokens of the prompt and of the answer."""
    return tuple(
        tokenizer(example[part], add_special_tokens=False)["input_ids"]
        for part in ("prompt", "answer")
    )


def in_blocks(model: Any, tokenizer: Any, examples: list[Any], batch: int) -> list[float]:
    """`exact` in blocks of `batch` examples, as the evaluator `function` asks for them."""
    return [
        score
        for start in range(0, len(examples), batch)
        for score in exact(model, tokenizer, examples[start : start + batch])
    ]
