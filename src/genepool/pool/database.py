"""The pool's SQLite file: its tables, how it is opened, and its errors in a user's words."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
import time
from collections.abc import Generator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from genepool.errors import PoolError
from genepool.messages import at, one_line

# The database, and the file that says which process is writing to it.
DATABASE, WRITER = "pool.sqlite", "writer.pid"

# Seconds for which a disk may take to write a transaction before its log is called damaged.
_PATIENCE = 3.0

# What SQLite finds in a log it takes for the latest content of whatever database lies beside it.
_RESTORE = f"delete {DATABASE}-wal if there is one, and restore {DATABASE} from a copy"

# Version 1 had no seals.
SCHEMA_VERSION = 2

_CREATE = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, seal BLOB) WITHOUT ROWID;
CREATE TABLE seeds (
    position INTEGER PRIMARY KEY, name TEXT NOT NULL, path TEXT NOT NULL, digest TEXT NOT NULL,
    seal BLOB);
CREATE TABLE tasks (
    position INTEGER PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL, weight REAL NOT NULL,
    examples INTEGER NOT NULL, held_out INTEGER NOT NULL, is_binary INTEGER NOT NULL, seal BLOB);
CREATE TABLE members (
    id INTEGER PRIMARY KEY, step INTEGER NOT NULL, parents TEXT NOT NULL, plan TEXT NOT NULL,
    merge BLOB, mutation REAL NOT NULL, digest TEXT, genome BLOB, verdict TEXT NOT NULL,
    scores BLOB, asked INTEGER NOT NULL, train REAL, fitness REAL, slot INTEGER, evicted INTEGER,
    error TEXT, seconds REAL NOT NULL, seal BLOB);
CREATE INDEX accepted ON members (id) WHERE verdict = 'accepted';
CREATE TABLE held_out (
    member INTEGER PRIMARY KEY, scores BLOB NOT NULL, mean REAL NOT NULL, seal BLOB);
CREATE TABLE guards (
    member INTEGER, guard INTEGER, mean REAL NOT NULL, seal BLOB, PRIMARY KEY (member, guard))
    WITHOUT ROWID;
CREATE TABLE rounds (number INTEGER PRIMARY KEY, examples BLOB NOT NULL, seal BLOB);
CREATE TABLE answers (
    member INTEGER, round INTEGER, scores BLOB, error TEXT, asked INTEGER NOT NULL,
    seconds REAL NOT NULL, seal BLOB, PRIMARY KEY (member, round));
"""

# Pools that are older than these tables get them when they are opened for writing.
_LATER = (
    "CREATE TABLE IF NOT EXISTS measures (member INTEGER, task TEXT, name TEXT, "
    "value REAL NOT NULL, seal BLOB, PRIMARY KEY (member, task, name)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS pictures (member INTEGER, task TEXT, part TEXT, example INTEGER, "
    "caption TEXT NOT NULL, png BLOB NOT NULL, seal BLOB, "
    "PRIMARY KEY (member, task, part, example))",
    "CREATE TABLE IF NOT EXISTS episodes (member INTEGER, task TEXT, part TEXT, example TEXT, "
    "transcript TEXT NOT NULL, seal BLOB, PRIMARY KEY (member, task, part, example))",
)

# The columns of each table that its rows' seals cover. Genomes come and go, and have digests.
_SEALED = {
    "meta": "key, value",
    "seeds": "position, name, path, digest",
    "tasks": "position, name, digest, weight, examples, held_out, is_binary",
    "members": "id, step, parents, plan, merge, mutation, digest, verdict, scores, train, fitness, "
    "slot, evicted, asked, error, seconds",
    "held_out": "member, scores, mean",
    "guards": "member, guard, mean",
    "rounds": "number, examples",
    "answers": "member, round, scores, error, asked, seconds",
    "measures": "member, task, name, value",
    "pictures": "member, task, part, example, caption, png",
    "episodes": "member, task, part, example, transcript",
}


def insert(db: sqlite3.Connection, table: str, *rows: Sequence[Any]) -> None:
    """Write rows of a table and seal them; in a transaction.

    A row takes the place of one that has its key; members alone are never written again.

    Args:
        db: where.
        table: its name.
        rows: values of the columns that are sealed; of members then the genome.
    """
    sealed = _SEALED[table].split(", ")
    verb, more = ("INSERT", ["genome"]) if table == "members" else ("INSERT OR REPLACE", [])
    names = [*sealed, *more, "seal"]
    # SQLite has no part in the seals: it would make an error of its own of a Ctrl-C that came while
    # it called a function of ours.
    db.executemany(
        f"{verb} INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
        ((*row, _seal(table, *map(_given_back, row[: len(sealed)]))) for row in rows),
    )


