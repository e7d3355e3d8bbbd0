"""The pool: the directory in which a population lives and survives.

One SQLite file (write-ahead log; children are written whole or not at all) plus caches that can be
deleted. Reading needs neither the seeds nor the tasks, and works while a run is writing. A run that
dies at any moment leaves a pool that opens and goes on.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.core.champion import first_best
from genepool.core.genome import Genome
from genepool.documents import mapping_of
from genepool.errors import PoolError
from genepool.messages import percent
from genepool.pool import summary
from genepool.pool.breeding import bred_again
from genepool.pool.database import reading
from genepool.pool.guards import Means, standing
from genepool.pool.pool_header import task_scores
from genepool.pool.records import (
    COLUMNS,
    FINAL,
    Measure,
    Picture,
    Record,
    Transcript,
    completed,
    from_row,
    unpack_scores,
)
from genepool.pool.store import Store

# Among a list of numbers, given as JSON.
_AMONG = "IN (SELECT value FROM json_each(?))"

# Members and those behind them, oldest first; `until` says whose parents are not asked for.
_LINEAGE = """
WITH RECURSIVE line (member) AS (
    SELECT value FROM json_each(?)
    UNION
    SELECT parent.value FROM line JOIN members ON members.id = member,
        json_each(members.parents) AS parent
    WHERE {until})
SELECT {columns} FROM members WHERE id IN line ORDER BY id
"""


def _numbers(members: Iterable[int]) -> str:
    """Ids as `_AMONG` takes them; JSON does not know numpy's numbers."""
    return json.dumps(list(members), default=int)


