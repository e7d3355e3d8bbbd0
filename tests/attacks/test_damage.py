"""Damaged pools: what is read is what was written, or there is one clear line."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import genepool
from genepool.errors import PoolError, PoolWarning
from genepool.pool import database
from genepool.pool.database import DATABASE, OwnFiles
from genepool.pool.reader import Pool
from genepool.pool.records import Measure
from genepool.pool.writer import PoolWriter, pack_pool
from genepool.run.evolve import evolve
from tests import sketches
from tests.cli import run_cli
from tests.golden import runs
from tests.runs import contents, opened_database, write_run

CLOUDS = {"name": "clouds", "evaluator": "classifier", "data": "data.npz"}
KINDS: dict[str, dict[str, Any]] = {
    "recipes and a guard": {
        "tasks": [CLOUDS, {**CLOUDS, "name": "kept", "guard": True, "tolerance": 0.05}],
        "track_held_out": True,
    },
    "vectors": {"strategy": {"name": "m2n2", "archive": 5, "mutation": 0.05}, "budget": 40},
    "subsets": {"strategy": {"name": "m2n2", "archive": 5, "share": 0.4, "renew": 10}},
}


def _flip(data: bytearray, draws: random.Random) -> None:
    data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)


def _zero(data: bytearray, draws: random.Random) -> None:
    size = draws.choice([64, 512, 4096])
    start = draws.randrange(len(data)) // size * size
    data[start : start + size] = bytes(len(data[start : start + size]))


def _seen(pool: Path, out: Path) -> list[tuple[int, Any, str]]:
    """What the commands say of a pool: exit code, result, errors."""
    shutil.rmtree(out, ignore_errors=True)
    found: list[tuple[int, Any, str]] = []
    for arguments in (
        ["status", str(pool), "--json"],
        ["show", str(pool), "best", "--json"],
        ["export", str(pool), "-o", str(out), "--json"],
    ):
        code, text, errors = run_cli(arguments)
        found.append((code, json.loads(text) if code == 0 else None, errors))
    if found[-1][0] == 0:
        found.append((0, json.loads((out / "genepool.json").read_text()), ""))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("damage", [_flip, _zero])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [20, pytest.param(60, id="many")], ids=["few", None])
def test_a_damaged_pool_is_read_as_it_was_or_not_at_all(
    tmp_path: Path, kind: str, damage: Callable[[bytearray, random.Random], None], count: int
) -> None:
    evolve(write_run(tmp_path, **KINDS[kind]))
    pool = tmp_path / "pool"
    whole, data = _seen(pool, tmp_path / "out"), (pool / DATABASE).read_bytes()
    assert all(code == 0 for code, _, _ in whole)
    draws, refused = random.Random(f"{kind} {count}"), 0
    for _ in range(count):
        broken = bytearray(data)
        damage(broken, draws)
        (pool / DATABASE).write_bytes(broken)
        for expected, found in zip(whole, _seen(pool, tmp_path / "out"), strict=False):
            if found[0] == 0:
                assert found == expected
            else:
                refused += 1
                assert found[0] == 1
                assert len(found[2].strip().splitlines()) == 1, found[2]
                assert "Traceback" not in found[2]
    # What is not used, in pages and between rows, may be anything.
    assert refused > (count if damage is _zero else 0)


DAMAGED = "the pool's log was damaged"
LOGS: dict[str, tuple[Callable[[bytes, int], bytes], str]] = {
    "whole": (lambda log, _: log, ""),
    "a bit in the first frame": (lambda log, _: flipped(log, 32 + 24 + 100), DAMAGED),
    "a bit in the middle": (lambda log, frame: flipped(log, 32 + 2 * frame + 500), DAMAGED),
    "a bit of a salt": (lambda log, _: flipped(log, 18), DAMAGED),
    "a bit of the page size": (lambda log, _: flipped(log, 10), DAMAGED),
    "a bit of the head's magic": (lambda log, _: flipped(log, 3), DAMAGED),
    "a block of zeros": (lambda log, frame: zeroed(log, 32 + frame, 4096), DAMAGED),
    "a head of zeros": (lambda log, _: zeroed(log, 0, 32), DAMAGED),
    # As a power cut leaves it: nothing that was whole is lost.
    "cut within the last frame": (lambda log, frame: log[: len(log) // frame * frame - 9], ""),
    "cut within its head": (lambda log, _: log[:20], ""),
    "empty": (lambda log, _: b"", "the pool was copied without"),
}


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def zeroed(data: bytes, place: int, size: int) -> bytes:
    return data[:place] + bytes(size) + data[place + size :]


@pytest.mark.slow
@pytest.mark.parametrize("case", list(LOGS))
def test_a_damaged_log_is_told(tmp_path: Path, case: str) -> None:
    evolve(write_run(tmp_path, budget=4))
    writer = PoolWriter(tmp_path / "pool")
    for budget in range(10, 16):
        writer.set_meta("budget", budget)
    damage, told = LOGS[case]
    (tmp_path / "copy").mkdir()
    # As a kill leaves the two files, with nobody who has them open.
    shutil.copy(tmp_path / "pool" / DATABASE, tmp_path / "copy")
    log = (tmp_path / "pool" / f"{DATABASE}-wal").read_bytes()
    size = 24 + int.from_bytes(log[8:12], "big")
    assert len(log) > 32 + 4 * size
    (tmp_path / "copy" / f"{DATABASE}-wal").write_bytes(damage(log, size))
    with Pool(tmp_path / "pool") as living:
        assert not living.log_damaged
    writer.close()
    with pytest.warns(PoolWarning, match=told) if told else contextlib.nullcontext():
        pool = Pool(tmp_path / "copy")
    with pool:
        assert pool.log_damaged == (told == DAMAGED)
        assert (pool.meta()["budget"] == 15) == (case == "whole")
        status = pool.status()
    assert status["log_damaged"] == (told == DAMAGED)
    assert status["log_missing"] == (bool(told) and told != DAMAGED)
    for command in (
        ["status"],
        ["status", "--json"],
        ["show", "best"],
        ["report", "-o", str(tmp_path / "page.html")],
        ["export", "-o", str(tmp_path / "champion")],
        ["pack", "-o", str(tmp_path / "packed")],
    ):
        code, _, errors = run_cli([command[0], str(tmp_path / "copy"), *command[1:]])
        assert (code, errors.count("note: ")) == (0, bool(told)), (command, errors)
        assert told in errors
        assert "Warning" not in errors
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        genepool.status(tmp_path / "copy")
        genepool.show(tmp_path / "copy")
        genepool.report(tmp_path / "copy", tmp_path / "page.html")
        with genepool.Pool(tmp_path / "copy") as pool:
            genepool.export(pool, "best", tmp_path / "exported", verify=False)
    assert [one.category for one in found] == [PoolWarning] * 4 * bool(told)
    write_run(tmp_path, budget=6, pool="copy")
    code, _, errors = run_cli(["evolve", str(tmp_path / "run.yaml")])
    assert (code, errors.count("note: ")) == (0, bool(told)), errors
    assert told in errors
    with Pool(tmp_path / "copy") as pool:
        assert not pool.log_damaged


@pytest.mark.slow
@pytest.mark.parametrize("table", ["meta", "seeds", "tasks", "members", "held_out", "guards"])
def test_every_row_is_sealed(tmp_path: Path, table: str) -> None:
    evolve(write_run(tmp_path, **KINDS["recipes and a guard"], budget=10))
    with opened_database(tmp_path / "pool") as db:
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        last = columns[columns.index("seal") - 1]
        db.execute(f"UPDATE {table} SET {last} = '0.125'")
    db.close()
    for command in (["status"], ["show", "best"], ["export", "-o", str(tmp_path / "out")]):
        code, _, error = run_cli([command[0], str(tmp_path / "pool"), *command[1:]])
        assert code == 1
        assert f"the pool is damaged (a row of '{table}' is not what was written)" in error
    code, _, error = run_cli(["evolve", str(tmp_path / "run.yaml"), "--budget", "20"])
    assert code == 1
    assert "the pool is damaged" in error


@pytest.mark.parametrize("member", [7, 10])
def test_members_that_are_missing(tmp_path: Path, member: int) -> None:
    """As in a copy made while a run was writing, whose pages are of two moments."""
    evolve(write_run(tmp_path, budget=10))
    with opened_database(tmp_path / "pool") as db:
        db.execute("DELETE FROM members WHERE id = ?", (member,))
    db.close()
    for command in (["status", str(tmp_path / "pool")], ["evolve", str(tmp_path / "run.yaml")]):
        code, _, error = run_cli([*command])
        assert (code, error.count("\n")) == (1, 1)
        assert "the pool is damaged (some of its members are missing)" in error


def test_a_pool_is_restored_as_the_message_says(tmp_path: Path) -> None:
    """The log of the damaged pool would be added to the copy, and damage that too."""
    evolve(write_run(tmp_path, budget=3))
    pool, log = tmp_path / "pool", tmp_path / "pool" / f"{DATABASE}-wal"
    with Pool(pool) as opened:
        pack_pool(opened, tmp_path / "packed")
    evolve(write_run(tmp_path, budget=200))
    with contextlib.closing(PoolWriter(pool)) as writer:
        writer.add(replace(writer.record(100), id=202, step=201))
        writer.set_meta("budget", 201)
        left = log.read_bytes()
    log.write_bytes(left)
    shutil.copy(tmp_path / "packed" / DATABASE, pool)
    code, _, error = run_cli(["status", str(pool)])
    assert code == 1
    assert f"delete {log.name} if there is one, and restore {DATABASE} from a copy" in error
    log.unlink()
    assert contents(pool) == contents(tmp_path / "packed")


def test_a_slow_disk_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on its way to the disk is in the log, and not in the log's index yet."""
    evolve(write_run(tmp_path, budget=3))
    with contextlib.closing(PoolWriter(tmp_path / "pool")) as writer:
        writer.set_meta("budget", 3)
        early = database._index_head(tmp_path / "pool" / DATABASE)
        writer.set_meta("budget", 3)
        late = database._index_head
        heads = [lambda _: early] * 4
        monkeypatch.setattr(
            database, "_index_head", lambda file: (heads.pop() if heads else late)(file)
        )
        with Pool(tmp_path / "pool") as pool:
            assert not pool.log_damaged
        assert not heads


