"""What a pool knows of one member: where it comes from, what it can do, what it is made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.core.genome import Recipe
from genepool.errors import InputError, PoolError
from genepool.pool.reader import Pool
from genepool.pool.records import Record

Float64 = NDArray[np.float64]


def member_number(pool: Pool, text: str) -> int:
    """The member that a person means: its number, `best` for the champion, or a seed's name.

    Raises:
        InputError: it is none of these.
        PoolError: `best`, and there is no member yet.
    """
    if text == "best":
        champion = pool.champion()
        if champion is None:
            raise PoolError(f"{pool.path}: there is no member yet; `genepool evolve` makes some")
        return champion
    if text.isascii() and text.isdigit():
        return int(text)
    names = [seed.name for seed in pool.seeds()]
    if text not in names:
        raise InputError(
            f"expected a member's number, 'best', or a seed's name; got '{text}' "
            f"(seeds: {', '.join(names)})"
        )
    return names.index(text)


def describe(pool: Pool, member: int) -> dict[str, Any]:
    """What `genepool show --json` prints (see docs/cli.md).

    Raises:
        PoolError: no such member, or the pool is damaged.
    """
    record = pool.record(member)
    genome = pool.genome(member)
    origin = ancestry(pool, member)
    summary: dict[str, Any] = {"kind": "vector", "size": genome.size}
    if isinstance(genome, Recipe):
        shares = seed_shares(genome)[0].tolist()
        names = [seed.name for seed in pool.seeds()]
        summary = {
            "kind": "recipe",
            "size": genome.size,
            "segments": len(genome.coefs),
            "shares": dict(zip(names, shares, strict=True)),
        }
    return {
        "member": member,
        "step": record.step,
        "name": pool.seeds()[member].name if record.step == 0 else None,
        "verdict": record.verdict,
        "slot": record.slot,
        "evicted": record.evicted,
        "alive": record.slot is not None and pool.slots().get(record.slot) == member,
        "parents": list(record.parents),
        "generation": origin.generation,
        "ancestors": origin.ancestors,
        "plan": json.loads(record.plan) if record.plan else None,
        "train": record.train,
        "held_out": pool.held_out().get(member),
        "fitness": record.fitness,
        "tasks": _tasks(pool, record),
        "guards": _guards(pool, member),
        "digest": record.digest,
        "genome": summary,
        "error": record.error,
        "seconds": record.seconds,
    }


def _tasks(pool: Pool, record: Record) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    start = 0
    for task in pool.tasks():
        stop = start + task.examples
        asked, mean = 0, None
        if record.scores is not None:
            known = record.scores[start:stop]
            known = known[~np.isnan(known)]
            asked = known.size
            # In a round members are asked a part, and are judged by it.
            enough = asked == task.examples or (record.train is not None and asked > 0)
            mean = float(known.mean(dtype=np.float64)) if enough else None
        out.append({"name": task.name, "examples": task.examples, "asked": asked, "mean": mean})
        start = stop
    return out


def _guards(pool: Pool, member: int) -> list[dict[str, Any]]:
    """The guards that were asked about a member."""
    means = pool.guard_means().get(member, ())
    return [
        {"name": guard["name"], "score": mean, "bound": guard["bound"]}
        for guard, mean in zip(pool.guard_standing(), means, strict=False)
        if mean is not None
    ]


def seed_shares(genome: Recipe, bins: int = 1) -> Float64:
    """How much of each stretch of the axis comes from each seed, by the size of its coefficients.

    Args:
        genome: over K seeds.
        bins: number of equal stretches into which the axis is divided.

    Returns:
        float64[bins, K]; each row sums to 1, or is 0 where every coefficient is.
    """
    if bins < 1:
        raise InputError(f"bins must be at least 1; got {bins}")
    return shares_between(genome, np.linspace(0, genome.size, bins + 1))


def shares_between(genome: Recipe, edges: NDArray[np.int64] | Float64) -> Float64:
    """Like `seed_shares`, over the stretches between given positions.

    Args:
        genome: over K seeds.
        edges: int64 or float64[B+1], strictly increasing, in [0, D].

    Returns:
        float64[B, K].
    """
    sizes = np.abs(genome.coefs)
    totals = sizes.sum(axis=1, keepdims=True)
    shares = np.divide(sizes, totals, out=np.zeros_like(sizes), where=totals > 0)
    # The integral of the shares at the bounds is piecewise linear, so its differences are exact.
    lengths = np.diff(genome.bounds)[:, None]
    integral = np.concatenate([np.zeros((1, genome.sources)), np.cumsum(shares * lengths, axis=0)])
    columns = [np.interp(edges, genome.bounds, integral[:, k]) for k in range(genome.sources)]
    return np.diff(np.stack(columns, axis=1), axis=0) / np.diff(edges)[:, None]


@dataclass(frozen=True, slots=True)
class Ancestry:
    """Where a member comes from.

    Attributes:
        generation: merges on the longest way back to a seed; 0 for a seed.
        ancestors: how many different members stand behind it, seeds included, itself not.
    """

    generation: int
    ancestors: int


def ancestry(pool: Pool, member: int) -> Ancestry:
    """Follow the parents of a member back to the seeds.

    Raises:
        PoolError: there is no such member, or the pool is damaged.
    """
    depth: dict[int, int] = {}
    parents: dict[int, tuple[int, ...]] = {}
    stack = [member]
    while stack:
        number = stack[-1]
        if number in depth:
            stack.pop()
            continue
        if number not in parents:
            parents[number] = pool.record(number).parents
            if any(parent >= number for parent in parents[number]):
                raise PoolError(f"{pool.path}: member {number} descends from itself; damaged pool")
        missing = [parent for parent in parents[number] if parent not in depth]
        if missing:
            stack += missing
        else:
            depth[number] = 1 + max((depth[p] for p in parents[number]), default=-1)
            stack.pop()
    return Ancestry(depth[member], len(depth) - 1)
