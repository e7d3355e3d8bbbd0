"""What a pool stores of each member, how scores become bytes, and what is kept to be looked at."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from genepool.core.archive import Verdict
from genepool.core.examples import Examples
from genepool.errors import PoolError

COLUMNS = (
    "id, step, parents, plan, merge, mutation, digest, verdict, scores, train, fitness, slot, "
    "evicted, asked, error, seconds, genome"
)
_NAMES = COLUMNS.split(", ")


@dataclass(frozen=True, eq=False, slots=True)
class Record:
    """One member, as absorbed. Equal runs write equal records (`seconds` apart).

    Attributes:
        id: number in order of absorption; seeds first, from 0.
        step: 0 for a seed, else the number of the child, from 1.
        parents: member ids.
        plan: what was drawn, for people; empty for a seed.
        merge: encoded recipe over the parents; None for a seed.
        mutation: standard deviation of the noise added.
        digest: of the genome's content; None for a dense child that was not accepted.
        genome: encoded; None where it is to be bred again from the parents.
        verdict: what became of it.
        scores: float32[N], NaN where not asked; None if it failed on them.
        train: mean selection score, tasks by their weights, over the examples of its subset; None
            unless fully scored on these.
        fitness: among archive and child; None unless fully scored.
        slot, evicted: where it went and whom it replaced.
        asked: number of examples that it was scored on.
        error: why it failed, or which guard it broke.
        seconds: spent on scoring it.
    """

    id: int
    step: int
    parents: tuple[int, ...]
    plan: str
    merge: bytes | None
    mutation: float
    digest: str | None
    genome: bytes | None
    verdict: Verdict
    scores: NDArray[np.float32] | None
    train: float | None
    fitness: float | None
    slot: int | None
    evicted: int | None
    asked: int
    error: str | None
    seconds: float


# The number of the subset that is all examples, on which finalists are scored in the end.
FINAL = -1


@dataclass(frozen=True, eq=False, slots=True)
class Reevaluation:
    """What a member was asked later than at its birth, in a run with subsets.

    Attributes:
        member: its id.
        subset: number of the subset, from 1, or `FINAL`.
        scores: float32[N], NaN where it was not asked then; None if it failed, and so left the
            archive.
        error: why it failed.
        asked: number of examples that it was scored on.
        seconds: spent on scoring it.
    """

    member: int
    subset: int
    scores: NDArray[np.float32] | None
    error: str | None
    asked: int
    seconds: float


def completed(record: Record, later: Sequence[bytes], examples: Examples) -> Record:
    """A record with all that is known of the member, and its mean over that.

    Args:
        record: of its birth.
        later: scores of its re-evaluations, as `pack_scores` packs them.
        examples: all N of them.
    """
    if record.scores is None or not later:
        return record
    scores = record.scores.copy()
    for packed in later:
        new = unpack_scores(packed, scores.size)
        np.copyto(scores, new, where=~np.isnan(new))
    return replace(record, scores=scores, train=examples.mean_known(scores))


def to_row(record: Record) -> tuple[Any, ...]:
    """The values of `COLUMNS`, plain ones: SQLite would keep numbers of numpy as bytes."""
    row: tuple[Any, ...] = (
        *(record.id, record.step, f"[{', '.join(map(str, record.parents))}]", record.plan),
        *(record.merge, record.mutation, record.digest, record.verdict.value),
        None if record.scores is None else pack_scores(record.scores),
        *(record.train, record.fitness, record.slot, record.evicted, record.asked),
        *(record.error, record.seconds, record.genome),
    )
    return tuple(map(_plain, row))


def _plain(value: Any) -> Any:
    return cast("Any", value).item() if isinstance(value, np.generic) else value


def from_row(row: tuple[Any, ...], size: int) -> Record:
    """Inverse of `to_row`.

    Args:
        row: the values of `COLUMNS`.
        size: number N of examples.
    """
    found: dict[str, Any] = dict(zip(_NAMES, row, strict=True))
    found["parents"] = tuple(json.loads(found["parents"]))
    found["verdict"] = Verdict(found["verdict"])
    if found["scores"] is not None:
        found["scores"] = unpack_scores(found["scores"], size)
    return Record(**found)


def pack_scores(scores: NDArray[np.float32]) -> bytes:
    """Compact bytes: a bit per example where all known scores are 0 or 1; which are known, if not
    all."""
    known, solved = scores == scores, scores == 1  # not NaN; solved
    count = np.count_nonzero(known)
    binary = np.count_nonzero(solved) + np.count_nonzero(scores == 0) == count
    if count == scores.size:
        body = np.packbits(solved) if binary else scores.astype("<f4")
        return (b"b" if binary else b"f") + body.tobytes()
    body = np.packbits(solved[known]) if binary else scores[known].astype("<f4")
    return (b"B" if binary else b"F") + np.packbits(known).tobytes() + body.tobytes()


def unpack_scores(data: bytes, size: int) -> NDArray[np.float32]:
    """Inverse of `pack_scores`: float32[size], NaN where not asked."""
    kind, body = data[:1], data[1:]
    known = np.ones(size, dtype=bool)
    if kind in (b"B", b"F"):
        width = -(-size // 8)
        known = np.unpackbits(np.frombuffer(body[:width], np.uint8), count=size).astype(bool)
        body = body[width:]
    count = int(known.sum())
    out = np.full(size, np.nan, dtype=np.float32)
    expected = -(-count // 8) if kind in (b"b", b"B") else 4 * count
    if kind not in (b"b", b"B", b"f", b"F") or len(body) != expected:
        raise PoolError("the pool's scores are damaged: a row has the wrong length")
    if kind in (b"b", b"B"):
        out[known] = np.unpackbits(np.frombuffer(body, np.uint8), count=count)
    else:
        out[known] = np.frombuffer(body, dtype="<f4")
    return out


# What is kept to be looked at

REFERENCE = -1
"""In place of a member's number: the picture is an example's own."""


class Measure(NamedTuple):
    """A number about a member that nobody competes for.

    Attributes:
        task: the name of the task that measured it.
        name: what it is, such as "japanese" or "english/japanese consistency".
        value: mostly in [0, 1].
    """

    task: str
    name: str
    value: float


def measure_names(measured: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """What measures are called beside each other, by task and name: with their task, where several
    tasks measure."""
    pairs = list(dict.fromkeys(measured))
    several = len({task for task, _ in pairs}) > 1
    return {(task, name): f"{task}, {name}" if several else name for task, name in pairs}


class Picture(NamedTuple):
    """What a member drew for an example.

    Attributes:
        member: its number, or `REFERENCE`.
        task: the name of the task.
        part: "held-out" or "train".
        example: position among the task's examples of that part.
        caption: what was to be drawn.
        png: the picture as a small PNG file.
    """

    member: int
    task: str
    part: str
    example: int
    caption: str
    png: bytes


class Transcript(NamedTuple):
    """What a member did in an episode.

    Attributes:
        member: its number.
        task: the name of the task.
        part: "held-out" or "train".
        example: its id.
        transcript: as JSON; see `tasks.task.Transcribed`.
    """

    member: int
    task: str
    part: str
    example: str
    transcript: str