def create(db: sqlite3.Connection) -> None:
    """Make the tables, in place of those of a run that has scored nothing; in a transaction."""
    for table in _SEALED:
        db.execute(f"DROP TABLE IF EXISTS {table}")
    for statement in _CREATE.split(";"):
        db.execute(statement)
    add_later_tables(db)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def add_later_tables(db: sqlite3.Connection) -> None:
    """Make the tables that a pool may lack because it is older than they are."""
    for statement in _LATER:
        db.execute(statement)


def seal_rows(db: sqlite3.Connection) -> None:
    """Seal the rows of a pool of version 1, which then is one of today's; in one transaction."""
    if db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION:
        return
    db.create_function("seal_of", -1, _seal, deterministic=True)
    db.execute("BEGIN IMMEDIATE")
    try:
        for table in _tables(db):
            db.execute(f"ALTER TABLE {table} ADD COLUMN seal BLOB")
            db.execute(f"UPDATE {table} SET seal = seal_of('{table}', {_SEALED[table]})")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def _tables(db: sqlite3.Connection) -> list[str]:
    """The tables that are there; old pools lack some."""
    there = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return [table for table in _SEALED if table in there]


def _seal(table: str, *values: object) -> bytes:
    """A digest of a row, 8 bytes; numbers by their value, whatever type a column gives them."""
    parts = [
        value if isinstance(value, bytes) else repr(value).encode()
        for value in (float(value) if isinstance(value, int) else value for value in values)
    ]
    lengths = repr([len(part) for part in parts]).encode()
    return blake2b(b"".join([table.encode(), lengths, *parts]), digest_size=8).digest()


def _given_back(value: Any) -> Any:
    """A value as SQLite gives it back: a plain one, not -0.0, and None for NaN."""
    if isinstance(value, (int, float)):
        return None if value != value else float(value) + 0.0
    return str.__str__(value) if isinstance(value, str) else value


def connect(file: Path, *, write: bool) -> sqlite3.Connection:
    for place in (file, *(Path(f"{file}-{name}") for name in ("wal", "shm", "journal"))):
        if place.exists() and not place.is_file():
            # SQLite would wait for somebody to write into a pipe.
            raise PoolError(f"{at(place)}: expected a plain file; remove what is there")
    mode = "rwc" if write else "ro"
    address = f"{file.absolute().as_uri()}?mode={mode}"
    with reading(file.parent):
        db = _connect(address)
    if not write:
        try:
            db.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.OperationalError:
            # A read-only directory has no room for the log's index; without a log none is needed.
            db.close()
            if not Path(f"{file}-wal").exists():
                db = _connect(f"{address}&immutable=1")
            else:
                db = _connect(address)
        except (sqlite3.DatabaseError, UnicodeDecodeError):  # what it quotes may be no UTF-8
            pass  # reported by the caller's first query
    return db


def _connect(address: str) -> sqlite3.Connection:
    return sqlite3.connect(address, uri=True, isolation_level=None, timeout=10)


