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
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.core.examples import Examples, TaskExamples, lay_out
from genepool.core.genome import Genome, Recipe, decode, digest, seed_recipe
from genepool.core.subsets import Rounds
from genepool.errors import PoolError
from genepool.pool.database import (
    DATABASE,
    check_schema,
    connect,
    reading,
)
from genepool.pool.guards import GuardEntry, Means, standing
from genepool.pool.records import (
    COLUMNS,
    FINAL,
    Record,
    from_row,
    known_by,
    unpack_scores,
)
from genepool.strategies import breed


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
    def evaluations(self) -> int:
        """Number of children absorbed; the seeds do not count."""
        return int(self._rows("SELECT count(*) FROM members WHERE step > 0")[0][0])

    def records(
        self, since: int = 0, *, accepted: bool = False, last: int | None = None
    ) -> Iterator[Record]:
        """Members in order of absorption, from id `since`; only those accepted, if asked.

        In a run with rounds a record holds all that the member was ever asked.
        """
        size, later = self.examples.size, self._answers()
        where = "id >= ?" + (" AND verdict = 'accepted'" if accepted else "")
        query = f"SELECT {COLUMNS} FROM members WHERE {where} ORDER BY id"
        with reading(self.path):
            for row in self._reader().execute(query, (since,)):
                if last is not None and row[0] > last:
                    return
                record = from_row(row, size)
                yield (
                    known_by(record, later[record.id], self.examples)
                    if record.id in later
                    else record
                )

    def record(self, member: int, *, finals: bool = True) -> Record:
        """One member.

        Args:
            member: its id.
            finals: in a run with rounds, with what it was asked as a finalist.

        Raises:
            PoolError: there is no such member.
        """
        rows = self._rows(f"SELECT {COLUMNS} FROM members WHERE id = ?", (member,))
        if not rows:
            top = self._rows("SELECT max(id) FROM members")[0][0]
            there = "the pool has none yet" if top is None else f"members are numbered 0 to {top}"
            raise PoolError(f"{self.path}: there is no member {member}; {there}")
        record, later = from_row(rows[0], self.examples.size), self._answers(member, finals)
        return known_by(record, later[member], self.examples) if later else record

    def slots(self, last: int | None = None) -> dict[int, int]:
        """Slot -> member id of the archive now, or as it stood after member `last`."""
        query = "SELECT slot, id FROM members WHERE verdict = 'accepted'"
        if last is not None:
            query += f" AND id <= {int(last)}"
        slots: dict[int, int] = dict(self._rows(query + " ORDER BY id"))
        for member, left in self.departed().items():
            # Child t has id t + K - 1, K seeds coming first.
            if last is None or left <= last - len(self.seeds()) + 1:
                slots = {slot: held for slot, held in slots.items() if held != member}
        return slots

    def retired(self) -> dict[int, int]:
        """Members with a stored genome that have left the archive -> the step at which they did."""
        query = (
            "SELECT gone.id, next.step FROM members AS gone JOIN members AS next "
            "ON next.evicted = gone.id WHERE gone.genome IS NOT NULL"
        )
        return dict(self._rows(query))

    def champion(self) -> int | None:
        """The member with the best training score of all that were ever accepted; the first of
        equals. None while the pool is empty.

        In a run with rounds only seeds and finalists are known on all examples, and the best of
        them it is. While there are no finalists, it is the best of the archive on the last round's
        examples.
        """
        if self.rounds is not None:
            return self._champion_of_rounds()
        rows = self._rows(
            "SELECT id FROM members WHERE verdict = 'accepted' ORDER BY train DESC, id LIMIT 1"
        )
        return int(rows[0][0]) if rows else None

    @cached_property
    def rounds(self) -> Rounds | None:
        """How members compete for a part of the examples at a time; None: for all, always."""
        held = self.meta().get("rounds")
        return None if held is None else Rounds(**held)

    def round_examples(self) -> list[NDArray[np.int64]]:
        """The examples of every round so far, int64[n] each, rising; empty without rounds."""
        if self.rounds is None:
            return []
        rows = self._rows("SELECT examples FROM rounds ORDER BY number")
        return [
            np.flatnonzero(~np.isnan(unpack_scores(row[0], self.examples.size))) for row in rows
        ]

    def finalists(self) -> list[int]:
        """Members that were scored on all examples in the end of a run with rounds."""
        if self.rounds is None:
            return []
        query = "SELECT member FROM answers WHERE round = ? AND error IS NULL ORDER BY member"
        return [row[0] for row in self._rows(query, (FINAL,))]

    def asked_again(self) -> dict[int, int]:
        """Examples that members were asked after their birth, by the number of children then."""
        if self.rounds is None:
            return {}
        query = "SELECT round, sum(asked) FROM answers GROUP BY round"
        return {
            self.evaluations if number == FINAL else number * self.rounds.renew: int(count)
            for number, count in self._rows(query)
        }

    def departed(self) -> dict[int, int]:
        """Members that failed when they were asked again, and so left the archive -> the number of
        children at that time."""
        if self.rounds is None:
            return {}
        query = "SELECT member, round FROM answers WHERE error IS NOT NULL AND round >= 0"
        return {member: number * self.rounds.renew for member, number in self._rows(query)}

    def mean(self, scores: NDArray[np.float32], examples: NDArray[np.int64]) -> float:
        """Mean score on some examples, tasks weighed as the run file says.

        Args:
            scores: float32[N].
            examples: int64[n], rising, positions in 0..N-1, some of every task.
        """
        return self.examples.select(examples).mean(scores[examples])

    @cached_property
    def examples(self) -> Examples:
        """The examples that members compete for."""
        tasks = self.tasks()
        parts = [TaskExamples(task.name, task.examples, task.weight) for task in tasks]
        return lay_out(parts, binary=all(task.binary for task in tasks))

    def _answers(self, member: int | None = None, finals: bool = True) -> dict[int, list[bytes]]:
        """What members were asked after their birth, packed: unpacked, a long run's would not fit
        into memory."""
        out: dict[int, list[bytes]] = {}
        if self.rounds is None:
            return out
        query = "SELECT member, scores FROM answers WHERE scores IS NOT NULL"
        query += "" if finals else f" AND round != {FINAL}"
        query += "" if member is None else f" AND member = {int(member)}"
        for number, scores in self._rows(query):
            out.setdefault(number, []).append(scores)
        return out

    def _champion_of_rounds(self) -> int | None:
        finalists = self.finalists()
        if finalists:
            seeds = [row[0] for row in self._rows("SELECT id FROM members WHERE step = 0")]
            means = {member: self.record(member).train or 0.0 for member in [*seeds, *finalists]}
            return min(means, key=lambda member: (-means[member], member))
        alive = [self.record(member) for member in self.slots().values()]
        for examples in reversed(self.round_examples()):
            means = {
                record.id: self.mean(record.scores, examples)
                for record in alive
                if record.scores is not None
            }
            # A round that is being prepared is not known of everybody yet.
            if means and not any(np.isnan(mean) for mean in means.values()):
                return min(means, key=lambda member: (-means[member], member))
        return None

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
        champion, slots, rounds = self.champion(), self.slots(), self._rounds_status()
        if rounds is not None:
            more = sum(self.asked_again().values())
            counts = (*counts[:2], (counts[2] or 0) + more, *counts[3:])
            for member in {*slots.values(), *(() if champion is None else (champion,))}:
                details[member]["train"] = self.record(member).train
        return {
            "pool": str(self.path),
            "evaluations": counts[0],
            "budget": meta["budget"],
            "accepted": counts[1] or 0,
            "stopped": counts[4] or 0,
            "guarded": counts[5] or 0,
            "failed": counts[3] or 0,
            "last_failure": self._last_failure(),
            "examples_evaluated": counts[2] or 0,
            "examples_total": counts[0] * self.examples.size,
            "archive": [
                {"slot": slot, **details[member]} for slot, member in sorted(slots.items())
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
            "rounds": rounds,
        }

    def _last_failure(self) -> dict[str, Any] | None:
        found = self._rows(
            "SELECT id, error FROM members WHERE verdict = 'failed' ORDER BY id DESC LIMIT 1"
        )
        return {"member": found[0][0], "error": found[0][1]} if found else None

    def _rounds_status(self) -> dict[str, Any] | None:
        """The round that a run is in; None without rounds."""
        examples = self.round_examples()
        if self.rounds is None or not examples:
            return None
        return {
            "share": self.rounds.share,
            "renew": self.rounds.renew,
            "number": len(examples) - 1,
            "examples": examples[-1].size,
            "finalists": self.finalists(),
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