def test_a_pool_that_could_not_be_opened_is_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook keeps the last error, and with it what the error came from."""
    evolve(write_run(tmp_path, budget=3))
    with monkeypatch.context() as broken:

        def full(self: PoolWriter, *, writing: bool) -> None:
            raise PoolError("the disk is full")

        broken.setattr(PoolWriter, "_mark", full)
        with pytest.raises(PoolError, match="full") as kept:
            PoolWriter(tmp_path / "pool")
    PoolWriter(tmp_path / "pool").close()
    assert kept.value.__traceback__ is not None


def test_ctrl_c_while_rows_are_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite said of it that the pool cannot be read, or that there may be no space."""
    evolve(write_run(tmp_path, budget=3))

    def interrupted(*_: Any) -> bytes:
        raise KeyboardInterrupt

    with contextlib.closing(PoolWriter(tmp_path / "pool")) as writer:
        monkeypatch.setattr(database, "_seal", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writer.set_meta("budget", 4)
        with pytest.raises(KeyboardInterrupt):
            Pool(tmp_path / "pool")
        monkeypatch.undo()


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(8))
def test_ctrl_c_while_a_pool_is_opened_or_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """It ended as another program's work on the pool, or readers were told that it had been copied
    while a run was writing."""
    evolve(write_run(tmp_path, budget=3))
    note, seen = OwnFiles.note, iter(range(moment + 1))

    def interrupted(self: OwnFiles) -> None:
        if next(seen, None) == moment:
            raise KeyboardInterrupt
        note(self)

    with monkeypatch.context() as broken, contextlib.suppress(KeyboardInterrupt):
        broken.setattr(OwnFiles, "note", interrupted)
        PoolWriter(tmp_path / "pool").close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pool(tmp_path / "pool").close()
    PoolWriter(tmp_path / "pool").close()