class Pool(Store):
    """A pool opened for reading: its members. `PoolWriter` adds to one."""

    def __repr__(self) -> str:
        found = ""
        with contextlib.suppress(PoolError, sqlite3.Error):
            found = f": {summary.line(self.status())}"
        return f"<genepool.Pool {str(self.path)!r}{found}>"

    def _repr_html_(self) -> str:
        return summary.html(self.status())

    @property
    def evaluations(self) -> int:
        """Number of children absorbed; the seeds do not count."""
        return int(self._rows("SELECT count(*) FROM members WHERE step > 0")[0][0])

    @property
    def seeds_scored(self) -> int:
        """Number of seeds whose scores are in the pool; a run begins with scoring them."""
        return int(self._rows("SELECT count(*) FROM members WHERE step <= 0")[0][0])

    def records(
        self, since: int = 0, *, accepted: bool = False, last: int | None = None
    ) -> Iterator[Record]:
        """Members in order of absorption, from id `since` to `last`; only those accepted, if asked.

        In a run with subsets a record holds all that the member was ever asked.
        """
        later = self._reevaluations()
        where = "id >= ?" + (" AND verdict = 'accepted'" if accepted else "")
        where += "" if last is None else f" AND id <= {int(last)}"
        query = f"SELECT {COLUMNS} FROM members WHERE {where} ORDER BY id"
        with reading(self.path):
            for row in self._reader().execute(query, (int(since),)):
                yield self._record(row, later)

    def chosen(self, members: Iterable[int], *, finals: bool = True) -> dict[int, Record]:
        """Some members by id, in the order asked for.

        Args:
            members: their ids.
            finals: in a run with subsets, with what they were asked as finalists.

        Raises:
            PoolError: there is no such member.
        """
        wanted = list(members)
        query = f"SELECT {COLUMNS} FROM members WHERE id {_AMONG}"
        rows = {row[0]: row for row in self._rows(query, (_numbers(wanted),))}
        self._require(wanted, rows)
        later = self._reevaluations(wanted, finals)
        return {member: self._record(rows[member], later) for member in wanted}

    def record(self, member: int) -> Record:
        """One member; see `chosen`."""
        return self.chosen([member])[member]

    def parents(self, member: int) -> dict[int, tuple[int, ...]]:
        """The parents of a member and of all that it descends from, in order of absorption.

        Raises:
            PoolError: there is no such member, or it descends from itself.
        """
        rows = self._line([member], "id, parents", "true")
        found = {number: tuple(json.loads(parents)) for number, parents in rows}
        for number, parents in found.items():
            self._require_descent(number, parents, found)
        return found

    def lineage(self, members: Iterable[int]) -> list[Record]:
        """Members and what they descend from, as they were born, in order of absorption; no further
        back than to members whose genome is stored.

        Raises:
            PoolError: there is no such member, or one that descends from itself.
        """
        rows = self._line(list(members), COLUMNS, "genome IS NULL")
        found = {row[0]: from_row(row, self.header.examples.size) for row in rows}
        for record in found.values():
            if record.genome is None:
                self._require_descent(record.id, record.parents, found)
        return list(found.values())

    def _line(self, members: Sequence[int], columns: str, until: str) -> list[tuple[Any, ...]]:
        query = _LINEAGE.format(until=until, columns=columns)
        rows = self._rows(query, (_numbers(members),))
        self._require(members, {row[0] for row in rows})
        return rows

    def _require_descent(self, member: int, parents: Sequence[int], found: Collection[int]) -> None:
        if not all(parent < member and parent in found for parent in parents):
            raise PoolError(
                f"{self.path}: member {member} descends from itself or from nobody; damaged pool"
            )

    def _require(self, wanted: Iterable[int], found: Collection[int]) -> None:
        missing = [member for member in wanted if member not in found]
        if missing:
            top = self._rows("SELECT max(id) FROM members")[0][0]
            there = "the pool has none yet" if top is None else f"members are numbered 0 to {top}"
            raise PoolError(f"{self.path}: there is no member {missing[0]}; {there}")

    def _record(self, row: tuple[Any, ...], later: Mapping[int, Sequence[bytes]]) -> Record:
        examples = self.header.examples
        with reading(self.path):
            return completed(from_row(row, examples.size), later.get(row[0], ()), examples)

    def genomes(self, members: Iterable[int]) -> dict[int, Genome]:
        """The genomes of any members ever bred, the rejected too, by id; see `bred_again`.

        Raises:
            PoolError: no such member, or one cannot be bred as it was.
        """
        wanted = list(members)
        lineage = self.lineage(wanted)
        try:
            with reading(self.path):
                known = bred_again(self.header, lineage)
        except PoolError as error:
            raise PoolError(f"{self.path}: {error}") from None
        return {member: known[member] for member in wanted}

    def genome(self, member: int) -> Genome:
        """The genome of a member; see `genomes`."""
        return self.genomes([member])[member]

    def slots(self, last: int | None = None) -> dict[int, int]:
        """Slot -> member id of the archive now, or as it stood after member `last`."""
        query = "SELECT slot, id FROM members WHERE verdict = 'accepted'"
        if last is not None:
            query += f" AND id <= {int(last)}"
        slots: dict[int, int] = dict(self._rows(query + " ORDER BY id"))
        # Child t has id t + K - 1, K seeds coming first.
        step = None if last is None else last - len(self.header.seeds) + 1
        gone = {m for m, left in self.departed().items() if step is None or left <= step}
        return {slot: member for slot, member in slots.items() if member not in gone}

    def cell(self, slot: int) -> str | None:
        """What the members of a slot can do, where slots are the cells of MAP-Elites' grid."""
        strategy = mapping_of(mapping_of(self._at_opening["pins"]).get("strategy"))
        if strategy.get("name") != "map-elites":
            return None
        parts: list[str] = []
        with reading(self.path):
            cells = max(1, strategy["cells"])
            for measure in reversed(strategy["measures"]):
                slot, at = divmod(slot, cells)
                low, high = percent(at / cells), percent((at + 1) / cells)
                labels = f" ({', '.join(measure['labels'])})" if measure["labels"] else ""
                parts.insert(0, f"{measure['task']}{labels} {low} to {high}")
        return ", ".join(parts)

    def retired(self) -> dict[int, int]:
        """Members with a stored genome that have left the archive -> the step at which they did."""
        query = (
            "SELECT gone.id, next.step FROM members AS gone JOIN members AS next "
            "ON next.evicted = gone.id WHERE gone.genome IS NOT NULL"
        )
        return dict(self._rows(query))

    def champion(self) -> int | None:
        """The member with the best selection score of all that were ever accepted; the first of
        equals. None while the pool is empty.

        In a run with subsets it is the best of seeds and finalists, who are known on all examples.
        While there are no finalists, it is the best of the archive on the last subset's examples,
        but where all of these are known on all examples.
        """
        if self.header.subsets is not None:
            return self._champion_of_subsets()
        rows = self._rows("SELECT id, train FROM members WHERE verdict = 'accepted'")
        return first_best(dict(rows)) if rows else None

    def _champion_of_subsets(self) -> int | None:
        finalists = self.finalists()
        alive = self.chosen(finalists or self.slots().values()).values()
        if not any(record.scores is None or np.isnan(record.scores).any() for record in alive):
            known = [*self.records(last=len(self.header.seeds) - 1), *alive]
            means = {record.id: record.train or 0.0 for record in known}
            return first_best(means) if means else None
        for indices in reversed(self.subset_examples()):
            examples = self.header.examples.select(indices)
            means = {r.id: examples.mean(r.scores[indices]) for r in alive if r.scores is not None}
            # A subset that is being prepared is not known of everybody yet.
            if means and not any(np.isnan(mean) for mean in means.values()):
                return first_best(means)
        return None

    # Subsets: a part of the examples at a time

    def subset_examples(self) -> list[NDArray[np.int64]]:
        """The examples of every subset so far, int64[n] each, rising; empty without subsets."""
        if self.header.subsets is None:
            return []
        size = self.header.examples.size
        rows = self._rows("SELECT examples FROM rounds ORDER BY number")
        return [np.flatnonzero(~np.isnan(unpack_scores(row[0], size))) for row in rows]

    def finalists(self) -> list[int]:
        """Members that were scored on all examples in the end of a run with subsets."""
        if self.header.subsets is None:
            return []
        query = "SELECT member FROM answers WHERE round = ? AND error IS NULL ORDER BY member"
        return [row[0] for row in self._rows(query, (FINAL,))]

    def reevaluated(self) -> dict[int, int]:
        """Examples that members were asked after their birth, by the number of children then."""
        subsets = self.header.subsets
        if subsets is None:
            return {}
        query = "SELECT round, sum(asked) FROM answers GROUP BY round"
        return {
            self.evaluations if number == FINAL else number * subsets.renew: int(count)
            for number, count in self._rows(query)
        }

    def departed(self) -> dict[int, int]:
        """Members that failed when they were re-evaluated, and so left the archive -> the number of
        children at that time."""
        subsets = self.header.subsets
        if subsets is None:
            return {}
        query = "SELECT member, round FROM answers WHERE error IS NOT NULL AND round >= 0"
        return {member: number * subsets.renew for member, number in self._rows(query)}

    def _reevaluations(
        self, members: Sequence[int] | None = None, finals: bool = True
    ) -> dict[int, list[bytes]]:
        """What members were asked after their birth, packed: unpacked, a long run's would not fit
        into memory."""
        out: dict[int, list[bytes]] = {}
        if self.header.subsets is None:
            return out
        query = "SELECT member, scores FROM answers WHERE scores IS NOT NULL"
        query += "" if finals else f" AND round != {FINAL}"
        query += "" if members is None else f" AND member {_AMONG}"
        for number, scores in self._rows(query, () if members is None else (_numbers(members),)):
            out.setdefault(number, []).append(scores)
        return out

    # Held-out scores and guards

    def held_out(self) -> dict[int, float]:
        """Mean held-out score of every member for which it was measured."""
        return dict(self._rows("SELECT member, mean FROM held_out"))

    def held_out_scores(self, member: int) -> NDArray[np.float32] | None:
        """float32[M] over the held-out examples, or None if not measured."""
        return self.held_out_of([member]).get(member)

    def held_out_of(self, members: Iterable[int]) -> dict[int, NDArray[np.float32]]:
        """float32[M] over the held-out examples, for those of the members that were measured."""
        query = f"SELECT member, scores FROM held_out WHERE member {_AMONG}"
        held_out = self.header.held_out
        size = 0 if held_out is None else held_out.size
        rows = self._rows(query, (_numbers(members),))
        return {member: unpack_scores(scores, size) for member, scores in rows}

    def measures(self) -> dict[int, tuple[Measure, ...]]:
        """What was measured of members besides their scores, by member."""
        out: dict[int, list[Measure]] = {}
        query = "SELECT member, task, name, value FROM measures ORDER BY member, task, name"
        for member, *measure in self._rows(query) if self._has("measures") else ():
            out.setdefault(member, []).append(Measure(*measure))
        return {member: tuple(found) for member, found in out.items()}

    def pictures(self) -> list[Picture]:
        """What seeds, champion and others drew when the run was last at its budget."""
        query = (
            "SELECT member, task, part, example, caption, png FROM pictures "
            "ORDER BY task, part, member, example"
        )
        return [Picture(*row) for row in self._rows(query)] if self._has("pictures") else []

    def transcripts(self) -> list[Transcript]:
        """What seeds and champion did when the run was last at its budget."""
        query = (
            "SELECT member, task, part, example, transcript FROM episodes "
            "ORDER BY task, part, example, member"
        )
        return [Transcript(*row) for row in self._rows(query)] if self._has("episodes") else []

    def _has(self, table: str) -> bool:
        """Whether the pool is not older than a table."""
        return bool(self._rows("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)))

    def guard_means(self) -> dict[int, Means]:
        """Mean score on each guard of every member that was asked any."""
        count = len(self.header.guards)
        out: dict[int, list[float | None]] = {}
        rows = self._rows("SELECT member, guard, mean FROM guards") if count else ()
        for member, number, mean in rows:
            out.setdefault(member, [None] * count)[number] = mean
        return {member: tuple(means) for member, means in out.items()}

    def guard_standing(self, champion: int | None = None) -> list[dict[str, Any]]:
        """What each guard asks for; see `guards.standing`. The champion's score is added."""
        names, means = [seed.name for seed in self.header.seeds], self.guard_means()
        seeds = {name: means[k] for k, name in enumerate(names) if k in means}
        others = {member: row for member, row in means.items() if member >= len(names)}
        return [
            {**entry, "champion": means[champion][number] if champion in means else None}
            for number, entry in enumerate(standing(self.header.guards, seeds, others))
        ]

    # Status

    def status(self) -> dict[str, Any]:
        """What `genepool status --json` prints (see docs/cli.md).

        `examples_evaluated` of `examples_total` is what the early stop left of the selection
        examples. A child that could not be scored counts in neither, since nothing was saved on it;
        nor do examples of guards, of which the early stop saves none.
        """
        with self.snapshot():
            return self._status()

    def _status(self) -> dict[str, Any]:
        held = self.held_out()
        count, scored, accepted, asked, failed, stopped, guarded = self._rows(
            "SELECT count(*), total(verdict <> 'failed' OR asked), total(verdict = 'accepted'),"
            " total(asked), total(verdict = 'failed'), total(verdict = 'stopped'),"
            " total(verdict = 'guarded') FROM members WHERE step > 0"
        )[0]
        champion, slots, names = self.champion(), self.slots(), self.header.seeds
        seeds = {record.id: record for record in self.records(last=len(names) - 1)}
        best = () if champion is None else (champion,)
        alive = self.chosen({*slots.values(), *best})

        measured, besides = self.held_out_of({*seeds, *best}), self.measures()

        def tasks(record: Record | None) -> list[dict[str, Any]]:
            scores = None if record is None or record.train is None else record.scores
            held = None if record is None else measured.get(record.id)
            return task_scores(self.header, scores, held)

        def others(member: int) -> list[dict[str, Any]]:
            return [measure._asdict() for measure in besides.get(member, ())]

        def shown(member: int) -> dict[str, Any]:
            record = alive[member]
            return {"member": member, "train": record.train, "genome": record.digest}

        return {
            "pool": str(self.path),
            "log_missing": self.log_missing,
            "log_damaged": self.log_damaged,
            "evaluations": count,
            "budget": self.meta()["budget"],
            "accepted": int(accepted),
            "stopped": int(stopped),
            "guarded": int(guarded),
            "failed": int(failed),
            "last_failure": self._last_failure(),
            "examples_evaluated": int(asked) + sum(self.reevaluated().values()),
            "examples_total": int(scored) * self.header.examples.size,
            "archive": [
                {"slot": slot, "cell": self.cell(slot), **shown(member)}
                for slot, member in sorted(slots.items())
            ],
            "champion": None
            if champion is None
            else {
                **shown(champion),
                "held_out": held.get(champion),
                "tasks": tasks(alive[champion]),
                "measures": others(champion),
            },
            "seeds": [
                {
                    "name": seed.name,
                    "train": seeds[number].train if number in seeds else None,
                    "held_out": held.get(number),
                    "tasks": tasks(seeds.get(number)),
                    "measures": others(number),
                }
                for number, seed in enumerate(names)
            ],
            "guards": self.guard_standing(champion),
            "rounds": self._subsets_status(),
            "scored_as_exported": self.header.scored_as_exported,
        }

    def _last_failure(self) -> dict[str, Any] | None:
        found = self._rows(
            "SELECT id, error FROM members WHERE verdict = 'failed' ORDER BY id DESC LIMIT 1"
        )
        return {"member": found[0][0], "error": found[0][1]} if found else None

    def _subsets_status(self) -> dict[str, Any] | None:
        """The subset that a run competes for; None without subsets."""
        subsets, indices = self.header.subsets, self.subset_examples()
        if subsets is None or not indices:
            return None
        return {
            "share": subsets.share,
            "renew": subsets.renew,
            "number": len(indices) - 1,
            "examples": indices[-1].size,
            "finalists": self.finalists(),
        }
