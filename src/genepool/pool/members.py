"""What a pool knows of one member: where it comes from, what it can do, what it is made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.core.genome import Recipe
from genepool.core.shares import seed_shares
from genepool.documents import list_of, mapping_of
from genepool.errors import InputError, PoolError
from genepool.pool.reader import Pool
from genepool.pool.records import Record


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
    names = [seed.name for seed in pool.header.seeds]
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
    with pool.snapshot():
        return _described(pool, member)


def _described(pool: Pool, member: int) -> dict[str, Any]:
    record = pool.record(member)
    genome = pool.genome(member)
    origin = ancestry(pool, member)
    names = [seed.name for seed in pool.header.seeds]
    summary: dict[str, Any] = {"kind": "vector", "size": genome.size}
    if isinstance(genome, Recipe):
        summary = {
            "kind": "recipe",
            "size": genome.size,
            "segments": len(genome.coefs),
            "shares": dict(zip(names, seed_shares(genome)[0].tolist(), strict=True)),
        }
    return {
        "member": member,
        "step": record.step,
        "name": names[member] if record.step == 0 else None,
        "verdict": record.verdict.value,
        "slot": record.slot,
        "cell": None if record.slot is None else pool.cell(record.slot),
        "evicted": record.evicted,
        "alive": record.slot is not None and pool.slots().get(record.slot) == member,
        "parents": list(record.parents),
        "generation": origin.generation,
        "ancestors": origin.ancestors,
        "plan": _plan(pool, record),
        "train": record.train,
        "held_out": pool.held_out().get(member),
        "fitness": record.fitness,
        "tasks": task_means(pool, record),
        "guards": _guards(pool, member),
        "measures": [measure._asdict() for measure in pool.measures().get(member, ())],
        "digest": record.digest,
        "genome": summary,
        "error": record.error,
        "seconds": record.seconds,
    }


def _plan(pool: Pool, record: Record) -> dict[str, Any] | None:
    """What was drawn; of CMA-ES, whose ratios are those of groups of tensors, their names too."""
    if not record.plan:
        return None
    plan = json.loads(record.plan)
    strategy = mapping_of(mapping_of(pool.meta()["pins"]).get("strategy"))
    if strategy.get("name") == "cma-es" and mapping_of(plan).get("ratios") and pool.header.tensors:
        # Late: reading a pool starts at once.
        from genepool.strategies.cma_es import group_names

        names = [name for name, _ in pool.header.tensors]
        patterns = [str(pattern) for pattern in list_of(strategy.get("groups"))] or None
        plan["groups"] = list(dict.fromkeys(group_names(names, patterns)))
    return plan


def task_means(pool: Pool, record: Record) -> list[dict[str, Any]]:
    """For each task its `name`, number of `examples`, how many of them were `asked`, and the `mean`
    score on these; None unless the member was scored on all examples of its time."""
    out: list[dict[str, Any]] = []
    examples = pool.header.examples
    parts = [None] * len(examples.tasks) if record.scores is None else examples.split(record.scores)
    for task, scores in zip(examples.tasks, parts, strict=True):
        known = np.zeros(0) if scores is None else scores[~np.isnan(scores)]
        # On a subset members are asked a part, and are judged by it.
        enough = known.size and (known.size == task.size or record.train is not None)
        mean = float(known.mean(dtype=np.float64)) if enough else None
        out.append({"name": task.name, "examples": task.size, "asked": known.size, "mean": mean})
    return out


def known_means(
    pool: Pool, scores: NDArray[np.float32] | None, *, held_out: bool = False
) -> list[float | None]:
    """Mean score of each task; None where not all of its examples are known, or it has none.

    Args:
        pool: whose tasks.
        scores: float32[N], or of the held-out examples float32[M]; None if there are none.
        held_out: which of the two.
    """
    examples = pool.header.held_out if held_out else pool.header.examples
    if examples is None or scores is None:
        return [None] * len(pool.header.tasks)
    return [None if np.isnan(mean) else mean for mean in examples.means(scores)]


def _guards(pool: Pool, member: int) -> list[dict[str, Any]]:
    """The guards that were asked about a member."""
    means = pool.guard_means().get(member, ())
    return [
        {"name": guard["name"], "score": mean, "bound": guard["bound"]}
        for guard, mean in zip(pool.guard_standing(), means, strict=False)
        if mean is not None
    ]


@dataclass(frozen=True, slots=True)
class Ancestry:
    """Where a member comes from.

    Attributes:
        generation: merges on the longest way back to a seed; 0 for a seed.
        members: itself and all that stand behind it, seeds included, in order of absorption.
    """

    generation: int
    members: tuple[int, ...]

    @property
    def ancestors(self) -> int:
        """How many different members stand behind it."""
        return len(self.members) - 1


def ancestry(pool: Pool, member: int) -> Ancestry:
    """Follow the parents of a member back to the seeds.

    Raises:
        PoolError: there is no such member, or the pool is damaged.
    """
    depth: dict[int, int] = {}
    for number, parents in pool.parents(member).items():
        depth[number] = 1 + max((depth[parent] for parent in parents), default=-1)
    return Ancestry(depth[member], tuple(depth))
