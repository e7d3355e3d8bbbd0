"""What a pool was set up with: its seeds, tasks and guards, and how members compete; it stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.core.examples import Examples, TaskExamples, lay_out
from genepool.core.subsets import Subsets

EXPORTED = "export"
"""The pin `rounding` of pools whose members were scored as their exports are."""


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


@dataclass(frozen=True, slots=True)
class GuardEntry:
    """A guard as pinned: digest of its examples, tolerance, number of examples."""

    name: str
    digest: str
    tolerance: float
    examples: int


@dataclass(frozen=True, eq=False, slots=True)
class Header:
    """What all members of a pool have in common.

    Attributes:
        seeds: in order; seed k is member k.
        tasks: those that members compete for, in order.
        guards: the guard tasks, in order.
        examples: the N examples that members compete for.
        held_out: the tasks' M held-out examples; None if there are none.
        subsets: how members compete for a part of the examples at a time; None: for all, always.
        kind: of genome, "recipe" or "vector".
        axis_size: number D of positions on the parameter axis.
        tensors: name and first position of each merged tensor; empty in pools that are older
            than this entry.
        seed: the random seed.
        scored_as_exported: whether weights passed through the export's dtype before they were
            scored. Pools of older releases do not say so: their members were scored before that
            rounding, which matters where a model computes in another dtype than the seeds have.
    """

    seeds: tuple[Seed, ...]
    tasks: tuple[TaskEntry, ...]
    guards: tuple[GuardEntry, ...]
    examples: Examples
    held_out: Examples | None
    subsets: Subsets | None
    kind: str
    axis_size: int
    tensors: tuple[tuple[str, int], ...]
    seed: int
    scored_as_exported: bool


def header_of(meta: Mapping[str, Any], seeds: Sequence[Seed], tasks: Sequence[TaskEntry]) -> Header:
    """Gather a header from the tables of a pool."""
    binary = all(task.binary for task in tasks)
    train = [TaskExamples(task.name, task.examples, task.weight) for task in tasks]
    held_out = [TaskExamples(task.name, task.held_out, task.weight) for task in tasks]
    subsets = meta.get("rounds")
    return Header(
        tuple(seeds),
        tuple(tasks),
        tuple(GuardEntry(**entry) for entry in meta.get("guards", ())),
        lay_out(train, binary=binary),
        lay_out(held_out, binary=binary, held_out=True) if any(t.held_out for t in tasks) else None,
        None if subsets is None else Subsets(**subsets),
        str(meta["kind"]),
        int(meta["axis_size"]),
        tuple((name, int(start)) for name, start in meta.get("tensors", ())),
        int(meta["seed"]),
        meta["pins"].get("rounding") == EXPORTED,
    )


def task_scores(
    header: Header, scores: NDArray[np.float32] | None, held_out: NDArray[np.float32] | None
) -> list[dict[str, Any]]:
    """The scores of a model task by task: `name`, and the means that are known.

    Args:
        header: of the pool.
        scores: float32[N] on the selection examples (`train`), NaN where not asked; None if not
            known.
        held_out: float32[M] on the held-out examples; None if not measured.
    """
    unknown: list[float | None] = [None] * len(header.tasks)
    train, held = (
        unknown if examples is None or found is None else examples.known_means(found)
        for examples, found in ((header.examples, scores), (header.held_out, held_out))
    )
    return [
        {"name": task.name, "train": mine, "held_out": other}
        for task, mine, other in zip(header.tasks, train, held, strict=True)
    ]
