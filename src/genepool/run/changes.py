"""What has changed since a pool was last worked on: code, versions, and scores of the seeds.

Nothing that a pool holds is scored again when a run goes on, and the digest of a task knows a
user's functions by name, and a live server by what it says at first, but not what the ones compute
and the others answer later. So a pool keeps what its scores were computed by, and a change is
told; and where a run goes on, a block of examples of each task is scored again, by the seed of
which that says most.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from itertools import accumulate, pairwise
from types import FunctionType, ModuleType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from genepool.core.examples import Examples
from genepool.core.genome import Genome
from genepool.errors import EvaluationError, PoolError
from genepool.messages import agreeing, count, one_line, some
from genepool.models.user_code import load_function
from genepool.run.executors.executor import Executor
from genepool.run.executors.installation import (
    digest_of,
    outdated,
    own_modules,
    packages_named,
    processor,
    versions,
)
from genepool.run.executors.scorer import ALIKE, Part
from genepool.run.run_file import Run
from genepool.run.session import Session
from genepool.settings import as_recorded
from genepool.tasks.agent.environment import find_environment
from genepool.tasks.agent.options import AgentOptions

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

# Where a pool keeps what is said here.
RAN_WITH, GUARDS = "ran_with", "guards_sampled"

# Examples that are scored again where they are not scored in blocks, and of guards.
_SAMPLE = 16
# How often a sample is scored that differs, to see whether it repeats itself at all.
_AGAIN = 3
_NOTHING_RECORDED = (
    "; nothing that is recorded has changed, so that it is a file or server that is asked, an "
    "environment variable, the time, or the order of a set in Python, which differs by process"
)
_PLUGINS = ("genepool.evaluators", "genepool.environments", "genepool.strategies")


def ran_with(run: Run) -> dict[str, Any]:
    """What scores are computed by here and now, as the pool keeps it.

    Digests of the user's modules, versions of packages, and the kind of processor.

    Args:
        run: with all tasks opened, so that their modules are loaded.

    Raises:
        ConfigError: the module of the run's network cannot be imported.
    """
    if run.config.model.network is not None:
        # Workers load it, and this process perhaps not.
        load_function(run.config.model.network, run.directory)
    modules = own_modules()
    script = vars(sys.modules["__main__"]).get("__file__")
    named = {*_classes(run), *packages_named(run.given.data)}
    if "__main__" in named and isinstance(script, str) and script.endswith(".py"):
        modules["__main__"] = digest_of(script)
    packages = {**_imported_by(modules), **_plugins(), **versions()}
    return {"modules": modules, "packages": packages, "processor": processor()}


def _classes(run: Run) -> Iterator[str]:
    """The modules of classes that a run names, which may have been registered anywhere."""
    yield type(run.strategy).__module__
    for task in run.tasks:
        yield task.evaluator.__module__
        if isinstance(task.options, AgentOptions):
            yield find_environment(task.options.environment, run.directory).__module__


def _imported_by(modules: Mapping[str, str]) -> dict[str, str]:
    """Versions of the packages that modules have imported, as these packages say them."""
    tops: set[str] = set()
    for name in modules:
        for value in list(vars(sys.modules[name]).values()):
            if isinstance(value, ModuleType):
                tops.add(value.__name__.partition(".")[0])
            elif isinstance(value, (type, FunctionType)):
                tops.add(str(value.__module__).partition(".")[0])
    found: dict[str, str] = {}
    for top in sorted(tops - set(sys.stdlib_module_names) - modules.keys() - {"genepool"}):
        # Python keeps None there for what shall not be imported, and some put an object of theirs.
        module = sys.modules.get(top)
        version = vars(module).get("__version__") if isinstance(module, ModuleType) else None
        if isinstance(version, str):
            found[top] = version.partition("+")[0]
    return found


@cache
def _plugins() -> Mapping[str, str]:
    """Versions of the packages that make evaluators, environments or strategies known.

    As they were when this process first asked: files of all packages are read for it.
    """
    known = metadata.entry_points()
    dists = {point.dist for group in _PLUGINS for point in known.select(group=group)}
    found = {dist.name: dist.version for dist in dists if dist is not None}
    return {name: found[name] for name in sorted(found.keys() - {"genepool"})}


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is another one than before, for people; what only one of them has is passed over."""
    found: list[str] = []
    for key, noun in (("modules", "the module"), ("packages", "")):
        then, today = cast("dict[str, str]", before[key]), cast("dict[str, str]", now[key])
        for name in sorted(then.keys() & today.keys()):
            if then[name] != today[name]:
                told = f"{noun} '{name}'" if noun else f"{name} (it was {then[name]})"
                found.append(one_line(told))
    if before["processor"] != now["processor"]:
        found.append(f"the processor (it was {one_line(before['processor'])})")
    return found


