"""Three small models, and merges of them by hand; `recipes_21445ff.json` is what 21445ff made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import genepool

SHAPES = {
    "model.embed_tokens.weight": (24, 8),
    "model.layers.0.mlp.weight": (12, 8),
    "model.layers.1.mlp.weight": (12, 8),
    "model.norm.weight": (8,),
}

MERGES: dict[str, Callable[[list[Path], Path], Any]] = {
    "slerp": lambda m, out: genepool.merge(m[0], m[1], out, ratio=0.4, split=0.5, angle="side"),
    "slerp along the layers": lambda m, out: genepool.merge(
        m[0], m[1], out, ratio={"mlp": [0.0, 1.0], "": 0.25}, angle="tensor", dtype="F32"
    ),
    "linear": lambda m, out: genepool.blend(m[:2], out, weights=[1, 3]),
    "task-arithmetic": lambda m, out: genepool.blend(
        m[:2], out, method="task-arithmetic", base=m[2], weights=[0.5, 0.25], scale=2.0
    ),
    "ties": lambda m, out: genepool.blend(m[:2], out, method="ties", base=m[2], density=0.3),
    "ties, densities": lambda m, out: genepool.blend(
        m[:2], out, method="ties", base=m[2], density=[0.2, 0.5], normalise=False, scale=0.5
    ),
    "dare-linear": lambda m, out: genepool.blend(
        m[:2], out, method="dare-linear", base=m[2], density=0.3, seed=7
    ),
    "dare-ties": lambda m, out: genepool.blend(m[:2], out, method="dare-ties", base=m[2], seed=1),
}


def write_models(directory: Path) -> list[Path]:
    """Two fine-tunes of a base, whose changes are few distinct steps; and the base, in bfloat16."""
    out: list[Path] = []
    for number, name in enumerate(("one", "two", "base")):
        tensors: dict[str, torch.Tensor] = {}
        for place, (tensor, shape) in enumerate(SHAPES.items()):
            element = np.arange(int(np.prod(shape)), dtype=np.int64) + 1000 * place
            start = (element * 7919 + 104729) % 1013 / 1024 - 0.5
            change = ((element * (31 + number) + 17 * number) % 7 - 3) / 64 * (number < 2)
            values = torch.from_numpy((start + change).astype(np.float32))
            tensors[tensor] = values.reshape(shape).bfloat16()
        out.append(directory / f"{name}.safetensors")
        save_file(tensors, out[-1])
    return out


def sha256(file: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
