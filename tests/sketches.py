"""A task whose models draw, without any image generator: for tests of what is kept to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from safetensors.numpy import save_file

from genepool.tasks.checks import checked_indices
from genepool.tasks.stored import StoredTask

SIZE = 12


class Sketches(StoredTask):
    """Models of one row of numbers, which paint squares in shades of these."""

    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid")
        measured: float = 0.5
        real: bool = True
        height: int = 10

    binary = False

    def __init__(self, options: Options, directory: Path) -> None:
        super().__init__(tuple(f"id {n}/é" for n in range(16)), 12, "sketches")
        self._options = options

    def _values(self, model: Any, indices: Any, held_out: bool) -> NDArray[np.float32]:
        start, stop = self._range(held_out)
        positions = checked_indices(indices, stop - start) + start
        return model["a.weight"][positions % SIZE]

    def score(self, model: Any, indices: Any, *, held_out: bool = False) -> NDArray[np.float32]:
        return np.clip(self._values(model, indices, held_out), 0, 1).astype(np.float32)

    def measures(self, model: Any) -> Mapping[str, float]:
        return {"brightness": float(model["a.weight"].mean()), "given": self._options.measured}

    def drawn(self, model: Any, indices: Any, *, held_out: bool = False) -> NDArray[np.uint8]:
        shades = (255 * self.score(model, indices, held_out=held_out)).astype(np.uint8)
        return np.broadcast_to(shades[:, None, None, None], (shades.size, 10, 8, 3)).copy()

    def captions(self, indices: Any, *, held_out: bool = False) -> Sequence[str]:
        return [f"square <{n}> 四角" for n in indices.tolist()]

    def references(self, indices: Any, *, held_out: bool = False) -> NDArray[np.uint8] | None:
        shape = (indices.size, self._options.height, 8, 3)
        return np.full(shape, 7, np.uint8) if self._options.real else None


def write_run(directory: Path, **settings: Any) -> dict[str, Any]:
    """Two seeds, each good at half of the examples, and the run over them."""
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(2):
        row = np.where(np.arange(SIZE) < SIZE // 2, 0.9 - 0.8 * number, 0.1 + 0.8 * number)
        save_file({"a.weight": row.astype(np.float32)}, directory / f"seed{number}.safetensors")
    return {
        "pool": str(directory / "pool"),
        "seeds": [str(directory / f"seed{number}.safetensors") for number in range(2)],
        "tasks": [{"name": "sketch", "evaluator": "tests.sketches:Sketches"}],
        "strategy": {"name": "m2n2", "archive": 4},
        "budget": 30,
        **settings,
    }
