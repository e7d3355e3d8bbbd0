"""An open pool: its file, what it was set up with, and what its sessions change."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import warnings
from collections.abc import Generator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from genepool.core.examples import Examples
from genepool.errors import PoolError, PoolWarning
from genepool.messages import some
from genepool.pool.database import DATABASE, check, connect, log_broken, reading
from genepool.pool.pool_header import GuardEntry, Header, Seed, TaskEntry, header_of

_Self = TypeVar("_Self", bound="Store")


class Store:
    """A pool's file, opened for reading.

    What a pool was set up with is read once, what lives in it at every call. Whoever opens one that
    lost something with its log is warned of it (`PoolWarning`).

    Attributes:
        log_damaged: whether SQLite's log was damaged when the file was opened: what came after the
            damage is not there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open an existing pool.

        Raises:
            PoolError: there is none, it is damaged, or another version of genepool wrote it.
        """
        self.path = Path(path)
        file = self.path / DATABASE
        if not file.is_file():
            raise PoolError(
                f"{self.path}: there is no pool here (expected a directory with {DATABASE}); "
                f"`genepool evolve RUN.yaml` makes one{self._meant()}"
            )
        self._connection = connect(file, write=False)
        with contextlib.ExitStack() as undo:
            undo.callback(self._connection.close)
            check(self._connection, self.path)
            self.log_damaged = log_broken(file)
            if lost := self._lost():
                warnings.warn(f"{self.path}: {lost}", PoolWarning, stacklevel=2)
            undo.pop_all()

    def _meant(self) -> str:
        """Pools that lie where one was looked for, in words; or that a run file names it."""
        if self.path.suffix.lower() in (".yaml", ".yml"):
            return "; if this is a run file, name the directory that stands behind 'pool' in it"
        inside = {self.path.parent} if self.path.name == DATABASE else set[Path]()
        with contextlib.suppress(OSError, ValueError):
            inside |= {file.parent for file in self.path.glob(f"*/{DATABASE}")}
        return f"; did you mean {some(sorted(inside))}?" if inside else ""

    def close(self) -> None:
        """Close the file; the pool stays."""
        self._connection.close()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reader(self) -> sqlite3.Connection:
        """A connection that sees all that was added."""
        return self._connection

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with reading(self.path):
            return self._reader().execute(query, values).fetchall()

    @contextlib.contextmanager
    def snapshot(self) -> Generator[None, None, None]:
        """What is read inside is as it was at one moment, though a run goes on writing."""
        database = self._reader()
        with reading(self.path):
            within = database.in_transaction
        if within:
            yield
            return
        with reading(self.path):
            database.execute("BEGIN")
        try:
            yield
        finally:
            with contextlib.suppress(sqlite3.Error):
                database.execute("END")

    def copy_to(self, target: sqlite3.Connection) -> None:
        """Copy all that the pool holds at this moment into an empty database."""
        with reading(self.path):
            self._reader().backup(target)

    # What a pool was set up with

    @cached_property
    def _at_opening(self) -> dict[str, Any]:
        """As `meta`, read once."""
        return self.meta()

    @cached_property
    def header(self) -> Header:
        """What all members have in common; it never changes."""
        seeds = self._rows("SELECT name, path, digest FROM seeds ORDER BY position")
        tasks = self._rows(
            "SELECT name, digest, weight, examples, held_out, is_binary FROM tasks "
            "ORDER BY position"
        )
        entries = [TaskEntry(*row[:5], binary=bool(row[5])) for row in tasks]
        with reading(self.path):
            return header_of(self._at_opening, [Seed(*row) for row in seeds], entries)

    def seeds(self) -> tuple[Seed, ...]:
        """The seeds, in order; seed k is member k."""
        return self.header.seeds

    def tasks(self) -> tuple[TaskEntry, ...]:
        """The tasks that members compete for; their examples are laid end to end in this order."""
        return self.header.tasks

    def guards(self) -> tuple[GuardEntry, ...]:
        """The guard tasks, in order."""
        return self.header.guards

    @property
    def examples(self) -> Examples:
        """The examples that members compete for."""
        return self.header.examples

    def meta(self) -> dict[str, Any]:
        """What the run pinned (`pins`), and what its sessions change: `config`, `budget`, how the
        seeds are opened (`opening`), and at how many children it was `finished`."""
        rows = self._rows("SELECT key, value FROM meta")
        with reading(self.path):
            return {key: json.loads(value) for key, value in rows}

    @cached_property
    def log_missing(self) -> bool:
        """Whether what was opened had been copied without its log while a run was writing: the last
        minute, or the last child, may be missing."""
        log = self.path / f"{DATABASE}-wal"
        # Reading makes an empty one.
        there = log.exists() and log.stat().st_size
        return bool(self._at_opening.get("writing")) and not there

    def _lost(self) -> str:
        """What is not there because of the log; nothing where all is well."""
        if self.log_damaged:
            return (
                f"the pool's log was damaged: what was written to {DATABASE}-wal after the damage "
                "is lost, and going on with the run makes it again"
            )
        if self.log_missing:
            return (
                f"the pool was copied without {DATABASE}-wal while a run was writing to it, or the "
                "disk was full then: the latest children may be missing, and going on with the run "
                "makes them again; `genepool pack` copies all"
            )
        return ""
