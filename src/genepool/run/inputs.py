"""What a run works on: seeds, their layout, the tasks, and what of it the pool pins."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_jsonable_python

from genepool.checkpoints.family import Family, Source, make_family, open_source
from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.files.digests import remember_digests
from genepool.checkpoints.layout import Layout, flatten
from genepool.checkpoints.model_files.configs import companion_digests
from genepool.checkpoints.seeds import source_of
from genepool.core.archive import Resources, capacities
from genepool.core.genome import Genome, Vector, seed_recipe
from genepool.errors import (
    ConfigError,
    GenepoolError,
    PoolError,
)
from genepool.materialise.gram import load_or_build_gram
from genepool.models.build import model_kind
from genepool.pool.guards import GuardEntry
from genepool.pool.reader import Pool, Seed, TaskEntry
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


def seed_entries(
    run: Run, sources: Sequence[Source], checkpoints: Sequence[Checkpoint], cache: Path
) -> list[Seed]:
    """The seeds with their digests, which `remember_digests` keeps in a directory."""
    digests = remember_digests(checkpoints, [source.rename for source in sources], cache)
    return [
        Seed(seed.name, source.path, digest)
        for seed, source, digest in zip(run.seeds, sources, digests, strict=True)
    ]


def task_entries(inputs: Inputs) -> list[TaskEntry]:
    """The tasks that members compete for, as the pool pins them."""
    return [
        TaskEntry(
            entry.name,
            task.digest,
            entry.weight,
            len(task.samples),
            len(task.held_out),
            task.binary,
        )
        for entry, task in zip(inputs.run.config.contested, inputs.tasks, strict=True)
    ]


def guard_entries(inputs: Inputs) -> list[GuardEntry]:
    """The guards as the pool pins them."""
    return [
        GuardEntry(entry.name, task.digest, entry.tolerance, len(task.samples))
        for entry, task in zip(inputs.run.config.guards, inputs.guards, strict=True)
    ]


def pins(inputs: Inputs) -> dict[str, Any]:
    """Settings that a pool cannot change, since its members would no longer be comparable."""
    config = inputs.run.config
    return {
        "strategy": inputs.run.strategy.model_dump(),
        "model": config.model.model_dump(),
        "chromosomes": config.chromosomes,
        "seed": config.seed,
        "in_flight": config.in_flight,
        "early_stop": config.early_stop,
        "layout": inputs.layout.digest,
        "companions": _companions(inputs),
    }


def _companions(inputs: Inputs) -> dict[str, str]:
    """What a language model needs beside its weights, by digest; empty for other models."""
    options, first = inputs.run.config.model, inputs.checkpoints[0]
    if model_kind(options, first) != "transformers":
        return {}
    return companion_digests(*_companions_at(inputs))


def _companions_at(inputs: Inputs) -> tuple[Path, Path]:
    """Where a language model's configuration lies, and its tokenizer."""
    words, first = inputs.run.config.model.tokenizer, inputs.checkpoints[0]
    directory = first.directory or first.path
    return directory, directory if words is None else inputs.run.directory / words


def opening(inputs: Inputs) -> dict[str, Any]:
    """How the seeds are opened again, for the pool to remember."""
    return {
        "sources": [asdict(source) for source in inputs.sources],
        "partial": inputs.run.config.partial,
        "vocabulary": inputs.run.config.vocabulary,
    }


def check_pins(pool: Pool, inputs: Inputs, seeds: list[Seed], tasks: list[TaskEntry]) -> None:
    """Refuse to go on with a pool that was made from something else.

    Raises:
        PoolError: naming what differs.
    """

    def refuse(what: str) -> PoolError:
        return PoolError(
            f"{pool.path}: this pool was made with {what}; its members cannot be compared with new "
            "ones. Name another pool directory in the run file, or put the setting back"
        )

    held = pool.seeds()
    if len(held) != len(seeds):
        raise refuse(f"{len(held)} seeds, and the run file names {len(seeds)}")
    digests = [[seed.digest for seed in group] for group in (held, seeds)]
    if digests[0] != digests[1] and sorted(digests[0]) == sorted(digests[1]):
        raise refuse(f"the seeds in another order: {', '.join(seed.name for seed in held)}")
    for old, new in zip(held, seeds, strict=True):
        if old.digest != new.digest:
            raise refuse(
                f"another seed '{old.name}': {new.path} now holds tensors with digest "
                f"{new.digest[:12]}, then {old.digest[:12]}"
            )
    entries = pool.tasks()
    if [task.name for task in entries] != [task.name for task in tasks]:
        raise refuse(
            f"tasks {', '.join(t.name for t in entries)}, and the run file names "
            f"{', '.join(t.name for t in tasks)}"
        )
    for old, new in zip(entries, tasks, strict=True):
        if old.digest != new.digest:
            raise refuse(
                f"other examples or settings of task '{old.name}' ({old.examples} + "
                f"{old.held_out} held out, digest {old.digest[:12]}; now {new.examples} + "
                f"{new.held_out}, {new.digest[:12]})"
            )
        if old.weight != new.weight:
            raise refuse(f"weight {old.weight} of task '{old.name}' (now {new.weight})")
    _check_guards(pool.guards(), guard_entries(inputs), refuse)
    pinned = _with_defaults(pool.meta()["pins"], inputs)
    given = json.loads(json.dumps(pins(inputs)))
    now: dict[str, str] = given.pop("companions")
    # A pool that is older than this pin does not say.
    then: dict[str, str] = pinned.pop("companions", now)
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            place = _companions_at(inputs)[int(name in ("tokenizer", "chat template"))]
            raise refuse(f"another {name} than {place} holds now")
    for key, value in given.items():
        if pinned.get(key) != value:
            raise refuse(f"{_difference(key, pinned.get(key), value)}")


def _check_guards(
    held: Sequence[GuardEntry], given: Sequence[GuardEntry], refuse: Callable[[str], PoolError]
) -> None:
    if [guard.name for guard in held] != [guard.name for guard in given]:
        before = ", ".join(guard.name for guard in held) or "none"
        now = ", ".join(guard.name for guard in given) or "none"
        raise refuse(f"the guards: {before}; and the run file has: {now}")
    for old, new in zip(held, given, strict=True):
        if old.digest != new.digest:
            raise refuse(
                f"other examples or settings of guard '{old.name}' (digest {old.digest[:12]}; now "
                f"{new.digest[:12]})"
            )
        if old.tolerance != new.tolerance:
            raise refuse(f"tolerance {old.tolerance} of guard '{old.name}' (now {new.tolerance})")


def _with_defaults(pinned: dict[str, Any], inputs: Inputs) -> dict[str, Any]:
    """Pins with what they leave out: an option that came after the pool was at its default."""
    out = dict(pinned)
    for key, options in (("strategy", inputs.run.strategy), ("model", inputs.run.config.model)):
        defaults = {
            name: to_jsonable_python(field.get_default(call_default_factory=True))
            for name, field in type(options).model_fields.items()
            if not field.is_required()
        }
        out[key] = {**defaults, **pinned.get(key, {})}
    return out


def _difference(key: str, old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        before, after = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
        for part in sorted({*before, *after}):
            if before.get(part) != after.get(part):
                return f"{key}.{part} = {before.get(part)!r} (now {after.get(part)!r})"
    return f"{key} = {old!r} (now {new!r})"
