"""Checkpoints for tests, written by the safetensors library and not by ours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from genepool.checkpoints.files.checkpoint import Checkpoint, open_checkpoint
from genepool.checkpoints.layout import Layout
from genepool.core.genome import Genome
from genepool.output.write.weights import SHARD_BYTES, Writing, genome_tensors, write_tensors

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
RAW = {"F64": torch.int64, "F32": torch.int32, "F16": torch.int16, "BF16": torch.int16}

Tensors = Mapping[str, torch.Tensor]


def save(directory: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    """A directory with model.safetensors."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), directory / "model.safetensors", metadata)
    return directory


def save_shards(directory: Path, shards: Sequence[Tensors], metadata: str = "a") -> Path:
    """A directory with an index and its shards."""
    directory.mkdir(parents=True, exist_ok=True)
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(dict(tensors), directory / name, {"shard": str(number), "all": metadata})
        weight_map |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def opened(directory: Path, tensors: Tensors) -> Checkpoint:
    """Save and open."""
    return open_checkpoint(save(directory, tensors))


def network(seed: int, code: str = "F32", scale: float = 1.0) -> dict[str, torch.Tensor]:
    """A small MLP with a carried counter."""
    made = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=made, dtype=torch.float64) * scale
        return values.to(TORCH[code])

    return {
        "fc1.weight": normal(32, 12),
        "fc1.bias": normal(32),
        "fc2.weight": normal(5, 32),
        "fc2.bias": normal(5),
        "steps": torch.tensor([3 + seed, 7]),
    }


def values(checkpoint_tensors: Tensors, layout: Layout) -> NDArray[np.float32]:
    """The mergeable values in axis order, float32, converted by torch."""
    parts = [checkpoint_tensors[slot.name].float().reshape(-1) for slot in layout.slots]
    return torch.cat(parts).numpy()


def bits(tensor: torch.Tensor) -> NDArray[np.generic]:
    """The tensor's bits as integers, flat."""
    code = next(code for code, dtype in TORCH.items() if dtype == tensor.dtype)
    return tensor.detach().contiguous().reshape(-1).view(RAW[code]).numpy()


def write_checkpoint(
    genome: Genome,
    checkpoints: Sequence[Checkpoint],
    layout: Layout,
    directory: Path,
    *,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    **how: Any,
) -> Path:
    """A genome as a checkpoint directory."""
    produce = genome_tensors(genome, checkpoints, layout)
    writing = Writing(dtype, shard_bytes)
    return write_tensors(produce, checkpoints[0], layout, directory, writing, **how)


def contents(directory: Path, without: str = "") -> dict[str, bytes]:
    """All files of a directory by their path in it, but for those of one folder or name."""
    left_out = directory / without
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not (without and path.is_relative_to(left_out))
    }
