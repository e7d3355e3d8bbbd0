"""What a pool stores of each member, and how scores become bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genepool.errors import PoolError

Verdict = Literal["accepted", "rejected", "stopped", "failed"]


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
        verdict: accepted (into the archive), rejected (fully scored), stopped (certain to be
            rejected before it was fully scored), failed (could not be scored).
        scores: float32[N], NaN where not asked; None if it failed.
        train: mean training score weighted by capacity; None unless fully scored.
        fitness: among archive and child; None unless fully scored.
        slot, evicted: where it went and whom it replaced.
        asked: number of examples that it was scored on.
        error: why it failed.
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
