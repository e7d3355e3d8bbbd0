"""How many SQL statements it takes to read a pool: as many for a large one as for a small one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genepool.output.member import export
from genepool.pool.members import describe
from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from tests.cli import run_cli
from tests.quick import quick
from tests.runs import write_run

SUBSETS = {"name": "m2n2", "archive": 6, "share": 0.5, "renew": 5}


def _status(pool: Path, _: Path) -> None:
    with Pool(pool) as opened:
        opened.status()


def _describe(pool: Path, _: Path) -> None:
    with Pool(pool) as opened:
        champion = opened.champion()
        assert champion is not None
        describe(opened, champion)


def _export(pool: Path, out: Path) -> None:
    with Pool(pool) as opened:
        export(opened, "best", out)


def _command(*arguments: str) -> Callable[[Path, Path], None]:
    def call(pool: Path, out: Path) -> None:
        given = [{"POOL": str(pool), "OUT": str(out)}.get(one, one) for one in arguments]
        assert run_cli(given)[0] == 0

    return call


READERS = {
    "Pool.status": _status,
    "describe": _describe,
    "export": _export,
    "genepool status": _command("status", "POOL", "--json"),
    "genepool show": _command("show", "POOL", "best", "--json"),
    "genepool export": _command("export", "POOL", "-o", "OUT"),
}


def _make(directory: Path, children: int, tasks: int, strategy: dict[str, Any]) -> Path:
    task = {"evaluator": "classifier", "data": "data.npz"}
    listed = [{"name": f"task{number}", **task} for number in range(tasks)]
    evolve(write_run(directory, tasks=listed, budget=children, strategy=strategy))
    return directory / "pool"


@pytest.mark.parametrize(
    "strategy", quick([{"name": "m2n2", "archive": 6}, SUBSETS], (1,)), ids=["all", "subsets"]
)
def test_it_does_not_grow_with_the_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: dict[str, Any]
) -> None:
    pools = [
        _make(tmp_path / "small", 20, 2, strategy),
        _make(tmp_path / "large", 150, 4, {**strategy, "archive": 20}),
    ]
    statements: list[str] = []
    connect = sqlite3.connect

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", traced)
    for name, reader in READERS.items():
        counts: list[int] = []
        for pool in pools:
            statements.clear()
            reader(pool, tmp_path / f"{name} {pool.parent.name}")
            counts.append(len(statements))
        assert counts[0] == counts[1], name
        assert 0 < counts[0] <= 60, name
        print(name, counts)


def test_what_is_read_at_one_moment_is_consistent(tmp_path: Path) -> None:
    """A child that is written while a status is taken is in all of it, or in nothing."""
    from genepool.pool.writer import PoolWriter

    pool = _make(tmp_path, 20, 2, {"name": "m2n2", "archive": 6})
    with Pool(pool) as reader:
        with reader.snapshot():
            before = reader.status()
            writer = PoolWriter(pool)
            writer.set_meta("budget", 77)
            writer.close()
            assert reader.status() == before
        assert reader.status()["budget"] == 77
