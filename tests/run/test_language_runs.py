"""Whole runs on tiny language models: lm-eval and function tasks, early stop, worker processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml

from genepool.run.driver import evolve
from genepool.run.export import export
from genepool.run.pool import Pool
from tests.evaluate.lms import write_lm
from tests.evaluate.test_lm_eval import sums, write_task

FUNCTION = """
def chance(model, tokenizer, examples):
    batch = tokenizer([one["text"] for one in examples], return_tensors="pt", padding=True)
    chances = model(**batch).logits[:, -1].float().softmax(-1)
    answers = tokenizer.convert_tokens_to_ids([one["answer"] for one in examples])
    return [float(row[answer]) for row, answer in zip(chances, answers)]

def score(model, tokenizer, examples):
    return [one > 1 / 20 for one in chance(model, tokenizer, examples)]
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets are prepared in a directory of the test's own, and nothing is fetched."""
    import datasets

    cache = tmp_path_factory.mktemp("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(cache))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)


def write_run(directory: Path, function: str = "score", **changes: Any) -> Path:
    for seed in (1, 2):
        write_lm(directory / f"seed{seed}", seed, dtype="bfloat16")
    write_task(directory)
    (directory / f"task_{directory.name}.py").write_text(FUNCTION)
    lines = [json.dumps({"id": str(n), **one}) for n, one in enumerate(sums(40, 9))]
    (directory / "more.jsonl").write_text("\n".join(lines))
    config: dict[str, Any] = {
        "pool": "pool",
        "seeds": ["seed1", "seed2"],
        "tasks": [
            {"name": "sums", "evaluator": "lm-eval", "task": "sums.yaml", "batch": 4},
            {
                "name": "more",
                "evaluator": "function",
                "function": f"task_{directory.name}:{function}",
                "examples": "more.jsonl",
                "held_out": 0.25,
                "batch": 5,
                "binary": function == "score",
            },
        ],
        "strategy": {"name": "m2n2", "archive": 3, "warmup": 3},
        "budget": 26,
        **changes,
    }
    file = directory / "run.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def members(pool: Path) -> list[tuple[Any, ...]]:
    with Pool(pool) as opened:
        return [
            (one.id, one.digest, one.slot, one.evicted, one.verdict == "accepted", one.train)
            for one in opened.records(accepted=True)
        ]


def test_early_stop_and_workers_change_nothing(tmp_path: Path) -> None:
    file = write_run(tmp_path, early_stop=False)
    whole = evolve(file)
    write_run(tmp_path, pool="stopped")
    stopped = evolve(file)
    assert members(tmp_path / "stopped") == members(tmp_path / "pool")
    assert stopped.status["examples_evaluated"] < whole.status["examples_evaluated"]
    write_run(tmp_path, pool="parallel", executor="process", workers=2)
    evolve(file)
    assert members(tmp_path / "parallel") == members(tmp_path / "pool")


def test_the_exported_champion_scores_as_recorded(tmp_path: Path) -> None:
    evolve(write_run(tmp_path, "chance", budget=8))
    with Pool(tmp_path / "pool") as pool:
        champion = pool.champion()
        assert champion is not None
        recorded = pool.record(champion).scores
        out = tmp_path / "champion"
        export(pool, champion, out)
    assert recorded is not None
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(str(out), dtype="auto")
    words: Any = transformers.AutoTokenizer.from_pretrained(str(out), padding_side="left")
    space: dict[str, Any] = {}
    exec(FUNCTION, space)
    examples = list(sums(40, 9))[:30]
    scores: list[float] = []
    with torch.inference_mode():
        for start in range(0, 30, 5):
            scores += space["chance"](model, words, examples[start : start + 5])
    assert np.array_equal(recorded[22:], np.array(scores, dtype=np.float32))