def test_rows_have_the_seals_of_what_is_given_back(tmp_path: Path) -> None:
    """SQLite keeps no -0.0, and pools with one were damaged."""
    evolve(write_run(tmp_path, budget=3))
    values: tuple[float, ...] = (-0.0, 1.0, np.float64(0.5), np.float64("inf"), True, 2**60)
    with contextlib.closing(PoolWriter(tmp_path / "pool")) as writer:
        writer.add_measures(1, [Measure("t", np.str_(i), value) for i, value in enumerate(values)])
    with Pool(tmp_path / "pool") as pool:
        assert [measure.value for measure in pool.measures()[1]] == [*values]


def test_a_member_is_written_with_its_guards_or_not_at_all(tmp_path: Path) -> None:
    evolve(write_run(tmp_path, **KINDS["recipes and a guard"], budget=3))
    with Pool(tmp_path / "pool") as pool:
        last = pool.record(4)

    class Interrupted(tuple[float]):
        def __iter__(self) -> Any:
            raise KeyboardInterrupt

    writer = PoolWriter(tmp_path / "pool")
    with contextlib.closing(writer), pytest.raises(KeyboardInterrupt):
        writer.add(replace(last, id=5, step=4), guards=Interrupted((0.5,)))
    with Pool(tmp_path / "pool") as pool:
        assert pool.evaluations == 3


