"""Adding to a pool: one process at a time, children whole or not at all, in order."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.checkpoints.files.atomic import new_directory, sync_directory
from genepool.documents import read_text
from genepool.errors import InputError, PoolError, WriteError
from genepool.messages import at
from genepool.pool.database import (
    DATABASE,
    WRITER,
    OwnFiles,
    add_later_tables,
    check,
    connect,
    create,
    insert,
    log_broken,
    seal_rows,
    writing,
)
from genepool.pool.guards import Means
from genepool.pool.pool_header import Seed, TaskEntry
from genepool.pool.reader import Pool
from genepool.pool.records import (
    Measure,
    Picture,
    Record,
    Reevaluation,
    Transcript,
    pack_scores,
    to_row,
)

_FORGET = "UPDATE members SET genome = NULL WHERE id = ?"

# The log may grow to 16 MB before it is folded into the file: each time costs two fsyncs.
_LOG_PAGES = 4096

# Children that take less than this to make and score share a transaction: it is the work that a
# crash may undo, and the cost of committing each would exceed theirs.
_GROUP_SECONDS = 0.02

# Longest that finished work may be lost to a power cut (not to a crash: that loses nothing).
_DURABLE_SECONDS = 1.0

# The log is folded into the file each minute, and after every child that took longer than a second.
_FOLD_SECONDS, _SLOW_SECONDS = 60.0, 1.0


class PoolWriter(Pool):
    """The one process that adds to a pool.

    Attributes:
        watch: raises where what children are made of has changed; asked before each transaction, so
            that what was scored since the last good look is not kept.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open an existing pool for writing, or make the directory and an empty file.

        Raises:
            PoolError: another process is writing, or the directory cannot be used.
        """
        from filelock import FileLock, Timeout

        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise PoolError(f"{self.path}: a pool is a directory, and this is a file")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.path / "writer.lock", timeout=0)
            self._lock.acquire()
        except Timeout:
            raise PoolError(
                f"{self.path}: {_holder(self.path)} is writing to this pool; wait for it or stop "
                "it (reading, as `genepool status` does, is possible)"
            ) from None
        except OSError as error:
            raise PoolError(f"{self.path}: cannot write here ({error.strerror or error})") from None
        with contextlib.ExitStack() as undo, writing(self.path):
            undo.callback(self._lock.release)
            self._connection = connect(self.path / DATABASE, write=True)
            undo.callback(self._connection.close)
            empty = (
                self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
            )
            self.log_damaged = log_broken(self.path / DATABASE)
            (self.path / WRITER).write_text(f"{os.getpid()}\n")
            if not empty:
                check(self._connection, self.path)
                seal_rows(self._connection)
                add_later_tables(self._connection)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            # Reading makes the log, if there is none.
            self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            self._files = OwnFiles(self.path)
            self.watch: Callable[[], None] = _nothing
            self._pid = os.getpid()
            self._durable = self._committed = self._folded = time.monotonic()
            self._full = False
            # What was added and is not written yet, as rows with their tables (or what is done with
            # them), and the seconds of scoring that it took.
            self._waiting: list[tuple[str, tuple[object, ...]]] = []
            self._at_stake = 0.0
            if not empty:
                # Cut off by Ctrl-C, it may have said so, and nobody would be writing.
                undo.callback(self.close)
                self._mark(writing=True)
            undo.pop_all()

    def close(self) -> None:
        """Write what is not written yet, close the file and let others write.

        Raises:
            PoolError: the last few milliseconds of work could not be written.
        """
        self._end_if_forked()
        try:
            self._flush()
            self._files.look()
        finally:
            self.watch = _nothing
            try:
                _twice(self._say_that_nobody_writes)
            finally:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.close()
                with contextlib.suppress(OSError):
                    (self.path / WRITER).unlink()
                self._lock.release()

    def _say_that_nobody_writes(self) -> None:
        with contextlib.suppress(sqlite3.Error, PoolError):
            if self._has("meta"):
                self._mark(writing=False)

    def _mark(self, *, writing: bool) -> None:
        """Say in the file itself whether there is a log beside it that belongs to it."""
        if self.meta().get("writing", False) != writing:
            self.set_meta("writing", writing)
        self._fold()

    def _fold(self) -> None:
        """Move what the log holds into the file, as far as nobody reads the older state."""
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._folded = time.monotonic()
        finally:
            # Otherwise this would look like another program's work.
            _twice(self._files.note)

    def _reader(self) -> sqlite3.Connection:
        self._flush()
        return self._connection

    @property
    def fresh(self) -> bool:
        """Nothing has been scored here yet, so that another run may begin in its place."""
        return not (self._has("meta") and self.seeds_scored)

    def set_up(
        self, meta: Mapping[str, Any], seeds: Sequence[Seed], tasks: Sequence[TaskEntry]
    ) -> None:
        """Write the tables and what the run pins, in one transaction."""
        with self._transaction() as db:
            create(db)
            content = {**meta, "writing": True}
            # Unsorted inside: where tensors lie depends on the order of the chromosomes.
            insert(db, "meta", *((key, json.dumps(content[key])) for key in sorted(content)))
            insert(db, "seeds", *((i, s.name, s.path, s.digest) for i, s in enumerate(seeds)))
            for i, t in enumerate(tasks):
                described = (t.name, t.digest, t.weight, t.examples, t.held_out, int(t.binary))
                insert(db, "tasks", (i, *described))
        self._fold()

    def set_meta(self, key: str, value: object) -> None:
        """Change one entry of `meta`."""
        with self._transaction() as db:
            insert(db, "meta", (key, json.dumps(value)))

    def add(
        self,
        record: Record,
        *,
        held_out: tuple[NDArray[np.float32], float] | None = None,
        guards: Means = (),
        forget: Sequence[int] = (),
    ) -> None:
        """Append one member, with its held-out scores if measured, whole or not at all.

        Members share a transaction while they come within 20 ms and took no longer to score.

        Args:
            record: its id must be the next one.
            held_out: float32[M] and their weighted mean.
            guards: its mean score on each guard; empty if it was asked none.
            forget: members whose stored genomes are no longer needed (they can be bred again).
        """
        rows: list[tuple[str, tuple[object, ...]]] = [("members", to_row(record))]
        rows += [
            ("guards", (record.id, number, mean))
            for number, mean in enumerate(guards)
            if mean is not None
        ]
        if held_out is not None:
            rows.append(("held_out", _held_out_row(record.id, *held_out)))
        rows += [(_FORGET, (gone,)) for gone in forget]
        # At once, since Ctrl-C may end the run between any two lines.
        self._waiting += rows
        self._at_stake += record.seconds
        since = time.monotonic() - self._committed
        if max(since, self._at_stake) >= _GROUP_SECONDS:
            self._flush()

    def _flush(self) -> None:
        """Write the members that wait, in one transaction."""
        if not self._waiting:
            return
        waiting, self._waiting, self._at_stake = self._waiting, [], 0.0
        # What could not be written is bred again when the run goes on.
        with self._transaction() as db:
            for what, row in waiting:
                if what == _FORGET:
                    db.execute(_FORGET, row)
                else:
                    insert(db, what, row)

    def add_held_out(self, member: int, scores: NDArray[np.float32], mean: float) -> None:
        """Record held-out scores, float32[M], and their weighted mean."""
        with self._transaction() as db:
            insert(db, "held_out", _held_out_row(member, scores, mean))

    def add_measures(self, member: int, measures: Sequence[Measure]) -> None:
        """Record what was measured of a member besides its scores."""
        with self._transaction() as db:
            insert(db, "measures", *((member, *measure) for measure in measures))

    def set_pictures(self, pictures: Sequence[Picture]) -> None:
        """Record what members drew, in place of all pictures that were there."""
        with self._transaction() as db:
            db.execute("DELETE FROM pictures")
            insert(db, "pictures", *pictures)

    def set_transcripts(self, transcripts: Sequence[Transcript]) -> None:
        """Record what members did, in place of all episodes that were there."""
        with self._transaction() as db:
            db.execute("DELETE FROM episodes")
            insert(db, "episodes", *transcripts)

    def add_subset(self, number: int, indices: NDArray[np.int64]) -> None:
        """Record which examples members compete for from now on.

        Args:
            number: of the subset, from 0.
            indices: int64[n], positions among all N.
        """
        chosen = np.full(self.header.examples.size, np.nan, dtype=np.float32)
        chosen[indices] = 1.0
        with self._transaction() as db:
            insert(db, "rounds", (number, pack_scores(chosen)))

    def add_reevaluation(self, again: Reevaluation) -> None:
        """Record a member's re-evaluation."""
        scores = None if again.scores is None else pack_scores(again.scores)
        row = (*(again.member, again.subset, scores), *(again.error, again.asked))
        with self._transaction() as db:
            insert(db, "answers", (*row, again.seconds))

    @contextlib.contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection, None, None]:
        """What is written inside is written whole or not at all, after all that came before."""
        self._flush()
        with writing(self.path):
            self._look()
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._commit()
            except BaseException:
                self._roll_back()
                raise

    def _end_if_forked(self) -> None:
        """End this process if it is a copy that a function of the user's has made by a fork.

        The copy has the same lock and the same connection, so that there would be two writers. It
        ends without tidying up, since what there is to tidy belongs to the process that it copies.
        """
        if os.getpid() != self._pid:
            text = (
                f"genepool: a function of the run has forked process {self._pid}; its copy ends\n"
            )
            os.write(2, text.encode())
            os._exit(1)

    def _look(self) -> None:
        """Whether all is as it should be before a transaction, and how durable it has to be."""
        self._end_if_forked()
        self.watch()
        self._files.look()
        self._full = time.monotonic() - self._durable > _DURABLE_SECONDS
        if self._full:
            self._connection.execute("PRAGMA synchronous = FULL")

    def _commit(self) -> None:
        self._connection.execute("COMMIT")
        self._files.note()
        before, self._committed = self._committed, time.monotonic()
        if self._full:
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._durable = self._committed
        # Whoever copies the file alone should have nearly everything.
        if (
            self._committed - before > _SLOW_SECONDS
            or self._committed - self._folded > _FOLD_SECONDS
        ):
            self._fold()

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("ROLLBACK")
        # What could not be committed has changed the log all the same.
        _twice(self._files.note)


