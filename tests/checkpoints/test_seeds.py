"""Seeds that are no plain checkpoints, through whole runs: evolve, reopen, export, merge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from genepool.errors import CheckpointError, InputError
from genepool.output.by_hand import merge
from genepool.output.member import export
from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from genepool.tasks.task import open_task
from tests.cli import run_cli
from tests.runs import write_run


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return tmp_path / "cache"


def write_adapter(directory: Path, base: str | None, seed: int = 5) -> Path:
    """An adapter of the network of `tests.runs`."""
    directory.mkdir(parents=True)
    draws = np.random.default_rng(seed)
    arrays = {
        "base_model.model.hidden.lora_A.weight": draws.normal(size=(2, 16)),
        "base_model.model.hidden.lora_B.weight": draws.normal(size=(8, 2)),
    }
    save_file(
        {name: value.astype(np.float32) for name, value in arrays.items()},
        directory / "adapter_model.safetensors",
    )
    config: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    if base is not None:
        config["base_model_name_or_path"] = base
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


def by_hand(directory: Path, base: Path) -> dict[str, np.ndarray[Any, Any]]:
    arrays = load_file(base)
    adapter = load_file(directory / "adapter_model.safetensors")
    a, b = (adapter[f"base_model.model.hidden.lora_{x}.weight"] for x in "AB")
    return {**arrays, "hidden.weight": arrays["hidden.weight"] + b @ a}


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["serial", "process"])
def test_a_run_from_adapters(tmp_path: Path, cache: Path, executor: str) -> None:
    write_adapter(tmp_path / "adapters/a", "seed1.safetensors")
    write_adapter(tmp_path / "adapters/b", None, seed=6)
    file = write_run(
        tmp_path,
        seeds=["adapters/a", {"path": "adapters/b", "base": "seed1.safetensors"}],
        budget=20,
        executor=executor,
        workers=1,
    )
    evolve(file)
    task = open_task("classifier", {"data": "data.npz"}, tmp_path)
    with Pool(tmp_path / "pool") as pool:
        assert [seed.name for seed in pool.seeds()] == ["a", "b"]
        champion = pool.champion()
        assert champion is not None
        for member in ("a", "best"):
            done = export(pool, member, tmp_path / f"out-{member}")
            arrays = load_file(done.directory / "model.safetensors")
            number = 0 if member == "a" else champion
            assert np.array_equal(task.score(arrays, np.arange(120)), pool.record(number).scores)
        expected = by_hand(tmp_path / "adapters/a", tmp_path / "seed1.safetensors")
        found = load_file(tmp_path / "out-a/model.safetensors")
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)
    # The cache can go at any time, and adapter and base can move.
    for path in sorted(cache.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "adapters/b").rename(tmp_path / "there/b")
    (tmp_path / "seed1.safetensors").rename(tmp_path / "there/base.safetensors")
    moved = {
        "a.base": tmp_path / "there/base.safetensors",
        "b": tmp_path / "there/b",
        "b.base": tmp_path / "there/base.safetensors",
    }
    with Pool(tmp_path / "pool") as pool:
        with pytest.raises(CheckpointError, match="seed 'a': base of the adapter"):
            export(pool, "best", tmp_path / "again")
        done = export(pool, "best", tmp_path / "again", seeds=moved)
        first = (tmp_path / "out-best/model.safetensors").read_bytes()
        assert (done.directory / "model.safetensors").read_bytes() == first


def test_merging_an_adapter_by_hand(tmp_path: Path) -> None:
    write_run(tmp_path)
    write_adapter(tmp_path / "adapter", "nowhere/base")
    base, other = tmp_path / "seed1.safetensors", tmp_path / "seed2.safetensors"
    arguments = [str(tmp_path / "adapter"), str(other), "--ratio", "0", "-o", str(tmp_path / "out")]
    code, _, error = run_cli(["merge", *arguments])
    assert code == 1
    assert "base of the adapter" in error
    code, _, error = run_cli(["merge", *arguments, "--adapter-base", str(base)])
    assert code == 0
    assert "names the base 'nowhere/base'" in error
    found = load_file(tmp_path / "out/model.safetensors")
    for name, value in by_hand(tmp_path / "adapter", base).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)
    seed = {"path": str(tmp_path / "adapter"), "base": str(base)}
    merge(seed, other, tmp_path / "python", ratio=0.0)
    again = (tmp_path / "python/model.safetensors").read_bytes()
    assert again == (tmp_path / "out/model.safetensors").read_bytes()
    with pytest.raises(InputError, match=r"seed a: option 'bases': .*; did you mean 'base'"):
        merge({"path": "a", "bases": "b"}, other, tmp_path / "x", ratio=0.0)