@pytest.mark.parametrize("name", runs.POOLS)
def test_an_old_pool_has_no_seals_until_it_is_written_to(name: str, tmp_path: Path) -> None:
    pool = runs.copy_pool(name, tmp_path).parent / "pool"
    before = contents(pool)
    with opened_database(pool) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == 1
    db.close()
    with Pool(pool) as opened:
        pack_pool(opened, tmp_path / "packed")
    assert contents(tmp_path / "packed") == before
    PoolWriter(pool).close()
    assert contents(pool) == before
    with opened_database(pool) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == 2
        db.execute("UPDATE members SET asked = asked + 1 WHERE id = 5")
    db.close()
    with pytest.raises(Exception, match="a row of 'members' is not what was written"):
        Pool(pool)


_TRY_LOCK = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 128)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
def test_looking_at_the_log_leaves_the_locks_that_are_held_on_it(tmp_path: Path) -> None:
    """Or another process takes the log's index for nobody's and cuts it short under this one."""
    evolve(sketches.write_run(tmp_path, budget=3))
    with contextlib.closing(PoolWriter(tmp_path / "pool")) as writer:
        writer.set_meta("budget", 3)
        index = str(tmp_path / "pool" / "pool.sqlite-shm")
        with Pool(tmp_path / "pool") as pool:
            assert not pool.log_damaged
        done = subprocess.run(
            [sys.executable, "-c", _TRY_LOCK, index], capture_output=True, text=True
        )
    assert "BlockingIOError" in done.stderr, done


@pytest.mark.parametrize(("place", "byte"), [(0, 0xCC), (3, 0x80), (7, 0xFF)])
def test_a_schema_that_is_no_text_is_one_line(tmp_path: Path, place: int, byte: int) -> None:
    """SQLite quotes it in its message, which Python could not decode."""
    evolve(write_run(tmp_path, budget=2))
    file = tmp_path / "pool" / DATABASE
    content = bytearray(file.read_bytes())
    content[content.index(b"tableepisodes") + len("table") + place] = byte
    file.write_bytes(content)
    for command in (["status"], ["show"], ["export", "-o", str(tmp_path / "out")]):
        code, _, error = run_cli([command[0], str(tmp_path / "pool"), *command[1:]])
        assert code == 1 and len(error.splitlines()) == 1
    code, _, error = run_cli(["evolve", str(tmp_path / "run.yaml")])
    assert code == 1 and len(error.splitlines()) == 1
