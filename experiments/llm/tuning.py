"""Full fine-tuning on a CPU: bfloat16 passes, float32 weights behind them; can be interrupted."""

from __future__ import annotations

import json
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scoring import encoded

# Tokens, and the places of those that are learnt.
Row = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: `batch` examples a step, the rate falls to 0 as a cosine."""

    steps: int
    batch: int
    rate: float
    warmup: int = 10
    seed: int = 0
    embeddings: bool = False  # whether token embeddings (and a tied head) are trained too


def fine_tune(
    model: Any,
    tokenizer: Any,
    examples: list[dict[str, Any]],
    schedule: Schedule,
    keep: Path,
) -> None:
    """Train `model` in place to write the answers; only their tokens count.

    Args:
        model: a causal language model, in any float dtype.
        tokenizer: its tokenizer; the end-of-text token ends every answer.
        examples: with "prompt" and "answer"; what a conversation goes on with is in "then", as
            further pairs, whose prompts begin with what ends the answer before.
        schedule: see `Schedule`.
        keep: a folder for the state, written every two minutes, so that a call after an
            interruption goes on from there.
    """
    keep.mkdir(parents=True, exist_ok=True)
    frozen = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    parameters = [p for p in model.parameters() if schedule.embeddings or id(p) not in frozen]
    model.requires_grad_(False)
    for p in parameters:
        p.requires_grad_(True)
    # bfloat16 cannot hold steps this small: the weights that are stepped are float32.
    master = [p.detach().float().clone() for p in parameters]
    adam = torch.optim.AdamW(
        master, lr=schedule.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    first = restored(keep, adam, master)
    copy_into(parameters, master)
    order = batches(tokenizer, examples, schedule)
    model.train()
    started = kept = time.time()
    tokens, smooth = 0, None
    for step in range(first, schedule.steps):
        batch = order(step)
        loss = answer_loss(model, batch)
        loss.backward()
        tokens += sum(len(ids) for ids, _ in batch)
        rate = schedule.rate * min(1.0, (step + 1) / schedule.warmup)
        rate *= 0.5 * (1 + math.cos(math.pi * step / schedule.steps))
        for group in adam.param_groups:
            group["lr"] = rate
        for p, m in zip(parameters, master, strict=True):
            m.grad = p.grad.float() if p.grad is not None else None
            p.grad = None
        torch.nn.utils.clip_grad_norm_(master, 1.0)
        adam.step()
        copy_into(parameters, master)
        value = float(loss.detach())
        smooth = value if smooth is None else 0.9 * smooth + 0.1 * value
        if (step + 1) % 10 == 0:
            per_second = tokens / (time.time() - started)
            at = f"step {step + 1}/{schedule.steps}"
            print(f"{at} loss {smooth:.3f} tokens/s {per_second:.0f}", flush=True)
        if time.time() - kept > 120 and step + 1 < schedule.steps:
            save_state(keep, step + 1, adam, master)
            kept = time.time()
    model.eval()
    (keep / "state.safetensors").unlink(missing_ok=True)


def read(tokenizer: Any, example: dict[str, Any]) -> Row:
    """The tokens of an example, and the places of those that are learnt: answers and their ends."""
    ids: list[int] = []
    learnt: list[int] = []
    pairs = [(example["prompt"], example["answer"]), *example.get("then", ())]
    for prompt, answer in pairs:
        before, after = encoded(tokenizer, {"prompt": prompt, "answer": answer})
        ids += before
        learnt += range(len(ids), len(ids) + len(after) + 1)
        ids += after
    return [*ids, tokenizer.eos_token_id], learnt


def answer_loss(model: Any, rows: list[Row]) -> Any:
    """Mean negative log-likelihood of the tokens that are learnt."""
    padded = torch.zeros((len(rows), max(len(ids) for ids, _ in rows)), dtype=torch.int64)
    for row, (ids, _) in enumerate(rows):
        padded[row, : len(ids)] = torch.tensor(ids)
    at_row = torch.tensor([row for row, (_, learnt) in enumerate(rows) for _ in learnt])
    at_place = torch.tensor([place for _, learnt in rows for place in learnt])
    hidden = model.get_decoder()(input_ids=padded, use_cache=False).last_hidden_state
    logits = model.get_output_embeddings()(hidden[at_row, at_place - 1])
    return torch.nn.functional.cross_entropy(logits.float(), padded[at_row, at_place])


def batches(tokenizer: Any, examples: list[dict[str, Any]], schedule: Schedule) -> Any:
    """A function step -> the encoded examples of that step; each epoch in a new order.

    Eight batches at a time are sorted by length, so that little is spent on padding.
    """
    rows = [read(tokenizer, example) for example in examples]
    size, pool = schedule.batch, 8

    def at(step: int) -> list[Row]:
        block, within = divmod(step, pool)
        draw = random.Random(f"{schedule.seed} {block}")
        taken: list[int] = []
        start = block * pool * size
        for position in range(start, start + pool * size):
            epoch, place = divmod(position, len(rows))
            taken.append(permutation(len(rows), f"{schedule.seed} epoch {epoch}")[place])
        taken.sort(key=lambda row: rows[row][1][0])
        pieces = [taken[i * size : (i + 1) * size] for i in range(pool)]
        draw.shuffle(pieces)
        return [rows[row] for row in pieces[within]]

    known: dict[str, list[int]] = {}

    def permutation(n: int, key: str) -> list[int]:
        if key not in known:
            known[key] = random.Random(key).sample(range(n), n)
        return known[key]

    return at


def copy_into(parameters: list[Any], master: list[Any]) -> None:
    with torch.no_grad():
        for p, m in zip(parameters, master, strict=True):
            p.copy_(m)


def save_state(keep: Path, step: int, adam: Any, master: list[Any]) -> None:
    tensors: dict[str, Any] = {}
    for number, m in enumerate(master):
        state = adam.state[m]
        tensors[f"{number}.master"] = m
        tensors[f"{number}.first"] = state["exp_avg"]
        tensors[f"{number}.second"] = state["exp_avg_sq"]
    new = keep / "state.tmp"
    save_file(tensors, new, metadata={"state": json.dumps({"step": step})})
    new.replace(keep / "state.safetensors")


def restored(keep: Path, adam: Any, master: list[Any]) -> int:
    """Put a kept state back; the number of steps done."""
    file = keep / "state.safetensors"
    if not file.exists():
        return 0
    with safe_open(file, "pt") as kept:
        step = int(json.loads(kept.metadata()["state"])["step"])
        for number, m in enumerate(master):
            m.copy_(kept.get_tensor(f"{number}.master"))
            adam.state[m] = {
                "step": torch.tensor(float(step)),
                "exp_avg": kept.get_tensor(f"{number}.first"),
                "exp_avg_sq": kept.get_tensor(f"{number}.second"),
            }
    print(f"goes on from step {step}", flush=True)
    return step
