"""What a pool pins: were it changed, new members could not be compared with those there are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from pydantic_core import to_jsonable_python

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.files.digests import remember_digests
from genepool.checkpoints.model_files.side_files import RARE
from genepool.checkpoints.pipelines.directory import INDEX
from genepool.errors import ConfigError, PoolError
from genepool.messages import count, one_line
from genepool.models.kind import Options, PinnedFiles
from genepool.models.kinds import kind_of
from genepool.pool.pool_header import EXPORTED, GuardEntry, Seed, TaskEntry
from genepool.pool.reader import Pool
from genepool.run.inputs import Inputs
from genepool.settings import as_recorded

# Files beside weights that were not pinned from the beginning.
_LATER = {INDEX, RARE}


@dataclass(frozen=True, slots=True)
class Pins:
    """What the members of a pool are made from and scored on.

    Attributes:
        seeds: with the digests of their tensors, in order.
        tasks: those that members compete for, in order.
        guards: the guard tasks, in order.
        settings: of the run file and of what lies beside the first seed, as the pool keeps them.
    """

    seeds: tuple[Seed, ...]
    tasks: tuple[TaskEntry, ...]
    guards: tuple[GuardEntry, ...]
    settings: dict[str, Any]

    @property
    def digests(self) -> dict[str, str]:
        """Of tasks and guards, by name."""
        return {entry.name: entry.digest for entry in (*self.tasks, *self.guards)}


def require_same_tasks(inputs: Inputs, expected: Mapping[str, str]) -> None:
    """Refuse to score other examples than the run's, where a run is opened again.

    Args:
        inputs: opened there.
        expected: digests of tasks and guards by name; what is not named is not looked at.

    Raises:
        ConfigError: naming the first task that is another one.
    """
    config, tasks = inputs.run.config, (*inputs.tasks, *inputs.guards)
    for entry, task in zip((*config.contested, *config.guards), tasks, strict=True):
        found, wanted = str(task.digest), expected.get(entry.name)
        if wanted not in (None, found):
            raise ConfigError(
                f"a worker finds other examples or settings of task '{one_line(entry.name)}': "
                f"digest {found[:12]}, and the run's is {wanted[:12]}; they must be the same each "
                "time that the task is opened"
            )


def pins_of(inputs: Inputs, cache: Path) -> Pins:
    """What a pool of these inputs pins; a directory keeps the digests of the seeds.

    Raises:
        CheckpointError: a seed cannot be read.
    """
    run, config = inputs.run, inputs.run.config
    digests = remember_digests(
        inputs.checkpoints, [source.rename for source in inputs.sources], cache
    )
    return Pins(
        tuple(
            Seed(seed.name, source.path, digest)
            for seed, source, digest in zip(run.seeds, inputs.sources, digests, strict=True)
        ),
        tuple(
            TaskEntry(
                entry.name,
                str(task.digest),
                entry.weight,
                len(task.samples),
                len(task.held_out),
                task.binary,
            )
            for entry, task in zip(config.contested, inputs.tasks, strict=True)
        ),
        tuple(
            GuardEntry(entry.name, str(task.digest), entry.tolerance, len(task.samples))
            for entry, task in zip(config.guards, inputs.guards, strict=True)
        ),
        {
            "strategy": as_recorded(run.strategy),
            "model": as_recorded(config.model, {"seeds": True}),
            "chromosomes": config.chromosomes,
            "components": config.components,
            "seed": config.seed,
            "in_flight": config.width,
            "early_stop": config.early_stop,
            "layout": inputs.layout.digest,
            "rounding": EXPORTED,
            "companions": model_file_digests(config.model, inputs.checkpoints[0], run.directory),
        },
    )


def opening(inputs: Inputs) -> dict[str, Any]:
    """How the seeds are opened again, for the pool to remember."""
    return {
        "sources": [asdict(source) for source in inputs.sources],
        "partial": inputs.run.config.partial,
        "vocabulary": inputs.run.config.vocabulary,
        "whole": dict(inputs.whole),
    }


def model_file_digests(options: Options, first: Checkpoint, directory: Path) -> dict[str, str]:
    """Digests, by name, of what a model of a run in that directory needs beside its weights."""
    found = _pinned_files(options, first, directory)
    return {name: part.digest for name, part in found.items() if part.digest}


def _pinned_files(options: Options, first: Checkpoint, directory: Path) -> PinnedFiles:
    return kind_of(options, first).pinned_files(options, first, directory)


def check_pins(pool: Pool, pins: Pins, inputs: Inputs) -> None:
    """Refuse to go on with a pool that was made from something else.

    Raises:
        PoolError: naming what differs.
    """
    refuse = partial(_refusal, pool)
    held, seeds = pool.seeds(), pins.seeds
    if len(held) != len(seeds):
        raise refuse(f"{count(len(held), 'seed')}, and the run file names {len(seeds)}")
    digests = [[seed.digest for seed in group] for group in (held, seeds)]
    if digests[0] != digests[1] and sorted(digests[0]) == sorted(digests[1]):
        raise refuse(f"the seeds in another order: {', '.join(seed.name for seed in held)}")
    for old, new in zip(held, seeds, strict=True):
        if old.digest != new.digest:
            raise refuse(
                f"another seed '{old.name}': {new.path} now holds tensors with digest "
                f"{new.digest[:12]}, then {old.digest[:12]}"
            )
    entries, tasks = pool.tasks(), pins.tasks
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
    _check_guards(pool.guards(), pins.guards, refuse)
    pinned = _with_defaults(pool.meta()["pins"], inputs)
    given = json.loads(json.dumps(pins.settings))
    # A pool goes on by the rule that it began with; see `Header.scored_as_exported`.
    del given["rounding"]
    pinned.setdefault("components", {})
    check_model_files(pool, inputs, given.pop("companions"))
    for key, value in given.items():
        if pinned.get(key) != value:
            raise refuse(_difference(key, pinned.get(key), value))


def check_model_files(pool: Pool, inputs: Inputs, found: dict[str, str] | None = None) -> None:
    """Refuse to make models of a pool with other files beside the weights than there were.

    Args:
        pool: that pins them.
        inputs: the models.
        found: their digests, as `Pins.settings` has them; None reads the files.

    Raises:
        PoolError: naming what differs.
    """
    first = inputs.checkpoints[0]
    what = inputs.run.config.model, first, inputs.run.directory
    now, then = found or model_file_digests(*what), pool.meta()["pins"].get("companions", {})
    for name in changed_model_files(pool, now):
        places = _pinned_files(*what)
        place = places[name].place if name in places else first.path
        if name not in now:
            raise _refusal(pool, f"the {name} that {place} holds no longer")
        if name not in then:
            raise _refusal(pool, f"no {name}, and {place} holds one now")
        raise _refusal(pool, f"another {name} than {place} holds now")


def changed_model_files(pool: Pool, now: Mapping[str, str]) -> list[str]:
    """The names of pinned files that have other digests now than when the pool was made."""
    # A pool that is older than one of these pins does not say.
    then: dict[str, str] = pool.meta()["pins"].get("companions", now)
    then = {**{name: now[name] for name in _LATER & now.keys()}, **then}
    return [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]


def _refusal(pool: Pool, what: str) -> PoolError:
    return PoolError(
        f"{pool.path}: this pool was made with {what}; its members cannot be compared with new "
        "ones. Name another pool directory in the run file, or put the setting back"
    )


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
            if not field.is_required() and (key, name) != ("model", "seeds")
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
