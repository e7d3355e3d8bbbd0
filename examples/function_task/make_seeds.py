"""Train two specialists for messages.jsonl: one for billing and delivery, one for delivery and
technical matters.

Run it once, then `genepool evolve run.yaml`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from topics import FEATURES, TOPICS, features

HERE = Path(__file__).parent


def train(known: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Logistic regression on the messages of the known topics."""
    lines = (HERE / "messages.jsonl").read_text().splitlines()
    messages = [m for m in map(json.loads, lines) if m["topic"] in known]
    x = np.stack([features(m["text"]) for m in messages])
    y = np.eye(len(TOPICS))[[TOPICS.index(m["topic"]) for m in messages]]
    weight, bias = np.zeros((FEATURES, len(TOPICS))), np.zeros(len(TOPICS))
    for _ in range(200):
        chances = np.exp(x @ weight + bias)
        slope = (chances / chances.sum(axis=1, keepdims=True) - y) / len(messages)
        weight, bias = weight - 0.5 * x.T @ slope, bias - 0.5 * slope.sum(axis=0)
    return {"topics.weight": weight.astype(np.float32), "topics.bias": bias.astype(np.float32)}


if __name__ == "__main__":
    for name, known in {"shop": TOPICS[:2], "support": TOPICS[1:]}.items():
        save_file(train(known), HERE / f"{name}.safetensors")
        print(f"wrote {name}.safetensors, which knows {' and '.join(known)}")
