"""Comparing strategies: each with every random seed, one pool each, and what came of them.

A comparison is a directory: `runs/LABEL/SEED` are ordinary pools, and the tables are made from them
alone. So it can be interrupted at any moment, and the same call goes on to the same tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from genepool.checkpoints.files.digests import remember_digests
from genepool.errors import ConfigError, InputError, OptionError, PoolError
from genepool.materialise.gram import load_or_build_gram
from genepool.messages import count
from genepool.output.own_files import (
    CURVES,
    PNG,
    SVG,
    TABLE,
    refuse_pool_directory,
    require_replaceable,
    write_own,
)
from genepool.pool.database import begun
from genepool.pool.history import history
from genepool.pool.reader import Pool
from genepool.run.executors.restart import refuse_restart
from genepool.run.inputs import not_held_out, open_seeds
from genepool.run.progress import Progress, Silence
from genepool.run.run_file import Run, load_run, resolve
from genepool.settings import as_in_a_file
from genepool.study.comparison import Comparison, Curve, assemble, curves_csv, summary_csv
from genepool.study.grid import Job, run_grid
from genepool.threads import available_threads
from genepool.yaml_documents import parse_yaml

# Points of a curve, besides the one before any child.
_POINTS = 200
# What a comparison consists of, besides its runs.
FILES = {
    "curves.csv": CURVES,
    "summary.csv": CURVES,
    "table.md": TABLE,
    "comparison.png": PNG,
    "comparison.svg": SVG,
}

# A label names a directory.
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


# Setting up


def parse_variant(text: str) -> tuple[str, dict[str, Any]]:
    """`LABEL={name: m2n2, attraction: false}`: the label, and the strategy with its options.

    Raises:
        OptionError: it is not of this form.
    """
    label, _, body = text.partition("=")
    try:
        value, _ = parse_yaml(body)
    except ValueError as error:
        raise OptionError(f"--variant {label}: {error}") from None
    if isinstance(value, dict) and "name" in value:
        return label, cast("dict[str, Any]", value)
    raise OptionError(
        f"--variant: expected LABEL={{name: STRATEGY, OPTION: VALUE, ...}}, such as "
        f"'plain={{name: m2n2, attraction: false}}'; got '{text}'"
    )


def plan_jobs(
    run: Run,
    directory: Path,
    strategies: Sequence[str],
    variants: Iterable[tuple[str, Mapping[str, Any]]],
    runs: int,
    budget: int,
) -> list[Job]:
    """The runs of a comparison, strategy by strategy.

    Args:
        run: the run file. Its own strategy's options hold where that strategy is named.
        directory: of the comparison.
        strategies: names of strategies, which are also their labels.
        variants: labels, and strategies with their options.
        runs: of each strategy; run k has the run file's random seed + k.
        budget: children of each run.

    Raises:
        ConfigError: no strategy.
        OptionError: a bad or repeated label, an unknown strategy or option.
        InputError: runs or budget out of range.
    """
    if runs < 1:
        raise InputError(f"runs: expected at least 1; got {runs}")
    if budget < 0:
        raise InputError(f"budget: expected at least 0; got {budget}")
    if run.config.seed + runs > 2**63:
        raise InputError(f"seed {run.config.seed} + {runs} runs: expected at most 2**63 - 1")
    own = {run.config.strategy.name: run.given.data.get("strategy", {})}
    entries: list[tuple[str, str, Mapping[str, Any]]] = [
        (name, "--strategies", own.get(name, {"name": name})) for name in strategies
    ]
    entries += [(label, f"--variant {label}", options) for label, options in variants]
    if not entries:
        raise ConfigError("nothing to compare: name strategies, such as --strategies m2n2,ga")
    taken: set[str] = set()
    jobs: list[Job] = []
    for label, origin, strategy in entries:
        if not _LABEL.fullmatch(label):
            raise OptionError(
                f"{origin}: '{label}' cannot be a label: expected a letter or digit, then at most "
                "63 letters, digits, dots, pluses, dashes and underscores"
            )
        # Some file systems do not tell capitals apart.
        if label.lower() in taken:
            raise OptionError(
                f"{origin}: the label '{label}' is used twice; give one of them another with "
                "--variant LABEL='{name: ...}'"
            )
        taken.add(label.lower())
        for seed in range(run.config.seed, run.config.seed + runs):
            changes: dict[str, Any] = {
                "pool": str((directory / "runs" / label / str(seed)).absolute()),
                "strategy": as_in_a_file(strategy),
                "seed": seed,
                "budget": budget,
                "track_held_out": True,
                # The cores are shared among the runs, each of which has one model.
                "executor": "serial",
                "devices": None,
            }
            jobs.append(Job(label, seed, _changed(run, changes, origin)))
    return jobs


def _changed(run: Run, changes: Mapping[str, Any], origin: str) -> Run:
    """A run with another strategy, refused by the name of the option where that is wrong."""
    given = replace(run.given, data={**run.given.data, **changes})
    try:
        changed = resolve(replace(given, source=origin, lines={}))
    except ConfigError as error:
        text, name = str(error), changes["strategy"].get("name")
        if origin == "--strategies" and "required" in text:
            text += f"; give it with --variant {name}='{{name: {name}, ...}}'"
        raise OptionError(text) from None
    return replace(changed, given=given)


# Running


def compare(
    run: Run | str | Path | Mapping[str, Any],
    directory: str | Path,
    *,
    strategies: Sequence[str] = (),
    variants: Iterable[tuple[str, Mapping[str, Any]]] = (),
    runs: int = 10,
    budget: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Run every strategy with every random seed and write curves.csv and summary.csv.

    Arguments and errors are those of `genepool.compare`, but `progress` is who watches, if anyone.
    """
    from filelock import FileLock, Timeout

    refuse_restart()
    loaded = run if isinstance(run, Run) else load_run(run)
    target = loaded.config.budget if budget is None else budget
    path = Path(directory)
    refuse_pool_directory(path)
    for name, kind in FILES.items():
        require_replaceable(path / name, kind)
    jobs = plan_jobs(loaded, path, strategies, variants, runs, target)
    watcher = progress or Silence()
    processes = min(len(jobs), workers or available_threads())
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / "compare.lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise PoolError(
            f"{path}: another `genepool compare` is at work here; wait for it"
        ) from None
    except OSError as error:
        raise PoolError(f"{path}: cannot write here ({error.strerror or error})") from None
    try:
        missing = [job for job in jobs if not _complete(job)]
        cache = _prepared(missing, path / "cache", watcher)
        watcher.stage(f"{count(len(jobs), 'run')} in {count(processes, 'process', 'processes')}")
        run_grid(jobs, processes, watcher, cache)
        watcher.stage("reading the runs")
        curves: list[Curve] = []
        told: tuple[str, ...] = ()
        for job in jobs:
            with Pool(job.pool) as pool:
                curves.append(read_curve(pool, job.label, job.seed, target))
                told = not_held_out({task.name: task.held_out for task in pool.tasks()})
        # All runs have the same tasks; those that were missing have told it.
        for notice in () if missing else told:
            watcher.notice(notice)
        found = assemble(path, curves, target)
        write_own(path / "curves.csv", curves_csv(found.curves).encode(), CURVES)
        write_own(path / "summary.csv", summary_csv(found).encode(), CURVES)
    finally:
        lock.release()
    return found


