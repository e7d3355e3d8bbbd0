"""What a pool was set up with: its seeds, tasks and guards, and how members compete; it stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genepool.core.examples import Examples, TaskExamples, lay_out
from genepool.core.subsets import Rounds


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
        tensors: name and first position of each tensor on the axis; empty in pools that are older
            than this entry.
        seed: of the randomness.
    """

    seeds: tuple[Seed, ...]
    tasks: tuple[TaskEntry, ...]
    guards: tuple[GuardEntry, ...]
    examples: Examples
    held_out: Examples | None
    subsets: Rounds | None
    kind: str
    axis_size: int
    tensors: tuple[tuple[str, int], ...]
    seed: int


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
        None if subsets is None else Rounds(**subsets),
        str(meta["kind"]),
        int(meta["axis_size"]),
        tuple((name, int(start)) for name, start in meta.get("tensors", ())),
        int(meta["seed"]),
    )
