"""What a run works on: seeds, their layout, the tasks, and what of it the pool pins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genepool.checkpoints.family import Family, Source, make_family, open_source
from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.layout import Layout, flatten
from genepool.checkpoints.seeds import source_of
from genepool.core.archive import Resources, capacities
from genepool.core.genome import Genome, Vector, seed_recipe
from genepool.errors import (
    ConfigError,
    GenepoolError,
)
from genepool.materialise.gram import load_or_build_gram
from genepool.run.run_file import Run, task_options
from genepool.strategies import Group, Problem
from genepool.tasks.task import Batched, Blocked, Labelled, Task


@dataclass(frozen=True, eq=False)
class Inputs:
    """Everything that a run reads, opened.

    Attributes:
        run: the run file.
        sources: where the seeds are found, in order.
        checkpoints: the seeds, in order.
        layout: where their tensors lie on the axis.
        notices: what is good to know about the seeds, one line each.
        tasks: those that members compete for, in order; their examples are laid end to end.
        guards: the guard tasks, likewise.
        resources: the examples with their capacities.
        kind: of genome: dense vectors where mutation adds noise, recipes otherwise.
    """

    run: Run
    sources: tuple[Source, ...]
    checkpoints: tuple[Checkpoint, ...]
    layout: Layout
    notices: tuple[str, ...]
    tasks: tuple[Task, ...]
    guards: tuple[Task, ...]
    resources: Resources
    kind: Literal["recipe", "vector"]

    @cached_property
    def examples(self) -> int:
        """Number N of training examples."""
        return sum(len(task.samples) for task in self.tasks)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The tasks as strategies see them."""
        out: list[Group] = []
        start = 0
        for entry, task in zip(self.run.config.contested, self.tasks, strict=True):
            stop = start + len(task.samples)
            labels = task.labels if isinstance(task, Labelled) else ()
            out.append(Group(entry.name, start, stop, labels))
            start = stop
        return tuple(out)

    @cached_property
    def held_out_examples(self) -> int:
        """Number M of held-out examples."""
        return sum(len(task.held_out) for task in self.tasks)

    def held_out_resources(self) -> Resources | None:
        """The held-out examples, weighed like the training examples; None if there are none."""
        if not self.held_out_examples:
            return None
        sizes = [len(task.held_out) for task in self.tasks]
        return Resources(_capacities(self.run, sizes), self.resources.binary)


def open_seeds(run: Run) -> tuple[tuple[Source, ...], Family]:
    """Open the seeds and check that they fit together.

    Raises:
        ConfigError, CheckpointError, MissingExtraError: naming file and field.
    """
    sources: list[Source] = []
    checkpoints: list[Checkpoint] = []
    for index, seed in enumerate(run.seeds):
        try:
            source = source_of(seed, run.directory)
            sources.append(source)
            checkpoints.append(open_source(source))
        except GenepoolError as error:
            raise _prefixed(error, f"{run.where('seeds', index)}: seeds.{index}") from None
    family = make_family(
        checkpoints,
        run.config.chromosomes or None,
        partial=run.config.partial,
        vocabulary=run.config.vocabulary,
    )
    return tuple(sources), family


def open_inputs(run: Run) -> Inputs:
    """Open seeds and tasks and check that they fit together.

    Raises:
        ConfigError, CheckpointError, EvaluationError, MissingExtraError: naming file and field.
    """
    sources, family = open_seeds(run)
    tasks: list[Task] = []
    guards: list[Task] = []
    for index, entry in enumerate(run.config.tasks):
        evaluator, options = task_options(run, index, entry)
        try:
            (guards if entry.guard else tasks).append(evaluator(options, run.directory))
        except GenepoolError as error:
            where = f"{run.where('tasks', index)}: task '{entry.name}'"
            raise _prefixed(error, where) from error
    return Inputs(
        run,
        sources,
        family.checkpoints,
        family.layout,
        family.notices,
        tuple(tasks),
        tuple(guards),
        Resources(
            _capacities(run, [len(task.samples) for task in tasks]),
            all(task.binary for task in tasks),
            max(task.batch if isinstance(task, Batched) else 1 for task in tasks),
            _blocks(tasks),
        ),
        "vector" if run.strategy.dense else "recipe",
    )


def _prefixed(error: GenepoolError, prefix: str) -> GenepoolError:
    """The same kind of error with a prefix that says where."""
    text = f"{prefix}: {error}"
    kind = type(error) if type(error).__init__ is Exception.__init__ else ConfigError
    return kind(text)


def _capacities(run: Run, sizes: list[int]) -> NDArray[np.float64]:
    return capacities([task.weight for task in run.config.contested], sizes)


def _blocks(tasks: Sequence[Task]) -> NDArray[np.int64] | None:
    """int64[N], the block of each example over all tasks; None if none has more than one."""
    parts: list[NDArray[np.int64]] = []
    count = 0
    for task in tasks:
        size = len(task.samples)
        part = task.blocks if isinstance(task, Blocked) else np.arange(size, dtype=np.int64)
        parts.append(part + count)
        count += int(part[-1]) + 1 if size else 0
    out = np.concatenate(parts)
    return None if count == out.size else out


def problem_of(inputs: Inputs, cache: Path) -> Problem:
    """What a strategy works on; a directory keeps the inner products of the seeds."""
    layout = inputs.layout
    count = len(inputs.checkpoints)
    if inputs.kind == "vector":
        gram = None
        seeds: tuple[Genome, ...] = tuple(
            Vector(flatten(checkpoint, layout)) for checkpoint in inputs.checkpoints
        )
    else:
        gram = load_or_build_gram(inputs.checkpoints, layout, cache)
        seeds = tuple(seed_recipe(layout.axis.size, k, count) for k in range(count))
    return Problem(
        layout.axis,
        gram,
        inputs.resources,
        seeds,
        inputs.run.config.seed,
        inputs.groups,
        tuple(slot.name for slot in layout.slots),
    )