def outdated_told() -> tuple[str, ...]:
    """A line about modules whose files have changed under this process, as in a notebook."""
    if not (names := outdated()):
        return ()
    return (
        f"{some(names)}: the file has changed since Python imported it, and what runs is what it "
        "held before; start Python (or the notebook's kernel) anew, or reload the module",
    )


def require_unchanged(
    session: Session, seeds: Sequence[Genome], now: Mapping[str, Any]
) -> tuple[str, ...]:
    """Say what has changed since a pool was last worked on, and whether scores are what they were.

    Args:
        session: of the pool; nothing is written to it.
        seeds: genomes of the seeds, in order.
        now: as `ran_with` gives it.

    Returns:
        What is good to know, one line each; whoever watches has been told.

    Raises:
        PoolError, EvaluationError: see `check_scores`.
    """
    meta, config = session.pool.meta(), as_recorded(session.inputs.run.config)
    changes = [] if RAN_WITH not in meta else changed(meta[RAN_WITH], now)
    changes += _options(meta["config"], config)
    notes: tuple[str, ...] = ()
    if changes:
        rest = f" and {len(changes) - 8} more" if len(changes) > 8 else ""
        notes = (
            f"changed since this pool was last worked on: {', '.join(changes[:8])}{rest}; some of "
            "the seeds' scores are computed again, to see whether they are still the same",
        )
        session.progress.notice(notes[0])
    session.progress.stage("comparing scores with the pool's")
    found = check_scores(session, seeds, changes)
    for note in found:
        session.progress.notice(note)
    return notes + found


