"""Out of the pool: exported members score what was recorded, merges are the formula's."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.checkpoints.layout import build_layout, flatten
from genepool.core.slerp import merge_vectors
from genepool.errors import CheckpointError, EvaluationError, InputError, PoolError
from genepool.output.by_hand import merge
from genepool.output.member import export
from genepool.output.rebuild import rebuild
from genepool.output.recipe_file import read_recipe
from genepool.pool.reader import Pool
from genepool.pool.writer import PoolWriter
from genepool.run.evolve import evolve
from genepool.tasks.task import open_task
from tests.runs import write_run


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"strategy": {"name": "m2n2", "archive": 5, "mutation": 0.1}},
        {"chromosomes": {"weights": ["*.weight"]}, "in_flight": 3},
    ],
    ids=["recipes", "vectors", "chromosomes"],
)
def test_exported_members_score_what_was_recorded(tmp_path: Path, changes: dict[str, Any]) -> None:
    evolve(write_run(tmp_path, budget=40, **changes))
    task = open_task("classifier", {"data": "data.npz"}, tmp_path)
    with Pool(tmp_path / "pool") as pool:
        champion = pool.champion()
        assert champion is not None
        wanted = {"best": champion, "1": 1, "seed1": 0}
        wanted |= {str(r.id): r.id for r in pool.records() if r.verdict == "rejected"}
        for name, number in wanted.items():
            done = export(pool, name, tmp_path / f"out-{name}")
            arrays = load_file(done.directory / "model.safetensors")
            scores = task.score(arrays, np.arange(120))
            recorded = pool.record(number)
            assert recorded.scores is not None
            assert np.array_equal(scores, recorded.scores)
            card = json.loads((done.directory / "genepool.json").read_text())
            assert card["member"] == number
            assert card["train"] == recorded.train
            if recorded.digest is not None:
                assert card["genome"] == recorded.digest == done.genome


@pytest.mark.parametrize("older", [False, True], ids=["new", "of an older release"])
def test_chromosomes_in_another_order_than_their_names(tmp_path: Path, older: bool) -> None:
    """Where tensors lie depends on their order, and the first that matches takes a tensor."""
    chromosomes = {"z": ["output.*"], "m": ["*.weight"], "b": ["hidden.*", "output.*"]}
    evolve(write_run(tmp_path, budget=10, chromosomes=chromosomes))
    if older:
        # Pools and recipes held them in the order of their names.
        with contextlib.closing(PoolWriter(tmp_path / "pool")) as writer:
            pins = writer.meta()["pins"]
            writer.set_meta("pins", {**pins, "chromosomes": dict(sorted(chromosomes.items()))})
    with Pool(tmp_path / "pool") as pool:
        exported = export(pool, "best", tmp_path / "out").directory
    assert list(read_recipe(exported).chromosomes) == ["z", "m", "b"]
    if older:
        recipe = json.loads((exported / "genepool.json").read_text())
        (exported / "genepool.json").write_text(json.dumps(recipe, sort_keys=True))
    seeds = {f"seed{number}": tmp_path / f"seed{number}.safetensors" for number in (1, 2)}
    rebuild(exported, tmp_path / "again", seeds=seeds)
    before, after = (load_file(tmp_path / x / "model.safetensors") for x in ("out", "again"))
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_seeds_that_moved(tmp_path: Path) -> None:
    evolve(write_run(tmp_path, budget=10))
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "seed1.safetensors").rename(tmp_path / "elsewhere/s.safetensors")
    with Pool(tmp_path / "pool") as pool:
        with pytest.raises(CheckpointError, match="--moved seed1=PATH"):
            export(pool, "best", tmp_path / "out")
        with pytest.raises(InputError, match="no seed named 'seed9'"):
            export(pool, "best", tmp_path / "out", seeds={"seed9": moved})
        with pytest.raises(CheckpointError, match="other tensors"):
            export(pool, "best", tmp_path / "out", seeds={"seed1": tmp_path / "seed3.safetensors"})
        assert not (tmp_path / "out").exists()
        export(pool, "best", tmp_path / "out", seeds={"seed1": moved})


@pytest.mark.slow
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_seed_that_changes_while_it_is_written_from(tmp_path: Path, by_hand: bool) -> None:
    run = write_run(tmp_path, budget=10)
    seed, other = tmp_path / "seed1.safetensors", tmp_path / "seed2.safetensors"
    evolve(run)

    def change(fraction: float) -> None:
        with seed.open("r+b") as file:
            file.write(other.read_bytes())

    with pytest.raises(CheckpointError, match=r"seed1\.safetensors: the file was written to while"):
        if by_hand:
            merge(seed, other, tmp_path / "out", ratio=0.5, advance=change)
        else:
            with Pool(tmp_path / "pool") as pool:
                export(pool, "best", tmp_path / "out", advance=change)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*out*")), "something half-written was left"


@pytest.mark.parametrize("angle", ["global", "side", "tensor"])
@pytest.mark.parametrize("split", [0.0, 0.3, 1.0, 7, "output.weight"])
def test_a_merge_by_hand_is_the_formula(tmp_path: Path, angle: Any, split: Any) -> None:
    write_run(tmp_path)
    paths = [tmp_path / f"seed{n}.safetensors" for n in (1, 2)]
    done = merge(*paths, tmp_path / "out", ratio=0.3, split=split, angle=angle)
    checkpoints = [open_checkpoint(path) for path in paths]
    layout = build_layout(checkpoints)
    a, b = (flatten(checkpoint, layout).astype(np.float64) for checkpoint in checkpoints)
    inner = layout.axis.tensors[1:-1].tolist()
    expected = merge_vectors(a, b, 0.3, layout.position(split), angle, inner)
    found = flatten(open_checkpoint(done.directory), layout)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_while_seeds_are_being_scored(tmp_path: Path) -> None:
    (tmp_path / "gp_half.py").write_text(
        "def score(tensors, examples):\n"
        "    if len(seen) == 1: raise OSError('no network')\n"
        "    seen.append(1)\n"
        "    return [0.5] * len(examples)\n"
        "seen = []\n"
    )
    (tmp_path / "e.jsonl").write_text('{"id": 1}\n{"id": 2}\n')
    task = {"name": "t", "evaluator": "function", "function": "gp_half:score"}
    with pytest.raises(EvaluationError, match=r"gp_half.py, line 2\)"):
        evolve(write_run(tmp_path, tasks=[{**task, "examples": "e.jsonl"}]))
    with Pool(tmp_path / "pool") as pool:
        scored, seeds = pool.seeds_scored, len(pool.header.seeds)
        for name in ("best", "seed1", "1", "0"):
            with pytest.raises(
                PoolError, match=rf"still being scored \({scored} of {seeds} so far\)"
            ):
                export(pool, name, tmp_path / "out")
    assert scored < seeds and not (tmp_path / "out").exists()