def begun(path: Path) -> bool:
    """Whether a pool was set up in this directory; one interrupted before that holds nothing.

    Raises:
        PoolError: what is there cannot be read.
    """
    file = path / DATABASE
    try:
        if not file.is_file():
            return False
    except OSError as error:
        raise PoolError(f"{at(path)}: cannot be looked into ({error.strerror})") from error
    with contextlib.closing(connect(file, write=False)) as db, reading(path):
        return bool(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def check(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a pool that cannot be read, or is not as it was written.

    Raises:
        PoolError: saying what is wrong, and what to do.
    """
    with reading(path):
        version = db.execute("PRAGMA user_version").fetchone()[0]
        tables = _tables(db)
    if not tables:
        raise PoolError(
            f"{path}: this pool holds nothing: its run was interrupted before anything was written "
            "(run the same `genepool evolve RUN.yaml` again), or it was copied while a run was "
            f"writing and {DATABASE}-wal, where the latest is, was left out (copy it with "
            "`genepool pack`)"
        )
    if not 1 <= version <= SCHEMA_VERSION or not {"meta", "members", "seeds", "tasks"} <= {*tables}:
        raise PoolError(
            f"{path}: this pool has schema version {version}, and this genepool reads versions 1 "
            f"to {SCHEMA_VERSION}; use the genepool that wrote it, or another pool directory"
        )
    with reading(path):
        # Unlike quick_check it sees to indices too, and is as quick where there are few.
        found = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        # A copy made while a run was writing may hold pages of two moments that fit together.
        if found != "ok":
            raise damaged(path, found.splitlines()[-1])
        # A copy made while a run was writing may hold pages of two moments that fit together.
        if db.execute("SELECT max(id) + 1 > count(*) FROM members").fetchone()[0]:
            raise damaged(path, "some of its members are missing")
        for table in tables if version > 1 else ():
            for *row, seal in db.execute(f"SELECT {_SEALED[table]}, seal FROM {table}"):
                if seal != _seal(table, *row):
                    raise damaged(path, f"a row of '{table}' is not what was written")


def log_broken(file: Path) -> bool:
    """Whether SQLite leaves out transactions of the log beside a file, since the log is damaged.

    It takes a log up to the first frame that is not whole, as after a power cut, and says nothing.
    How many frames it took stands in the log's index (https://sqlite.org/walformat.html).

    Args:
        file: has been read by a connection that is open.
    """
    # Where a run is writing, the index lags behind until the disk has what was written.
    patience = _PATIENCE if (file.parent / WRITER).exists() else 0.0
    until = time.monotonic() + patience
    while (broken := _frames_left_out(file)) and time.monotonic() < until:
        time.sleep(0.05)
    return broken


def _frames_left_out(file: Path) -> bool:
    try:
        with Path(f"{file}-wal").open("rb") as log:
            head = log.read(32)
            if len(head) < 32:
                return False
            words = struct.unpack("<6I" if head[:4] == b"\x37\x7f\x06\x82" else ">6I", head[:24])
            one = two = 0
            for first, second in zip(words[::2], words[1::2], strict=True):
                one = (one + first + two) % 2**32
                two = (two + second + one) % 2**32
            if head[24:] != struct.pack(">2I", one, two):
                return True
            size = 24 + int.from_bytes(head[8:12], "big")
            ends = 0
            for number in range(1, (os.fstat(log.fileno()).st_size - 32) // size + 1):
                log.seek(32 + (number - 1) * size)
                frame = log.read(24)
                # Frames of an earlier round of the log have another salt.
                if frame[8:16] == head[16:24] and any(frame[4:8]):
                    ends = number
        return ends > 0 and ends > struct.unpack_from("=I", _index_head(file), 16)[0]
    except (OSError, struct.error):
        return False


def _index_head(file: Path) -> bytes:
    """The first bytes of the log's index; none where they cannot be had.

    Another process reads them. Were the index opened and closed in this one, the locks that SQLite
    holds on it here would be gone (as POSIX has it), and others would take it for nobody's, cut it
    short, and end this process by SIGBUS.
    """
    import subprocess

    words = ["head", "-c", "20", f"{file.absolute()}-shm"]
    try:
        return subprocess.run(words, capture_output=True, timeout=5, check=False).stdout
    except subprocess.SubprocessError:
        return b""


def damaged(path: Path, what: str) -> PoolError:
    """What to say of a pool that is not as it was written."""
    return PoolError(f"{path}: the pool is damaged ({what}); {_RESTORE}, or begin a new pool")


@contextlib.contextmanager
def reading(path: Path) -> Generator[None, None, None]:
    """What cannot be read, or makes no sense, is a PoolError."""
    try:
        yield
    except sqlite3.ProgrammingError as error:  # Nothing is wrong with the file.
        raise PoolError(
            f"{path}: the pool was closed, or opened by another thread; open it again where it is "
            f"read ({error})"
        ) from error
    except sqlite3.Error as error:
        raise PoolError(
            f"{path}: the pool cannot be read ({error}); if {DATABASE} is damaged, {_RESTORE}"
        ) from error
    except (ValueError, TypeError, LookupError) as error:
        raise damaged(path, one_line(error)) from error


@contextlib.contextmanager
def writing(path: Path) -> Generator[None, None, None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise PoolError(
            f"{path}: cannot write to the pool ({error}); nothing recorded so far is lost. Free "
            "some space or mend the directory, then run the same command to go on"
        ) from error


# Inode, bytes, date of the last change of the content in nanoseconds; None: there is no such file.
_Glance = tuple[int, int, int] | None


class OwnFiles:
    """The database and its log, as they were left after the last transaction."""

    def __init__(self, pool: Path) -> None:
        """Note how the files are now."""
        self._pool = pool
        self._places = [pool.absolute() / name for name in (DATABASE, f"{DATABASE}-wal")]
        self._seen: list[_Glance] = [None, None]
        self.note()

    def note(self) -> None:
        """Take the files as they should be: this process has changed them since it looked.

        Raises:
            PoolError: as `look`, for a file that was deleted or replaced meanwhile.
        """
        now = [_glance(place) for place in self._places]
        for place, before, found in zip(self._places, self._seen, now, strict=True):
            if before is not None and (found is None or found[0] != before[0]):
                raise self._broken(place, before, found)
        self._seen = now

    def look(self) -> None:
        """Require that the files are as they were left.

        Raises:
            PoolError: naming the file and what became of it. What is written on would be lost.
        """
        for place, before in zip(self._places, self._seen, strict=True):
            if (now := _glance(place)) != before:
                raise self._broken(place, before, now)

    def _broken(self, place: Path, before: _Glance, now: _Glance) -> PoolError:
        if now is None:
            what = "was deleted or moved"
        elif before is None or now[0] != before[0]:
            what = "was replaced by another file"
        else:
            what = "was changed by another program"
        return PoolError(
            f"{self._pool}: {place.name} {what} while the run was writing to it, "
            "and the run ends; put the pool back, or run again to go on with what is there"
        )


def _glance(place: Path) -> _Glance:
    try:
        found = place.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