def _options(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Options of tasks that are others than before, and that a task's digest may not have."""
    then = {str(task["name"]): cast("dict[str, Any]", task) for task in before["tasks"]}
    found: list[str] = []
    for task in cast("list[dict[str, Any]]", now["tasks"]):
        old = then.get(str(task["name"]), task)
        differ = [key for key in sorted(task.keys() | old.keys()) if task.get(key) != old.get(key)]
        name = one_line(task["name"])
        found += [f"the option '{one_line(key)}' of task '{name}'" for key in differ]
    return found


@dataclass(frozen=True, eq=False)
class _Sample:
    """Scores that the pool holds, to be computed again.

    Attributes:
        what: the task or guard, for people.
        seed: whose scores they are, by number.
        part: which examples.
        indices: int64[n], positions among these.
        names: of the n examples.
        scores: float32[n] that the pool holds.
    """

    what: str
    seed: int
    part: Part
    indices: Int64
    names: Sequence[str]
    scores: Float32


def check_scores(
    session: Session, seeds: Sequence[Genome], changes: Sequence[str]
) -> tuple[str, ...]:
    """Score a block of each task's examples again, and compare it with what the pool holds.

    Args:
        session: of a pool that has been worked on before; nothing is written to it.
        seeds: genomes of the seeds, in order.
        changes: what `changed` has found, for the message.

    Returns:
        What is good to know, one line each: tasks that do not give the same scores twice.

    Raises:
        PoolError: scores differ, and they do so each time.
        EvaluationError: a seed cannot be scored any more.
    """
    notes: list[str] = []
    for sample in (*_tasks_sample(session), *_guards_sample(session)):
        now = _scored(session, sample, seeds)
        differ = np.flatnonzero(np.abs(now - sample.scores) > ALIKE)
        if not differ.size:
            continue
        first = int(differ[0])
        again = [_scored(session, sample, seeds) for _ in range(_AGAIN)]
        if any((np.abs(other - now) > ALIKE).any() for other in again):
            notes.append(
                f"{sample.what} does not give the same scores twice (example "
                f"'{one_line(sample.names[first])}': {sample.scores[first]:.4g} in the pool, and "
                f"now {now[first]:.4g}, {again[0][first]:.4g} and {again[1][first]:.4g}): "
                "models are selected by luck, too, and nobody can tell whether its rule is still "
                "the one that this pool was made by"
            )
            continue
        text = _difference(session, sample, now, differ, changes)
        if session.inputs.run.config.changed_scores == "stop":
            raise PoolError(
                f"{session.pool.path}: {text}. Nothing was written: put back what was changed, or "
                "name another pool directory; 'changed_scores: tell' goes on all the same"
            )
        notes.append(text)
    return tuple(notes)


def sample_guards(session: Session, seeds: Sequence[Genome]) -> None:
    """Keep scores of the first examples of each guard, of which a pool holds nothing but means."""
    if not session.guards or GUARDS in session.pool.meta():
        return
    parts = [session.executor.score(seeds[0], "guard", places) for places in _of_guards(session)]
    session.pool.set_meta(GUARDS, [part.astype(float).tolist() for part in parts])


def _difference(
    session: Session, sample: _Sample, now: Float32, differ: Int64, changes: Sequence[str]
) -> str:
    first = int(differ[0])
    why = "; changed since then: " + ", ".join(changes[:4]) if changes else _NOTHING_RECORDED
    return (
        f"{sample.what} scores otherwise than it did when this pool was made: seed "
        f"'{session.inputs.run.seeds[sample.seed].name}' on example "
        f"'{one_line(sample.names[first])}' {now[first]:.4g}, and then {sample.scores[first]:.4g} "
        f"({differ.size} of {count(now.size, 'example')} that were scored again "
        f"{agreeing(differ.size, 'differs', 'differ')}){why}. "
        "Members that were scored by two rules cannot be compared"
    )


def _scored(session: Session, sample: _Sample, seeds: Sequence[Genome]) -> Float32:
    executor: Executor = session.executor
    try:
        return executor.score(seeds[sample.seed], sample.part, sample.indices)
    except EvaluationError as error:
        name = session.inputs.run.seeds[sample.seed].name
        raise EvaluationError(
            f"seed '{name}', whose scores are in the pool, cannot be scored now: {error}"
        ) from None


def _tasks_sample(session: Session) -> Iterator[_Sample]:
    """The block of each task whose scores say most, and the seed that has them."""
    inputs, pool = session.inputs, session.pool
    records = [*pool.records(last=len(inputs.checkpoints) - 1)]
    scores = {record.id: record.scores for record in records if record.scores is not None}
    if not scores:
        return
    held = np.stack([*scores.values()])
    for number, (row, indices) in most_telling(inputs.examples, held).items():
        task, start = inputs.tasks[number], inputs.examples.edges[number]
        places: list[int] = (indices - start).tolist()
        names = [task.samples[place] for place in places]
        yield _Sample(
            f"task '{inputs.examples.tasks[number].name}'",
            [*scores][row],
            "train",
            indices,
            names,
            held[row, indices],
        )


def most_telling(examples: Examples, scores: Float32) -> dict[int, tuple[int, Int64]]:
    """Where scores differ most from each other: what gives all examples the same says little.

    Args:
        examples: N of them.
        scores: float32[K, N] of models, in [0, 1], NaN where not known.

    Returns:
        For each task of which a whole block is known: the row of a model, and int64[n], the block.
    """
    found: dict[int, tuple[int, Int64]] = {}
    for number, (start, stop) in enumerate(pairwise(examples.edges)):
        place = np.arange(start, stop)
        if examples.blocks is not None:
            place = place[np.diff(examples.blocks[start:stop], prepend=-1) != 0]
        if not place.size:
            continue
        # Blocks that are smaller than a sample are taken together.
        starts = place[np.unique((place - start) // _SAMPLE, return_index=True)[1]]
        values = scores[:, start:stop].astype(np.float64)
        sizes = np.diff(starts, append=stop)
        sums = np.add.reduceat(values, starts - start, axis=1)
        squares = np.add.reduceat(values * values, starts - start, axis=1)
        spread = squares / sizes - (sums / sizes) ** 2
        spread[np.isnan(spread)] = -1
        row, block = np.unravel_index(int(np.argmax(spread)), spread.shape)
        if np.isnan(sums[row, block]):
            continue
        found[number] = (int(row), starts[block] + np.arange(sizes[block], dtype=np.int64))
    return found


def sample_of(examples: Examples, scores: Float32) -> Int64:
    """int64[n], the blocks of all tasks that say most, by float32[N] scores of one model."""
    found = most_telling(examples, scores[None])
    return np.concatenate([np.zeros(0, dtype=np.int64), *(block for _, block in found.values())])


def _of_guards(session: Session) -> list[Int64]:
    """int64[n] for each guard: its first examples, as positions among those of all guards."""
    sizes = [guard.examples for guard in session.guards]
    return [
        start + np.arange(min(size, _SAMPLE), dtype=np.int64)
        for start, size in zip(accumulate(sizes, initial=0), sizes, strict=False)
    ]


def _guards_sample(session: Session) -> Iterator[_Sample]:
    held = session.pool.meta().get(GUARDS)
    if held is None:
        return
    pairs = zip(session.guards, session.inputs.guards, _of_guards(session), held, strict=True)
    for guard, task, indices, scores in pairs:
        names = task.samples[: indices.size]
        values = np.array(scores, dtype=np.float32)
        yield _Sample(f"guard '{guard.name}'", 0, "guard", indices, names, values)
