"""The smallest runs there are: one example, one seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file, save_file

from genepool.errors import ConfigError, EvaluationError, PoolError
from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from genepool.run.inputs import open_inputs
from genepool.run.run_file import load_run
from tests.quick import quick
from tests.runs import write_run


def solved(model: Any, examples: list[Any]) -> list[float]:
    return [float(model["hidden.bias"].sum() > 0) for _ in examples]


def partly(model: Any, examples: list[Any]) -> list[float]:
    return [min(1.0, abs(float(model["hidden.bias"][0]))) for _ in examples]


def broken(model: Any, examples: list[Any]) -> list[float]:
    raise ValueError("not today")


def one_example(folder: Path, function: str, examples: int = 1, **changes: Any) -> Path:
    rows = "".join(f'{{"id": "e{number}"}}\n' for number in range(examples))
    (folder / "examples.jsonl").write_text(rows)
    task = {"name": "t", "evaluator": "function", "function": f"{__name__}:{function}"}
    return write_run(folder, tasks=[{**task, "examples": "examples.jsonl"}], budget=20, **changes)


@pytest.mark.parametrize("function", quick(["solved", "partly"], (1,)))
@pytest.mark.parametrize(
    "strategy",
    quick(
        [
            {"name": "m2n2", "archive": 3},
            {"name": "m2n2", "archive": 3, "risk": 0.2},
            {"name": "m2n2", "archive": 3, "share": 0.5, "renew": 5},
            {"name": "m2n2", "archive": 3, "alpha": 2.5},
            {"name": "ga", "archive": 3},
            {"name": "random", "archive": 3},
            {"name": "map-elites", "measures": [{"task": "t"}], "cells": 3},
        ],
        (0, 2, 6),
    ),
    ids=str,
)
def test_one_example_is_enough(tmp_path: Path, function: str, strategy: dict[str, Any]) -> None:
    """Its transposed scores are the archive's own memory, which must stay as it is."""
    early = evolve(one_example(tmp_path, function, strategy=strategy)).status
    late = evolve(
        one_example(tmp_path, function, strategy=strategy, pool="late", early_stop=False)
    ).status
    assert early["evaluations"] == 20
    for key in ("archive", "champion"):
        assert early[key] == late[key]


def test_a_run_that_scored_nothing_leaves_its_pool_to_another(tmp_path: Path) -> None:
    """The first try of a newcomer fails, and the second has other settings."""
    changed = {"seed": 9, "in_flight": 2, "strategy": {"name": "ga", "archive": 4}}
    expected = evolve(one_example(tmp_path, "partly", pool="other", **changed)).status
    with pytest.raises(EvaluationError, match="cannot be scored"):
        evolve(one_example(tmp_path, "broken"))
    with Pool(tmp_path / "pool") as pool:
        assert (pool.seeds_scored, pool.log_missing) == (0, False)
    found = evolve(one_example(tmp_path, "partly", **changed)).status
    assert (found["archive"], found["champion"]) == (expected["archive"], expected["champion"])
    with pytest.raises(PoolError, match="made with"):
        evolve(one_example(tmp_path, "partly"))


@pytest.mark.parametrize("seeds", [1, 2])
def test_copies_of_one_seed_are_not_bred(tmp_path: Path, seeds: int) -> None:
    write_run(tmp_path)
    file = write_run(tmp_path, seeds=["seed1.safetensors"] * seeds)
    with pytest.raises(ConfigError, match=r"line 2: seeds: .* copy of it\. Name a second model"):
        evolve(file)


def test_the_same_weights_in_another_file_are_the_same_seed(tmp_path: Path) -> None:
    write_run(tmp_path)
    twin = load_file(tmp_path / "seed1.safetensors")
    save_file(twin, tmp_path / "twin.safetensors", metadata={"step": "900"})
    file = write_run(tmp_path, seeds=["seed1.safetensors", "twin.safetensors"])
    with pytest.raises(ConfigError, match="all seeds have the same weights"):
        evolve(file)


def test_one_seed_may_be_mutated_or_only_scored(tmp_path: Path) -> None:
    write_run(tmp_path)
    mutating = {"name": "m2n2", "archive": 3, "mutation": 0.1}
    evolve(write_run(tmp_path, seeds=["seed1.safetensors"], strategy=mutating, budget=10))
    with Pool(tmp_path / "pool") as pool:
        digests = [record.digest for record in pool.records() if record.digest is not None]
    assert len(set(digests)) == len(digests) > 5
    scored = evolve(write_run(tmp_path, seeds=["seed1.safetensors"], pool="two", budget=0))
    assert scored.status["champion"]["member"] == 0


def test_a_twin_among_others_is_told_and_allowed(tmp_path: Path) -> None:
    write_run(tmp_path)
    seeds = ["seed1.safetensors", "seed1.safetensors", "seed2.safetensors"]
    result = evolve(write_run(tmp_path, seeds=seeds, budget=5))
    assert result.status["evaluations"] == 5
    (notice,) = result.notices
    assert "seed1-2" in notice


@pytest.mark.parametrize("strategy", [{"name": "m2n2", "archive": 2, "risk": 0.2}, {"name": "ga"}])
def test_a_guard_of_one_example(tmp_path: Path, strategy: dict[str, Any]) -> None:
    config = one_example(tmp_path, "partly", strategy=strategy)
    given = yaml.safe_load(Path(config).read_text())
    given["tasks"].append({**given["tasks"][0], "name": "kept", "guard": True, "tolerance": 0.0})
    Path(config).write_text(yaml.safe_dump(given))
    found = evolve(config).status
    assert found["evaluations"] == 20
    assert found["guards"][0]["examples"] == 1


def test_half_of_one_example_cannot_be_held_out(tmp_path: Path) -> None:
    config = one_example(tmp_path, "partly")
    given = yaml.safe_load(Path(config).read_text())
    given["tasks"][0]["held_out"] = 0.5
    Path(config).write_text(yaml.safe_dump(given))
    with pytest.raises(ConfigError, match=r"share of 0\.5 of 1 examples leaves none to select by"):
        evolve(config)


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ([0.2, 0.2], None),
        ([0.0, 0.0], None),
        ([0.0, 0.2], "task 'a' has no held-out examples"),
        ([0.0, 0.2, 0.0], "tasks 'a', 'c' have no held-out examples"),
    ],
)
def test_tasks_without_held_out_examples_beside_others_are_told(
    tmp_path: Path, shares: list[float], told: str | None
) -> None:
    """What is held out is not of all tasks then, and selection scores are."""
    task = {"evaluator": "classifier", "data": "data.npz"}
    tasks = [
        {**task, "name": name, "held_out": share}
        for name, share in zip("abc", shares, strict=False)
    ]
    guard = {**task, "name": "guard", "held_out": 0.0, "guard": True}
    notices = open_inputs(load_run(write_run(tmp_path, tasks=[*tasks, guard]))).notices
    said = [text for text in notices if "held-out" in text]
    assert len(said) == bool(told)
    assert all(text.startswith(f"{told}, so that held-out scores are those of") for text in said)
