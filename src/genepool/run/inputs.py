"""What a run works on, opened: seeds, their layout and the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genepool.checkpoints.family import Family, Source, make_family, open_source
from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.layout import Layout, flatten
from genepool.checkpoints.pipelines.components import evolving
from genepool.checkpoints.pipelines.files import watching
from genepool.checkpoints.seeds import source_of
from genepool.core.examples import Examples, TaskExamples, lay_out
from genepool.core.genome import Genome, Vector, seed_recipe
from genepool.errors import CheckpointError, ConfigError, GenepoolError
from genepool.materialise.gram import load_or_build_gram
from genepool.messages import some
from genepool.models.kinds import kind_of
from genepool.run.file.run_settings import TaskOptions
from genepool.run.run_file import Run
from genepool.strategies.problem import Problem
from genepool.tasks.task import (
    Batched,
    Blocked,
    Doubting,
    Drawn,
    Generating,
    Labelled,
    Prompting,
    Remarking,
    Task,
    own_failures,
    require_task,
)


@dataclass(frozen=True, eq=False)
class Inputs:
    """Everything that a run reads, opened.

    Attributes:
        run: the run file.
        sources: where the seeds are found, in order.
        checkpoints: the seeds, in order.
        layout: where their tensors lie on the parameter axis.
        whole: component of a pipeline -> the number of the seed that gives it as it is.
        notices: what is good to know about seeds and tasks, one line each.
        tasks: those that members compete for, in order; their examples are laid end to end.
        guards: the guard tasks, likewise.
        examples: those that members compete for.
        held_out: the tasks' held-out examples, weighed alike; None if there are none.
        guard_examples: of the guards; None if there are none.
        kind: of genome: dense vectors where mutation adds noise, recipes otherwise.
    """

    run: Run
    sources: tuple[Source, ...]
    checkpoints: tuple[Checkpoint, ...]
    layout: Layout
    whole: Mapping[str, int]
    notices: tuple[str, ...]
    tasks: tuple[Task, ...]
    guards: tuple[Task, ...]
    examples: Examples
    held_out: Examples | None
    guard_examples: Examples | None
    kind: Literal["recipe", "vector"]

    @property
    def blocks(self) -> NDArray[np.int64] | None:
        """int64[N], the block of each example where a question may be asked block by block, for
        somebody who watches; None where all of it is one call."""
        examples = self.examples
        if examples.blocks is None and all(isinstance(task, Blocked) for task in self.tasks):
            return np.arange(examples.size, dtype=np.int64)
        return examples.blocks

    def look(self) -> None:
        """Refuse to go on with seeds that are not what was opened and digested.

        Raises:
            CheckpointError: naming the seed and what became of its file.
        """
        for seed, checkpoint in zip(self.run.seeds, self.checkpoints, strict=True):
            try:
                checkpoint.look()
            except CheckpointError as error:
                raise CheckpointError(f"seed '{seed.name}': {error}") from None


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
            sources.append(replace(source, components=evolving(run.config.components)))
            checkpoints.append(open_source(sources[-1]))
        except GenepoolError as error:
            raise _prefixed(error, f"{run.where('seeds', index)}: seeds.{index}") from None
    names = [seed.name for seed in run.seeds]
    family = make_family(
        checkpoints,
        run.config.chromosomes or None,
        partial=run.config.partial,
        vocabulary=run.config.vocabulary,
        whole={part: names.index(seed) for part, seed in run.config.whole.items()},
    )
    return tuple(sources), family


def open_inputs(run: Run, opened: tuple[tuple[Source, ...], Family] | None = None) -> Inputs:
    """Open seeds and tasks and check that they fit together.

    Args:
        run: the run file.
        opened: the seeds, where others than the run file's are meant.

    Raises:
        ConfigError, CheckpointError, EvaluationError, MissingExtraError: naming file and field.
    """
    sources, family = opened or open_seeds(run)
    first, *others = family.checkpoints
    tasks: list[Task] = []
    guards: list[Task] = []
    remarks: list[str] = []
    for index, entry in enumerate(run.tasks):
        where = f"{run.where('tasks', index)}: task '{entry.settings.name}'"
        try:
            with own_failures(entry.evaluator):
                task: Task = entry.evaluator(entry.options, run.directory)
                require_task(task)
                if run.config.changed_scores == "tell" and isinstance(task, Doubting):
                    task.let_differ()
                told = [*task.notices] if isinstance(task, Remarking) else []
        except GenepoolError as error:
            raise _prefixed(error, where) from error
        except OSError as error:
            raise ConfigError(f"{where}: cannot be opened ({error.strerror or error})") from error
        (guards if entry.settings.guard else tasks).append(task)
        remarks += [f"task '{entry.settings.name}': {text}" for text in told]
    _require_use(run, (*tasks, *guards))
    texts = [text for task in (*tasks, *guards) for text in _texts_drawn_from(task)]
    options = run.config.model
    if options.configs is not None:
        options = options.model_copy(update={"configs": str(run.resolve(options.configs))})
    try:
        told = kind_of(options, first).told(options, first, texts)
    except ConfigError as error:
        raise _prefixed(error, run.where("model")) from None
    names = [entry.name for entry in run.config.contested]
    held = {name: len(task.held_out) for name, task in zip(names, tasks, strict=True)}
    return Inputs(
        run,
        sources,
        (watching(first), *others),
        family.layout,
        family.whole,
        (*family.notices, *told, *remarks, *not_held_out(held)),
        tuple(tasks),
        tuple(guards),
        _laid_out(run.config.contested, tasks),
        _laid_out(run.config.contested, tasks, held_out=True)
        if any(len(task.held_out) for task in tasks)
        else None,
        _laid_out(run.config.guards, guards) if guards else None,
        "vector" if run.strategy.dense else "recipe",
    )


def not_held_out(held: Mapping[str, int]) -> tuple[str, ...]:
    """A line where some tasks have held-out examples, whose numbers these are, and others none."""
    names = [name for name, number in held.items() if not number]
    if not 0 < len(names) < len(held):
        return ()
    have = "task {} has" if len(names) == 1 else "tasks {} have"
    return (
        f"{have.format(some(names))} no held-out examples, so that held-out scores are those of "
        "the other tasks alone; do not compare them with selection scores, which are of all",
    )


def _require_use(run: Run, tasks: Sequence[Task]) -> None:
    """Refuse options of the model that the tasks have no use for, or that would spoil their scores.

    Raises:
        ConfigError: naming the option.
    """
    model, where = run.config.model, run.where("model")
    generating = [not isinstance(task, Generating) or task.generates for task in tasks]
    if model.cache_implementation is not None and not any(generating):
        raise ConfigError(
            f"{where}: model.cache_implementation: no task of this run lets the model generate; "
            "leave the option out"
        )
    limited = [e.settings.name for e in run.tasks if getattr(e.options, "time_limit", None)]
    if model.torch_compile and limited:
        raise ConfigError(
            f"{where}: model.torch_compile: task {some(limited)} has a time_limit, and a model "
            "would fail because compiling takes its time; leave out one of them"
        )


def _texts_drawn_from(task: Task) -> list[str]:
    if isinstance(task, Prompting):
        return [*task.prompts]
    if not isinstance(task, Drawn):
        return []
    sizes = {False: len(task.samples), True: len(task.held_out)}
    with own_failures(type(task)):
        return [
            text
            for held_out, size in sizes.items()
            for text in task.captions(np.arange(size), held_out=held_out)
        ]


def _prefixed(error: GenepoolError, prefix: str) -> GenepoolError:
    """The same kind of error with a prefix that says where."""
    text = f"{prefix}: {error}"
    kind = type(error) if type(error).__init__ is Exception.__init__ else ConfigError
    return kind(text)


def _laid_out(
    entries: Sequence[TaskOptions], tasks: Sequence[Task], held_out: bool = False
) -> Examples:
    """The tasks' examples laid end to end."""
    parts = [
        TaskExamples(
            entry.name,
            len(task.held_out if held_out else task.samples),
            entry.weight,
            task.labels if isinstance(task, Labelled) and not held_out else (),
        )
        for entry, task in zip(entries, tasks, strict=True)
    ]
    binary = all(task.binary for task in tasks)
    if held_out:
        return lay_out(parts, binary=binary, held_out=True)
    grain = max(task.batch if isinstance(task, Batched) else 1 for task in tasks)
    return lay_out(parts, binary=binary, grain=grain, blocks=_blocks(tasks))


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
        config = inputs.run.config
        # With workers, their devices may be none that this process has, or all taken by them.
        device = config.model.device if config.executor == "serial" else "cpu"
        gram = load_or_build_gram(inputs.checkpoints, layout, cache, device=device)
        seeds = tuple(seed_recipe(layout.axis.size, k, count) for k in range(count))
    return Problem(
        layout.axis,
        gram,
        inputs.examples,
        seeds,
        inputs.run.config.seed,
        tuple(slot.name for slot in layout.slots),
    )
