"""The runs of this experiment: which strategies, on how many examples, from what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import data

HERE = Path(__file__).parent
ARCHIVE = {"archive": 15, "warmup": 20}

STRATEGIES: dict[str, dict[str, Any]] = {
    "m2n2": {"name": "m2n2", **ARCHIVE},
    "slerp": {"name": "sweep", "archive": 15},
    "ga": {"name": "ga", **ARCHIVE},
    "no-attraction": {"name": "m2n2", "attraction": False, **ARCHIVE},
    "no-split": {"name": "m2n2", "split_point": False, **ARCHIVE},
}
# Examples that evolution sees and held-out ones, of each task.
SMOLLM2 = {"maths": (40, 100), "shopping": (16, 100)}
MINIATURE = {"maths": (100, 300), "shopping": (100, 300)}


def run_file(work: Path, sizes: dict[str, tuple[int, int]], batch: int) -> dict[str, Any]:
    """The run file without pool and strategy; writes the examples that the runs use.

    They are the first of each set, sorted by length: a block is padded to its longest.
    """
    chosen = work / "evolve"
    tasks: list[dict[str, Any]] = []
    for task, counts in sizes.items():
        for name, count in zip(("train", "test"), counts, strict=True):
            examples = data.read(work / "examples", task, name)[:count]
            examples.sort(key=lambda example: len(example["prompt"]))
            chosen.mkdir(parents=True, exist_ok=True)
            (chosen / f"{task}-{name}.jsonl").write_text(data.lines_of(examples))
        tasks.append(
            {
                "name": task,
                "evaluator": "function",
                "function": "scoring:exact",
                "examples": str(chosen / f"{task}-train.jsonl"),
                "held_out_examples": str(chosen / f"{task}-test.jsonl"),
                "binary": True,
                "batch": batch,
            }
        )
    models = work / "models"
    return {"seeds": [str(models / "maths"), str(models / "shopping")], "tasks": tasks}


def loaded(run: dict[str, Any]) -> Any:
    """The run, with the module of the scoring function looked for in this folder."""
    from genepool.run.run_file import load_run

    return load_run(run, directory=HERE)
