"""Seeds and pools that change under a run: never a wrong number with exit 0."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.errors import CheckpointError, PoolError, PoolWarning
from genepool.pool.database import DATABASE
from genepool.pool.pool_header import Seed, TaskEntry
from genepool.pool.reader import Pool
from genepool.pool.writer import PoolWriter
from genepool.run.evolve import evolve
from tests.cli import run_cli
from tests.run.test_crash import CRASHES, evaluations, wait_for
from tests.runs import contents, slow_run, write_run

BUDGET = 120


def _overwrite(file: Path, other: Path) -> None:
    """As `cp` and `rsync --inplace` do."""
    with file.open("r+b") as handle:
        handle.write(other.read_bytes())


def _replace(file: Path, other: Path) -> None:
    """As a trainer does that saves again, and `cp -p` with `mv`."""
    shutil.copy2(other, file.with_suffix(".new"))
    times = file.stat()
    os.utime(file.with_suffix(".new"), ns=(times.st_atime_ns, times.st_mtime_ns))
    file.with_suffix(".new").replace(file)


def _truncate(file: Path, _: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _delete(file: Path, _: Path) -> None:
    file.unlink()


def _delete_folder(file: Path, _: Path) -> None:
    shutil.rmtree(file.parent, ignore_errors=True)


def _touch_up(file: Path, _: Path) -> None:
    """One byte, by another program."""
    with file.open("r+b") as handle:
        handle.seek(40)
        handle.write(b"\x07")


SERIAL: dict[str, Any] = {}
PROCESS: dict[str, Any] = {"executor": "process", "workers": 2, "in_flight": 2}
Change = Callable[[Path, Path], None]


def _changes(alone: Sequence[Change], with_workers: Sequence[Change]) -> pytest.MarkDecorator:
    """What happens to a run of one process, and to one whose workers open the seeds themselves."""
    return pytest.mark.parametrize(
        ("change", "executor"),
        [*itertools.product(alone, [SERIAL]), *itertools.product(with_workers, [PROCESS])],
        ids=lambda value: None if callable(value) else str(value.get("executor", "serial")),
    )


class Undisturbed:
    """What runs come to that nothing happens to: each of them is run once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pools: dict[str, Path] = {}

    def pool(self, budget: int, seed2: int = 2, **executor: Any) -> Path:
        """Its pool, if the second seed is that of this number."""
        key = f"{budget} {seed2} {executor}"
        if key not in self._pools:
            folder = self._directory / f"{len(self._pools)}"
            run = slow_run(folder, budget=budget, **executor)
            if seed2 != 2:
                shutil.copy(folder / f"seed{seed2}.safetensors", folder / "seed2.safetensors")
            evolve(run)
            self._pools[key] = folder / "pool"
        return self._pools[key]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed(tmp_path_factory.mktemp("undisturbed"))


