"""Functions that score arrays, networks and language models by what they compute.

They import nothing of genepool: `python -m tests.exam` scores exported checkpoints by them with
numpy, torch and transformers alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

COUNT = 24


def examples() -> list[dict[str, Any]]:
    """Inputs for all kinds of models."""
    chance = np.random.default_rng(3)
    return [
        {
            "id": f"e{number}",
            "x": chance.normal(size=8).round(3).tolist(),
            "ids": chance.integers(4, 40, 6).tolist(),
            "target": int(chance.integers(0, 5)),
        }
        for number in range(COUNT)
    ]


def net() -> torch.nn.Module:
    """A small network."""
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 5))


def _share(logits: torch.Tensor, target: int) -> float:
    return float(torch.softmax(logits.double(), dim=-1)[target])


def arrays(model: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> list[float]:
    """The probability of the target by a network of plain arrays."""
    out: list[float] = []
    for example in examples:
        hidden = np.tanh(
            model["0.weight"] @ np.array(example["x"], dtype=np.float32) + model["0.bias"]
        )
        logits = model["2.weight"] @ hidden + model["2.bias"]
        out.append(_share(torch.from_numpy(logits), example["target"]))
    return out


def network(model: torch.nn.Module, examples: Sequence[Mapping[str, Any]]) -> list[float]:
    """The probability of the target by a torch network."""
    dtype = next(model.parameters()).dtype
    with torch.inference_mode():
        return [
            _share(model(torch.tensor([example["x"]], dtype=dtype))[0], example["target"])
            for example in examples
        ]


def language(model: Any, _tokenizer: Any, examples: Sequence[Mapping[str, Any]]) -> list[float]:
    """The probability of the target as the next token."""
    with torch.inference_mode():
        return [
            _share(model(torch.tensor([example["ids"]])).logits[0, -1], example["target"])
            for example in examples
        ]


def rescore(kind: str, dtype: str | None, directory: Path) -> list[float]:
    """Scores of a checkpoint directory, as a user of it would load it."""
    chosen = None if dtype is None else getattr(torch, dtype)
    if kind == "language":
        auto: Any = transformers.AutoModelForCausalLM
        model = auto.from_pretrained(str(directory), dtype=chosen or "auto").eval()
        return language(model, None, examples())
    tensors = load_file(directory / "model.safetensors")
    if kind == "arrays":
        plain = {name: tensor.float().numpy() for name, tensor in tensors.items()}
        return arrays(plain, examples())
    made = net()
    made.load_state_dict(tensors)
    return network(made.to(chosen), examples())


if __name__ == "__main__":
    wanted = json.loads(Path(sys.argv[1]).read_text())
    found = {
        name: np.array(rescore(kind, dtype, Path(place)), dtype=np.float32).tolist()
        for name, (kind, dtype, place) in wanted.items()
    }
    if "genepool" in sys.modules:
        sys.exit("genepool had a hand in it")
    print(json.dumps(found))
