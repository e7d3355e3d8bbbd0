"""Small real runs for tests: an 8-16-3 network, three blurred classes, seconds at most."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from safetensors.numpy import save_file

from genepool.pool.database import DATABASE
from genepool.pool.reader import Pool
from genepool.pool.records import Record

FEATURES, HIDDEN, CLASSES = 8, 16, 3


def write_data(file: Path, count: int = 150, seed: int = 0) -> None:
    """Three overlapping clouds of points: x float32[count, 8], y int64[count]."""
    draws = np.random.default_rng(seed)
    centres = draws.normal(size=(CLASSES, FEATURES)) * 1.2
    y = np.arange(count) % CLASSES
    x = centres[y] + draws.normal(size=(count, FEATURES))
    np.savez(file, x=x.astype(np.float32), y=y.astype(np.int64))


def write_seed(file: Path, seed: int) -> None:
    """A network with random weights, so that two of them are good at different things."""
    draws = np.random.default_rng(seed)

    def normal(*shape: int) -> NDArray[np.float32]:
        return (draws.normal(size=shape) * 0.5).astype(np.float32)

    arrays = {
        "hidden.weight": normal(FEATURES, HIDDEN),
        "hidden.bias": normal(HIDDEN),
        "output.weight": normal(HIDDEN, CLASSES),
        "output.bias": normal(CLASSES),
    }
    save_file(arrays, file)


def write_run(directory: Path, **changes: Any) -> Path:
    """A run file with data and two seeds beside it; `changes` replace top-level keys."""
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "data.npz").exists():
        write_data(directory / "data.npz")
        for number in (1, 2, 3):
            write_seed(directory / f"seed{number}.safetensors", number)
    config: dict[str, Any] = {
        "pool": "pool",
        "seeds": ["seed1.safetensors", "seed2.safetensors"],
        "tasks": [{"name": "clouds", "evaluator": "classifier", "data": "data.npz"}],
        "strategy": {"name": "m2n2", "archive": 6},
        "budget": 60,
        "seed": 3,
        **changes,
    }
    file = directory / "run.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return file


# Slow enough that a kill lands anywhere in a run: each child takes a few milliseconds.
_SLOW = """
import time
def score(model, examples):
    time.sleep(0.004)
    total = float(sum(abs(array).sum() for array in model.values()))
    return [((total * 1000 + 37 * example) % 10) / 10 for example in examples]
"""


def slow_run(directory: Path, held_out: float = 0, **changes: Any) -> Path:
    """A run whose module has a name of its own, so that one process can do several runs."""
    module = f"slow_{zlib.crc32(bytes(directory)):x}"
    file = write_run(
        directory,
        tasks=[
            {
                "name": "slow",
                "evaluator": "function",
                "function": f"{module}:score",
                "examples": "examples.json",
                "held_out": held_out,
            }
        ],
        **changes,
    )
    (directory / f"{module}.py").write_text(_SLOW)
    (directory / "examples.json").write_text(str(list(range(30))))
    return file


def seed_file(directory: Path, number: int) -> str:
    """The path of a seed that `write_run` has put beside the run file."""
    return str(directory / f"seed{number}.safetensors")


@contextmanager
def opened_database(pool: Path) -> Generator[sqlite3.Connection, None, None]:
    """The database of a pool, in which what is changed is kept, and which is closed at the end."""
    with closing(sqlite3.connect(pool / DATABASE)) as connection, connection:
        yield connection


def contents(pool: Path) -> list[dict[str, Any]]:
    """Everything that a pool records, member by member, time spent left out."""
    with Pool(pool) as opened:
        rows = [_plain(record) for record in opened.records()]
        rows.append({"held_out": opened.held_out(), "champion": opened.champion()})
        rows.append({"slots": opened.slots(), "guards": opened.guard_means()})
    return rows


def _plain(record: Record) -> dict[str, Any]:
    row = {field.name: getattr(record, field.name) for field in fields(record)}
    del row["seconds"]
    if record.scores is not None:
        row["scores"] = record.scores.tobytes()
    return row
