"""A task of one's own: how sure is a model of the right topic of a message?

`score` is what the run file names. genepool calls it with a model, here a mapping of plain arrays
by tensor name, and a list of lines of messages.jsonl, and wants one number in [0, 1] for each.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

TOPICS = ("billing", "delivery", "technical")
FEATURES = 256


def features(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32[256]: which words occur, each hashed to a place."""
    present = np.zeros(FEATURES, dtype=np.float32)
    for word in text.lower().replace(",", " ").split():
        present[zlib.crc32(word.encode()) % FEATURES] = 1
    return present


def score(model: Mapping[str, Any], examples: Sequence[Mapping[str, str]]) -> list[float]:
    """The probability that the model gives to each message's topic."""
    scores: list[float] = []
    # One message at a time: a score must not depend on what else is asked in the same call.
    for example in examples:
        logits = features(example["text"]) @ model["topics.weight"] + model["topics.bias"]
        chances = np.exp(logits - logits.max())
        scores.append(float(chances[TOPICS.index(example["topic"])] / chances.sum()))
    return scores