def _prepared(missing: Sequence[Job], cache: Path, watcher: Progress) -> Path:
    """Read the seeds, on all cores, once for all runs: the directory where what follows is kept."""
    if missing:
        watcher.stage("reading the seeds")
        run = missing[0].run
        told = {f"{job.label}: {text}": None for job in missing for text in job.told}
        for notice in told:
            watcher.notice(notice)
        cache.mkdir(exist_ok=True)
        sources, family = open_seeds(run)
        remember_digests(family.checkpoints, [source.rename for source in sources], cache)
        if not all(job.run.strategy.dense for job in missing):
            load_or_build_gram(family.checkpoints, family.layout, cache)
    return cache


def _complete(job: Job) -> bool:
    if not begun(job.pool):
        return False
    with Pool(job.pool) as pool:
        return pool.evaluations >= job.run.config.budget


def read_curve(pool: Pool, strategy: str, seed: int, budget: int) -> Curve:
    """A run's curve, up to the budget even where its pool has gone further.

    Raises:
        PoolError: the pool has not got that far; or it has gone further, and its members compete
            for subsets, so that the champion was found at its end alone.
    """
    if pool.evaluations < budget:
        raise PoolError(
            f"{pool.path}: has {pool.evaluations} children of {budget}; run the same command again"
        )
    if pool.header.subsets is not None and pool.evaluations > budget:
        raise PoolError(
            f"{pool.path}: has {pool.evaluations} children; where members compete for subsets "
            f"('share') the champion is found at the end alone, so that the one after {budget} is "
            f"not known: give --budget {pool.evaluations}, or compare in another directory"
        )
    past = history(pool, points=_POINTS + 1, last=budget)
    held_out, final = pool.held_out(), pool.champion() if pool.header.subsets else None
    asked = np.zeros(budget + 1, dtype=np.int64)
    champions: list[tuple[int, float, float]] = []
    for record in pool.records():
        if record.step > budget:
            break
        if record.step:
            asked[record.step] = record.asked
        certain = record.verdict == "accepted" and (final is None or not record.step)
        train = record.train if certain else None
        if train is not None and (not champions or train > champions[-1][1]):
            champions.append((record.step, train, held_out.get(record.id, float("nan"))))
    for step, examples in pool.reevaluated().items():
        if step <= budget:
            asked[step] += examples
    if final is not None:
        # With subsets a champion is known for certain in the end.
        best = pool.record(final).train or 0.0
        if best > champions[-1][1]:
            champions.append((budget, best, held_out.get(final, float("nan"))))
    # Of the seeds only the best is a champion before any child.
    first = sum(step == 0 for step, _, _ in champions) - 1
    table = np.array(champions[first:], dtype=np.float64).T
    return Curve(
        strategy,
        seed,
        pool.examples.size,
        past.evaluations,
        past.train,
        past.held_out,
        past.coverage,
        past.entropy,
        asked.cumsum()[past.evaluations],
        table[0].astype(np.int64),
        table[1].copy(),
        table[2].copy(),
    )