def pack_pool(pool: Pool, directory: Path) -> int:
    """Copy a pool as it is at one moment into a directory, which then is a pool of one file.

    Args:
        pool: to copy.
        directory: new or empty.

    Returns:
        Number of children in the copy.

    Raises:
        InputError: the directory holds something.
        PoolError, WriteError: the copy cannot be written; nothing is left of it.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{at(directory)}: exists and is not empty; name another directory")
    try:
        with new_directory(directory.absolute()) as temporary:
            with (
                writing(temporary),
                contextlib.closing(connect(temporary / DATABASE, write=True)) as db,
            ):
                pool.copy_to(db)
                seal_rows(db)
                insert(db, "meta", ("writing", "false"))
                # No log: nothing is beside the file, also while it is read.
                db.execute("PRAGMA journal_mode = DELETE").fetchall()
            with Pool(temporary) as copy:
                children = copy.evaluations
            if directory.exists():
                directory.rmdir()
            temporary.rename(directory)
        sync_directory(directory.absolute().parent)
    except OSError as error:
        raise WriteError(f"{at(directory)}: cannot be written: {error.strerror}") from error
    return children


def _nothing() -> None:
    """Nothing is watched."""


def _twice(do: Callable[[], object]) -> None:
    """Do it, and where Ctrl-C cuts it off do it again, before that ends the run."""
    try:
        do()
    except KeyboardInterrupt:
        do()
        raise


def _held_out_row(
    member: int, scores: NDArray[np.float32], mean: float
) -> tuple[int, bytes, float]:
    return member, pack_scores(scores), mean


def _holder(path: Path) -> str:
    """Who writes to a pool: of a notebook or a script with threads it may be this very process."""
    try:
        number = int(read_text(path / WRITER, 100))
    except (OSError, ValueError):
        return "another genepool process"
    if number == os.getpid():
        return "another call in this process"
    return f"another genepool process (pid {number})"
