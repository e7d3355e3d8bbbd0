"""Bringing a pool to its budget: opens what the run file names, and hands it to the driver."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from genepool.checkpoints.files.digests import copies, stamps
from genepool.core.checks import is_whole
from genepool.errors import ConfigError, MissingExtraError, PoolError
from genepool.pool import summary
from genepool.pool.database import begun
from genepool.pool.reader import Pool
from genepool.pool.writer import PoolWriter
from genepool.run.changes import RAN_WITH, outdated_told, ran_with, require_unchanged, sample_of
from genepool.run.driver import drive
from genepool.run.executors.devices import worker_devices
from genepool.run.executors.executor import Executor, SerialExecutor
from genepool.run.executors.installation import own_modules
from genepool.run.executors.interrupt import interruptible, watched
from genepool.run.executors.restart import refuse_restart
from genepool.run.executors.scorer import Scorer
from genepool.run.inputs import Inputs, open_inputs, problem_of
from genepool.run.pins import Pins, check_pins, opening, pins_of
from genepool.run.progress import Progress, Silence
from genepool.run.run_file import Run, load_run, settled
from genepool.run.session import Session
from genepool.settings import as_recorded
from genepool.tasks.task import Unshared
from genepool.threads import available_threads

# Settings that a pool which has reached its budget need not be opened for.
_NO_MATTER = {"budget", "changed_scores"}


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """What a call of `evolve` did.

    Attributes:
        pool: where everything is.
        status: as `genepool status --json` prints it.
        session: children absorbed by this call.
        seconds: that they took, setting up left out.
        notices: what is good to know about seeds, tasks and strategy, one line each; empty if
            nothing was to do.
    """

    pool: Path
    status: dict[str, Any]
    session: int
    seconds: float
    notices: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """The pool and what lives in it, in one line."""
        return f"<genepool.Result {str(self.pool)!r}: {summary.line(self.status)}>"

    def _repr_html_(self) -> str:
        """For notebooks."""
        return summary.html(self.status)


def evolve(
    run: Run | str | os.PathLike[str] | Mapping[str, Any],
    *,
    budget: int | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
    cache: Path | None = None,
) -> Result:
    """Bring a pool to its budget; the same call again resumes, and does nothing when done.

    Arguments and errors are those of `genepool.evolve`, but `progress` is who watches, if anyone.
    """
    refuse_restart()
    given = run if isinstance(run, Run) else load_run(run)
    path = given.resolve(given.config.pool)
    loaded = given
    if given.config.in_flight == "auto":
        recorded = _in_flight(path)
        loaded = settled(given, 0 if recorded else _workers(given), recorded)
    target = loaded.config.budget if budget is None else budget
    if not is_whole(target) or target < 0:
        raise PoolError(f"budget must be a whole number of at least 0; got {target!r}")
    target = int(target)
    watcher = progress or Silence()
    if begun(path):
        with Pool(path) as pool:
            if _finished(pool, loaded, target):
                return Result(path, pool.status(), 0, 0.0)
    devices = worker_devices(loaded)
    watcher.stage("opening seeds and tasks")
    inputs = open_inputs(loaded)
    _require_own_sessions(inputs, devices)
    told = (*inputs.notices, *loaded.strategy.told(len(loaded.seeds), target))
    for notice in told:
        watcher.notice(notice)
    now = ran_with(loaded)
    notes = outdated_told()
    # In this order, so that Ctrl-C does not cut off opening and closing the pool.
    with interruptible() as interrupted, contextlib.closing(PoolWriter(path)) as pool:
        watcher.stage("reading the seeds")
        pins = pins_of(inputs, cache or path)
        pool.watch = inputs.look
        twins = copies([seed.name for seed in pins.seeds], [seed.digest for seed in pins.seeds])
        for notice in (*twins, *notes):
            watcher.notice(notice)
        fresh = pool.fresh
        if fresh and target:
            _require_difference(inputs, [seed.digest for seed in pins.seeds])
        if fresh:
            meta = {
                "pins": pins.settings,
                "config": _recorded(loaded),
                RAN_WITH: now,
                "axis_size": inputs.layout.axis.size,
                "tensors": [[slot.name, slot.start] for slot in inputs.layout.slots],
                "kind": inputs.kind,
                "rounds": None
                if inputs.run.strategy.subsets is None
                else asdict(inputs.run.strategy.subsets),
                "seed": loaded.config.seed,
                "budget": target,
                "opening": opening(inputs),
                "directory": str(loaded.directory.resolve()),
                "guards": [asdict(guard) for guard in pins.guards],
            }
            pool.set_up(meta, pins.seeds, pins.tasks)
        else:
            check_pins(pool, pins, inputs)
        watcher.stage("preparing the seeds")
        problem = problem_of(inputs, cache or path)
        watcher.stage("building the model")
        executor = _executor(
            inputs, pins, devices, threads, watcher, interrupted, pool.header.scored_as_exported
        )
        try:
            session = Session(inputs, pins.guards, pool, executor, watcher, interrupted)
            if not fresh:
                notes += require_unchanged(session, problem.seeds, now)
                pool.set_meta("budget", max(target, pool.evaluations))
                pool.set_meta("config", _recorded(loaded))
                pool.set_meta("opening", opening(inputs))
                pool.set_meta("directory", str(loaded.directory.resolve()))
                pool.set_meta(RAN_WITH, now)
            children, seconds = drive(session, problem, target, _abreast(loaded, devices))
        finally:
            executor.close()
        return Result(path, pool.status(), children, seconds, (*told, *twins, *notes))


def _require_difference(inputs: Inputs, digests: list[str]) -> None:
    """Refuse to breed copies of one model and to call them children.

    Raises:
        ConfigError: without mutation, every child of these seeds has the weights of the one seed.
    """
    if inputs.kind == "vector" or len(set(digests)) > 1:
        return
    what = "there is one seed" if len(digests) == 1 else "all seeds have the same weights"
    raise ConfigError(
        f"{inputs.run.where('seeds')}: seeds: {what}, so that every child would be a copy of it. "
        "Name a second model to merge it with; for small networks evolved from scratch, give "
        "'strategy' a 'mutation' above 0"
    )


def _require_own_sessions(inputs: Inputs, devices: Sequence[str]) -> None:
    """Refuse several workers where a task can be scored by one process at a time.

    Raises:
        ConfigError: naming the task.
    """
    run, config = inputs.run, inputs.run.config
    if config.executor == "serial":
        return
    if config.executor == "process" and _processes(run, devices) == 1:
        return
    if config.executor == "ray" and config.workers == 1:
        return
    names = [task.name for task in config.contested] + [task.name for task in config.guards]
    for name, task in zip(names, (*inputs.tasks, *inputs.guards), strict=True):
        if isinstance(task, Unshared) and task.exclusive:
            raise ConfigError(
                f"{run.where('executor')}: executor '{config.executor}' has several workers, and "
                f"task '{name}' is played in an environment that keeps no more than one episode: "
                "say 'workers: 1', or take settings of the environment with which it keeps "
                "sessions apart (of openenv 'transport: websocket')"
            )


def _processes(run: Run, devices: Sequence[str]) -> int:
    """How many worker processes the executor 'process' has."""
    config = run.config
    return len(devices) or config.workers or min(available_threads(), config.width)


def _abreast(run: Run, devices: Sequence[str]) -> int:
    """How many children are scored at a time, as far as that is known."""
    config = run.config
    if config.executor == "serial":
        return 1
    if config.executor == "ray" and not config.workers:
        return config.width
    return min(config.width, _processes(run, devices))


def _workers(run: Run) -> int:
    """How many models are scored at a time, whatever is in flight."""
    config = run.config
    if config.executor == "serial":
        return 1
    if config.executor == "ray" and not config.workers:
        raise ConfigError(
            f"{run.where('in_flight')}: in_flight: 'auto' needs a number of 'workers' with the "
            "executor 'ray', because a cluster's nodes come and go"
        )
    return len(worker_devices(run)) or config.workers or available_threads()


def _in_flight(path: Path) -> int | None:
    """The number that a pool began with; None if nothing has been scored in it."""
    if not begun(path):
        return None
    with Pool(path) as pool:
        return int(pool.meta()["pins"]["in_flight"]) if pool.seeds_scored else None


def _finished(pool: Pool, run: Run, budget: int) -> bool:
    """Whether nothing is left to do for a pool that this very run file made."""
    meta = pool.meta()
    recorded, same = meta["config"], _recorded(run)
    # Pools of older releases have them.
    recorded.get("ray", {}).get("environment", {}).pop("env_vars", None)
    for config in (recorded, same):
        for name in _NO_MATTER:
            config.pop(name, None)
    if recorded != same:
        return False
    return pool.evaluations >= budget and meta.get("finished") == pool.evaluations


def _recorded(run: Run) -> dict[str, Any]:
    """What a pool keeps of the run file: no variables for workers, which may be credentials."""
    return as_recorded(run.config, {"ray": {"environment": {"env_vars"}}})


def _executor(
    inputs: Inputs,
    pins: Pins,
    devices: Sequence[str],
    threads: int | None,
    progress: Progress,
    interrupted: threading.Event,
    as_exported: bool,
) -> Executor:
    config, asked = inputs.run.config, watched(progress, interrupted)
    # What every worker must score alike.
    sample = partial(sample_of, inputs.examples) if config.changed_scores == "stop" else None
    if config.executor == "ray":
        try:
            from genepool.run.executors.ray import RayExecutor
        except ModuleNotFoundError as error:
            if error.name != "ray":
                raise
            raise MissingExtraError("ray", "ray", "the executor 'ray'") from None
        return RayExecutor(
            inputs,
            pins,
            asked,
            progress.notice,
            as_exported=as_exported,
            sample=sample,
            interrupted=interrupted,
        )
    if config.executor == "process":
        from genepool.run.executors.process import ProcessExecutor

        return ProcessExecutor(
            inputs.run,
            _processes(inputs.run, devices),
            stamps(inputs.checkpoints),
            asked,
            inputs.blocks,
            devices=devices,
            as_exported=as_exported,
            modules=own_modules(),
            tasks=pins.digests,
            sample=sample,
            interrupted=interrupted,
        )
    return SerialExecutor(Scorer(inputs, threads, asked, as_exported=as_exported))