def _run_and_change(
    run: Path, target: int, change: Callable[[], None], draws: random.Random
) -> tuple[int, str]:
    """Exit code and errors of a run in which something happens after so many children."""
    process = subprocess.Popen(
        [sys.executable, "-m", "genepool", "evolve", str(run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pool = run.parent / "pool"
    wait_for(process, pool, target)
    time.sleep(draws.random() * 0.02)
    if process.poll() is None:
        change()
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@pytest.mark.slow
@_changes([_overwrite, _replace, _truncate, _delete], [_overwrite])
def test_a_seed_that_changes_during_a_run(
    tmp_path: Path, undisturbed: Undisturbed, change: Change, executor: dict[str, Any]
) -> None:
    run = slow_run(tmp_path, budget=BUDGET, **executor)
    seed = tmp_path / "seed2.safetensors"
    kept = seed.read_bytes()
    draws = random.Random(f"{change.__name__} {executor}")
    target = draws.randrange(1, BUDGET // 2)
    code, errors = _run_and_change(
        run, target, lambda: change(seed, tmp_path / "seed3.safetensors"), draws
    )
    assert "Traceback" not in errors
    assert code == 1, errors
    assert "seed2.safetensors" in errors.strip().splitlines()[-1], errors
    seed.write_bytes(kept)
    evolve(run)
    assert contents(tmp_path / "pool") == contents(undisturbed.pool(BUDGET, **executor))


@pytest.mark.slow
@_changes([_overwrite, _delete], [_overwrite])
def test_a_seed_that_changes_while_a_run_begins(
    tmp_path: Path, undisturbed: Undisturbed, change: Change, executor: dict[str, Any]
) -> None:
    """Where it ends with 0, all of it was made from the very seed whose digest the pool has."""
    expected: dict[str, list[dict[str, Any]]] = {}
    for number in (2, 3):
        pool = undisturbed.pool(20, number, **executor)
        digest = open_checkpoint(pool.parent / "seed2.safetensors").digest()
        expected[digest] = contents(pool)
    assert len(expected) == 2
    draws = random.Random(f"{change.__name__} {executor}")
    codes: list[int] = []
    # Each change and executor has moments of its own.
    for attempt in range(-(-CRASHES // 2)):
        run = slow_run(tmp_path / f"{attempt}", budget=20, **executor)
        process = subprocess.Popen(
            [sys.executable, "-m", "genepool", "evolve", str(run)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(draws.random() * 2)
        folder = run.parent
        change(folder / "seed2.safetensors", folder / "seed3.safetensors")
        _, errors = process.communicate(timeout=120)
        assert "Traceback" not in errors
        codes.append(process.returncode)
        if process.returncode == 0:
            with Pool(folder / "pool") as opened:
                digest = opened.header.seeds[1].digest
            assert contents(folder / "pool") == expected[digest]
    assert set(codes) <= {0, 1}


# Only the driver's process writes to the pool: whatever changes it there, workers end alike.
@pytest.mark.slow
@_changes([_delete, _delete_folder, _replace, _truncate, _touch_up], [_delete])
def test_a_pool_that_changes_under_a_run(
    tmp_path: Path, undisturbed: Undisturbed, change: Change, executor: dict[str, Any]
) -> None:
    other = undisturbed.pool(3) / DATABASE
    # So many children that a run never ends before something happens to its pool.
    run = slow_run(tmp_path, budget=100_000, **executor)
    file = tmp_path / "pool" / DATABASE
    draws = random.Random(f"{change.__name__} {executor}")
    target = draws.randrange(1, BUDGET // 2)
    code, errors = _run_and_change(run, target, lambda: change(file, other), draws)
    assert code == 1, errors
    assert "Traceback" not in errors
    last = errors.strip().splitlines()[-1]
    assert DATABASE in last
    assert "while the run was writing to it" in last


@pytest.mark.parametrize("change", [_delete, _replace, _delete_folder])
@pytest.mark.parametrize("broken", [False, True])
def test_a_pool_that_is_gone_within_a_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, broken: bool
) -> None:
    """What was gone after a transaction was taken for what it had left, and a run went on."""
    file, other = tmp_path / "pool" / DATABASE, tmp_path / "other"
    other.write_bytes(b"x" * 1000)
    writer = PoolWriter(tmp_path / "pool")
    meta = {"pins": {}, "kind": "recipe", "axis_size": 4, "seed": 0, "budget": 0}
    writer.set_up(meta, [Seed("s", "s", "")], [TaskEntry("t", "", 1.0, 3, 0, binary=True)])

    def changed(*_: object) -> str:
        change(file, other)
        if broken:
            raise sqlite3.OperationalError("no room")
        return "1"

    monkeypatch.setattr("genepool.pool.writer.json.dumps", changed)
    with pytest.raises(PoolError, match=f"{DATABASE} was .* while the run was writing to it"):
        writer.set_meta("budget", 1)
    monkeypatch.undo()
    with pytest.raises(PoolError, match="while the run was writing to it"):
        writer.close()


@pytest.mark.parametrize("change", [_delete, _replace, _truncate, _touch_up])
def test_a_log_that_changes_under_a_writer(tmp_path: Path, change: Change) -> None:
    writer = PoolWriter(tmp_path / "pool")
    meta = {"pins": {}, "kind": "recipe", "axis_size": 4, "seed": 0, "budget": 0}
    task = TaskEntry("t", "", 1.0, 3, 0, binary=True)
    writer.set_up(meta, [Seed("s", "s", "")], [task])
    other = tmp_path / "other"
    other.write_bytes(b"x" * 1000)
    change(tmp_path / "pool" / f"{DATABASE}-wal", other)
    with pytest.raises(PoolError, match=f"{DATABASE}-wal was .* while the run was writing to it"):
        writer.set_meta("budget", 1)
    with pytest.raises(PoolError, match="while the run was writing to it"):
        writer.close()


def test_what_was_scored_since_the_last_good_look_is_not_kept(tmp_path: Path) -> None:
    evolve(write_run(tmp_path, budget=5))
    before = contents(tmp_path / "pool")
    writer = PoolWriter(tmp_path / "pool")
    last = writer.record(6)

    def changed() -> None:
        raise CheckpointError("seed 's': the file was written to")

    writer.watch = changed
    with pytest.raises(CheckpointError, match="seed 's'"):
        writer.add(replace(last, id=7, step=6, seconds=60.0))
    writer.close()
    assert contents(tmp_path / "pool") == before


def test_pack_copies_a_living_pool(tmp_path: Path) -> None:
    evolve(write_run(tmp_path, budget=5))
    writer = PoolWriter(tmp_path / "pool")
    writer.set_meta("budget", 77)
    code, _, errors = run_cli(["pack", str(tmp_path / "pool"), "-o", str(tmp_path / "copy")])
    assert code == 0, errors
    assert sorted(file.name for file in (tmp_path / "copy").iterdir()) == [DATABASE]
    assert contents(tmp_path / "copy") == contents(tmp_path / "pool")
    with Pool(tmp_path / "copy") as copy:
        assert copy.status()["budget"] == 77
        assert not copy.log_missing
    # The file alone has nearly everything, and says what it lacks.
    (tmp_path / "lonely").mkdir()
    shutil.copy(tmp_path / "pool" / DATABASE, tmp_path / "lonely" / DATABASE)
    with pytest.warns(PoolWarning, match="copied without"):
        lonely = Pool(tmp_path / "lonely")
    with lonely:
        assert lonely.evaluations == 5
        assert lonely.log_missing
    for command in (["status"], ["show", "best"], ["report", "-o", str(tmp_path / "page.html")]):
        code, _, errors = run_cli([command[0], str(tmp_path / "lonely"), *command[1:]])
        assert (code, errors.count("pool.sqlite-wal")) == (0, 1), (command, errors)
    writer.close()
    with Pool(tmp_path / "pool") as pool:
        assert not pool.log_missing
    code, _, errors = run_cli(["pack", str(tmp_path / "pool"), "-o", str(tmp_path / "copy")])
    assert code == 1
    assert "not empty" in errors


def test_a_copied_pool_goes_on(tmp_path: Path) -> None:
    evolve(write_run(tmp_path, budget=20))
    assert run_cli(["pack", str(tmp_path / "pool"), "-o", str(tmp_path / "copy")])[0] == 0
    evolve(write_run(tmp_path, budget=40, pool="copy"))
    evolve(write_run(tmp_path, budget=40))
    assert contents(tmp_path / "copy") == contents(tmp_path / "pool")


def test_a_pool_that_holds_nothing_says_why(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / DATABASE).touch()
    _, _, errors = run_cli(["status", str(tmp_path / "pool")])
    assert "holds nothing" in errors
    assert "genepool pack" in errors


@pytest.mark.slow
def test_packs_of_a_run_that_goes_on_are_whole(tmp_path: Path) -> None:
    file = slow_run(tmp_path, budget=300)
    words = [sys.executable, "-m", "genepool", "evolve", str(file)]
    run = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen = 0
    try:
        while not (tmp_path / "pool" / DATABASE).exists() or evaluations(tmp_path / "pool") < 1:
            assert run.poll() is None
            time.sleep(0.02)
        for number in range(6):
            copy = tmp_path / f"copy{number}"
            code, out, errors = run_cli(["pack", str(tmp_path / "pool"), "-o", str(copy), "--json"])
            assert code == 0, errors
            with Pool(copy) as pool:
                assert pool.evaluations == json.loads(out)["evaluations"] >= seen
                assert not pool.log_missing
                seen = pool.evaluations
    finally:
        run.kill()
        run.wait()
    # A pool may lie within another one; a copy of a copy is one too.
    inner = tmp_path / "copy0/inner"
    for source in (tmp_path / "copy0", tmp_path / "copy5"):
        assert run_cli(["pack", str(source), "-o", str(inner)])[0] == 0
        assert contents(inner) == contents(source)
        shutil.rmtree(inner)
