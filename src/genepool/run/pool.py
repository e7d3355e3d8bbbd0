"""The pool: the directory in which a population lives and survives.

One SQLite file (write-ahead log; children are written whole or not at all) plus caches that can be
deleted. Reading needs neither the seeds nor the tasks, and works while a run is writing. A run that
dies at any moment leaves a pool that opens and goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.core.genome import Genome, Recipe, decode, digest, seed_recipe
from genepool.core.strategies import breed
from genepool.errors import PoolError
from genepool.run.database import (
    DATABASE,
    check_schema,
    connect,
    reading,
)
from genepool.run.guards import GuardEntry, Means, standing
from genepool.run.records import COLUMNS, Record, from_row, unpack_scores


@dataclass(frozen=True, slots=True)
class Seed:
    """An input checkpoint: name, path as given, digest of its tensors."""

    name: str
    path: str
    digest: str


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """A task as pinned: digest of its examples, weight, sizes, whether scores are 0 or 1."""

    name: str
    digest: str
    weight: float
    examples: int
    held_out: int
    binary: bool


class Pool:
    """A pool opened for reading. `PoolWriter` adds to one."""

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
                "`genepool evolve RUN.yaml` makes one"
            )
        self._connection = connect(file, write=False)
        with contextlib.ExitStack() as undo:
            undo.callback(self._connection.close)
            check_schema(self._connection, self.path)
            undo.pop_all()

    def close(self) -> None:
        """Close the file; the pool stays."""
        self._connection.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _reader(self) -> sqlite3.Connection:
        """A connection that sees all that was added."""
        return self._connection

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with reading(self.path):
            return self._reader().execute(query, values).fetchall()

    def meta(self) -> dict[str, Any]:
        """What the run pinned: `pins` and `config`, `axis_size`, `kind` of genome, `budget`."""
        return {key: json.loads(value) for key, value in self._rows("SELECT * FROM meta")}

    def seeds(self) -> list[Seed]:
        """The seeds, in order; seed k is member k."""
        return [
            Seed(*row)
            for row in self._rows("SELECT name, path, digest FROM seeds ORDER BY position")
        ]

    def tasks(self) -> list[TaskEntry]:
        """The tasks that members compete for; their examples are laid end to end in this order."""
        rows = self._rows(
            "SELECT name, digest, weight, examples, held_out, is_binary FROM tasks "
            "ORDER BY position"
        )
        return [TaskEntry(*row[:5], binary=bool(row[5])) for row in rows]

    def guards(self) -> list[GuardEntry]:
        """The guard tasks, in order."""
        return [GuardEntry(**entry) for entry in self.meta().get("guards", ())]

    def guard_means(self) -> dict[int, Means]:
        """Mean score on each guard of every member that was asked any."""
        guards = self.guards()
        out: dict[int, list[float | None]] = {}
        for member, number, mean in self._rows("SELECT * FROM guards") if guards else ():
            out.setdefault(member, [None] * len(guards))[number] = mean
        return {member: tuple(means) for member, means in out.items()}

    @property
    def examples(self) -> int:
        """Number N of training examples over all tasks."""
        return sum(task.examples for task in self.tasks())

    @property
    def evaluations(self) -> int:
        """Number of children absorbed; the seeds do not count."""
        return int(self._rows("SELECT count(*) FROM members WHERE step > 0")[0][0])

    def records(
        self, since: int = 0, *, accepted: bool = False, last: int | None = None
    ) -> Iterator[Record]:
        """Members in order of absorption, from id `since`; only those accepted, if asked."""
        size = self.examples
        where = "id >= ?" + (" AND verdict = 'accepted'" if accepted else "")
        query = f"SELECT {COLUMNS} FROM members WHERE {where} ORDER BY id"
        with reading(self.path):
            for row in self._reader().execute(query, (since,)):
                if last is not None and row[0] > last:
                    return
                yield from_row(row, size)

    def record(self, member: int) -> Record:
        """One member.

        Raises:
            PoolError: there is no such member.
        """
        rows = self._rows(f"SELECT {COLUMNS} FROM members WHERE id = ?", (member,))
        if not rows:
            top = self._rows("SELECT max(id) FROM members")[0][0]
            raise PoolError(
                f"{self.path}: there is no member {member}; members are numbered 0 to {top}"
            )
        return from_row(rows[0], self.examples)

    def slots(self, last: int | None = None) -> dict[int, int]:
        """Slot -> member id of the archive now, or as it stood after member `last`."""
        query = "SELECT slot, id FROM members WHERE verdict = 'accepted'"
        if last is not None:
            query += f" AND id <= {int(last)}"
        return dict(self._rows(query + " ORDER BY id"))

    def retired(self) -> dict[int, int]:
        """Members with a stored genome that have left the archive -> the step at which they did."""
        query = (
            "SELECT gone.id, next.step FROM members AS gone JOIN members AS next "
            "ON next.evicted = gone.id WHERE gone.genome IS NOT NULL"
        )
        return dict(self._rows(query))

    def champion(self) -> int | None:
        """The member with the best training score of all that were ever accepted; the first of
        equals. None while the pool is empty."""
        rows = self._rows(
            "SELECT id FROM members WHERE verdict = 'accepted' ORDER BY train DESC, id LIMIT 1"
        )
        return int(rows[0][0]) if rows else None

    def held_out(self) -> dict[int, float]:
        """Mean held-out score of every member for which it was measured."""
        return dict(self._rows("SELECT member, mean FROM held_out"))

    def held_out_scores(self, member: int) -> NDArray[np.float32] | None:
        """float32[M] over the held-out examples, or None if not measured."""
        rows = self._rows("SELECT scores FROM held_out WHERE member = ?", (member,))
        size = sum(task.held_out for task in self.tasks())
        return unpack_scores(rows[0][0], size) if rows else None

    def genome(self, member: int) -> Genome:
        """The genome of any member ever bred, the rejected too.

        Where it is not stored it is bred again from its parents, which is exact.

        Raises:
            PoolError: no such member, or what was bred differs from what was recorded.
        """
        known: dict[int, Genome] = {}
        stack = [member]
        while stack:
            number = stack[-1]
            row = self.record(number)
            if row.genome is not None:
                known[number] = decode(row.genome)
            elif row.step == 0:
                known[number] = self._seed_genome(number)
            elif row.merge is None:
                raise PoolError(
                    f"{self.path}: member {number} cannot be made again: its weights were drawn "
                    "by the strategy, and only those of accepted members are kept"
                )
            else:
                missing = [parent for parent in row.parents if parent not in known]
                if missing:
                    stack += missing
                    continue
                merge = decode(row.merge)
                if not isinstance(merge, Recipe):
                    raise PoolError(f"{self.path}: the merge of member {number} is damaged")
                seed = int(self.meta()["seed"])
                parents = [known[parent] for parent in row.parents]
                known[number] = breed(merge, parents, row.mutation, seed, row.step)
            if row.digest is not None and digest(known[number]) != row.digest:
                raise PoolError(
                    f"{self.path}: member {number} was bred again but differs from what was "
                    "recorded; the pool is damaged"
                )
            stack.pop()
        return known[member]

    def _seed_genome(self, position: int) -> Genome:
        meta = self.meta()
        if meta["kind"] != "recipe":
            raise PoolError(f"{self.path}: seed {position} has no stored genome")
        return seed_recipe(int(meta["axis_size"]), position, len(self.seeds()))

    def status(self) -> dict[str, Any]:
        """What `genepool status --json` prints (see docs/cli.md)."""
        meta, held = self.meta(), self.held_out()
        counts = self._rows(
            "SELECT count(*), sum(verdict = 'accepted'), sum(asked), sum(verdict = 'failed'), "
            "sum(verdict = 'stopped'), sum(verdict = 'guarded') FROM members WHERE step > 0"
        )[0]
        details = {
            row[0]: {"member": row[0], "train": row[1], "genome": row[2]}
            for row in self._rows(
                "SELECT id, train, digest FROM members WHERE verdict = 'accepted' OR step = 0"
            )
        }
        champion = self.champion()
        return {
            "pool": str(self.path),
            "evaluations": counts[0],
            "budget": meta["budget"],
            "accepted": counts[1] or 0,
            "stopped": counts[4] or 0,
            "guarded": counts[5] or 0,
            "failed": counts[3] or 0,
            "examples_evaluated": counts[2] or 0,
            "examples_total": counts[0] * self.examples,
            "archive": [
                {"slot": slot, **details[member]} for slot, member in sorted(self.slots().items())
            ],
            "champion": None
            if champion is None
            else {**details[champion], "held_out": held.get(champion)},
            "seeds": [
                {
                    "name": seed.name,
                    "train": details.get(number, {}).get("train"),
                    "held_out": held.get(number),
                }
                for number, seed in enumerate(self.seeds())
            ],
            "guards": self.guard_standing(champion),
        }

    def guard_standing(self, champion: int | None = None) -> list[dict[str, Any]]:
        """What each guard asks for; see `guards.standing`. The champion's score is added."""
        names, means = [seed.name for seed in self.seeds()], self.guard_means()
        seeds = {name: means[k] for k, name in enumerate(names) if k in means}
        others = {member: row for member, row in means.items() if member >= len(names)}
        return [
            {**entry, "champion": means[champion][number] if champion in means else None}
            for number, entry in enumerate(standing(self.guards(), seeds, others))
        ]
