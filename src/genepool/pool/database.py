"""The pool's SQLite file: its tables, how it is opened, and its errors in a user's words."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator
from pathlib import Path

from genepool.errors import PoolError

SCHEMA_VERSION = 1
DATABASE = "pool.sqlite"

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE seeds (
    position INTEGER PRIMARY KEY, name TEXT NOT NULL, path TEXT NOT NULL, digest TEXT NOT NULL);
CREATE TABLE tasks (
    position INTEGER PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL, weight REAL NOT NULL,
    examples INTEGER NOT NULL, held_out INTEGER NOT NULL, is_binary INTEGER NOT NULL);
CREATE TABLE members (
    id INTEGER PRIMARY KEY, step INTEGER NOT NULL, parents TEXT NOT NULL, plan TEXT NOT NULL,
    merge BLOB, mutation REAL NOT NULL, digest TEXT, genome BLOB, verdict TEXT NOT NULL,
    scores BLOB, asked INTEGER NOT NULL, train REAL, fitness REAL, slot INTEGER, evicted INTEGER,
    error TEXT, seconds REAL NOT NULL);
CREATE INDEX accepted ON members (id) WHERE verdict = 'accepted';
CREATE TABLE held_out (member INTEGER PRIMARY KEY, scores BLOB NOT NULL, mean REAL NOT NULL);
CREATE TABLE guards (
    member INTEGER, guard INTEGER, mean REAL NOT NULL, PRIMARY KEY (member, guard)) WITHOUT ROWID;
CREATE TABLE rounds (number INTEGER PRIMARY KEY, examples BLOB NOT NULL);
CREATE TABLE answers (
    member INTEGER, round INTEGER, scores BLOB, error TEXT, asked INTEGER NOT NULL,
    seconds REAL NOT NULL, PRIMARY KEY (member, round));
"""


def connect(file: Path, *, write: bool) -> sqlite3.Connection:
    mode = "rwc" if write else "ro"
    address = f"{file.absolute().as_uri()}?mode={mode}"
    with reading(file.parent):
        db = sqlite3.connect(address, uri=True, isolation_level=None, timeout=10)
    if not write:
        try:
            db.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.OperationalError:
            # A read-only directory has no room for the log's index; without a log none is needed.
            db.close()
            if not Path(f"{file}-wal").exists():
                db = sqlite3.connect(f"{address}&immutable=1", uri=True, isolation_level=None)
            else:
                db = sqlite3.connect(address, uri=True, isolation_level=None)
        except sqlite3.DatabaseError:
            pass  # reported by the caller's first query
    return db


def begun(path: Path) -> bool:
    """Whether a pool was set up in this directory; one interrupted before that holds nothing.

    Raises:
        PoolError: what is there cannot be read.
    """
    file = path / DATABASE
    if not file.is_file():
        return False
    with contextlib.closing(connect(file, write=False)) as db, reading(path):
        return bool(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def check_schema(db: sqlite3.Connection, path: Path) -> None:
    with reading(path):
        version = db.execute("PRAGMA user_version").fetchone()[0]
        tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
    if not tables:
        raise PoolError(
            f"{path}: this pool was interrupted before anything was written; run the same "
            "`genepool evolve RUN.yaml` again"
        )
    if version != SCHEMA_VERSION or not {"meta", "members", "seeds", "tasks"} <= tables:
        raise PoolError(
            f"{path}: this pool has schema version {version}, and this genepool reads version "
            f"{SCHEMA_VERSION}; use the genepool that wrote it, or another pool directory"
        )


@contextlib.contextmanager
def reading(path: Path) -> Generator[None, None, None]:
    try:
        yield
    except sqlite3.Error as error:
        raise PoolError(
            f"{path}: the pool cannot be read ({error}); if {DATABASE} is damaged, restore it "
            "from a copy"
        ) from error


@contextlib.contextmanager
def writing(path: Path) -> Generator[None, None, None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise PoolError(
            f"{path}: cannot write to the pool ({error}); nothing recorded so far is lost. Free "
            "some space or mend the directory, then run the same command to go on"
        ) from error
