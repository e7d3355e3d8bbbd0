"""What the commands do, as functions for scripts and notebooks."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from genepool.pool.reader import Pool

if TYPE_CHECKING:
    from genepool.run.evolve import Result
    from genepool.run.progress import Progress
    from genepool.run.run_file import Run
    from genepool.study.comparison import Comparison

PathLike = str | os.PathLike[str]


def evolve(
    run: Run | PathLike | Mapping[str, Any],
    *,
    budget: int | None = None,
    progress: Progress | bool = True,
    threads: int | None = None,
    cache: PathLike | None = None,
) -> Result:
    """Bring a pool to its budget; the same call again resumes, and does nothing when done.

    Args:
        run: a run file, its content as a mapping, or one that is already loaded.
        budget: number of children to have scored in the end; None takes the run file's.
        progress: shown on standard error, or not (False), or told to a watcher of one's own.
        threads: that may materialise a child; None means the cores of this process. The result
            does not depend on it.
        cache: where digests and inner products of the seeds are kept; it may serve many pools. None
            means the pool.

    Raises:
        GenepoolError: the run file, a seed, a task or the pool is at fault.
        KeyboardInterrupt: Ctrl-C, after the children being scored were finished and written.
    """
    from genepool.run.evolve import evolve

    with _watched(progress) as watching:
        place = None if cache is None else Path(cache)
        return evolve(run, budget=budget, progress=watching, threads=threads, cache=place)


def compare(
    run: Run | str | Path | Mapping[str, Any],
    directory: str | Path,
    *,
    strategies: str | Sequence[str] = (),
    variants: Mapping[str, Mapping[str, Any]] | Iterable[tuple[str, Mapping[str, Any]]] = (),
    runs: int = 10,
    budget: int | None = None,
    workers: int | None = None,
    progress: Progress | bool = True,
) -> Comparison:
    """Run every strategy with every random seed and write curves.csv and summary.csv.

    The same call again goes on where it was left, and ends with the same bytes.

    Args:
        run: a run file, its content as a mapping, or one that is already loaded; its pool is left
            alone.
        directory: of the comparison; new, or one that was begun.
        strategies: names; the run file's own strategy has the options that stand there, the others
            their defaults.
        variants: labels, and strategies with their options: a mapping, or pairs.
        runs: of each strategy, with the run file's random seed, that seed + 1, and so on.
        budget: children of each run; None takes the run file's.
        workers: runs at a time, each in a process with one thread and a model of its own; None
            means as many as there are cores.
        progress: as for `evolve`.

    Raises:
        GenepoolError: the run file, a strategy, a run or the directory is at fault.
        KeyboardInterrupt: Ctrl-C, after the children being scored were finished and written.
    """
    from genepool.study.compare import compare

    with _watched(progress) as watching:
        return compare(
            run,
            directory,
            strategies=[strategies] if isinstance(strategies, str) else strategies,
            variants=cast("Any", variants).items() if isinstance(variants, Mapping) else variants,
            runs=runs,
            budget=budget,
            workers=workers,
            progress=watching,
        )


def status(pool: PathLike) -> dict[str, Any]:
    """How far a pool is and what lives in it, as `genepool status --json` prints it.

    Raises:
        PoolError: there is no pool, or it is damaged.
    """
    with Pool(pool) as opened:
        return opened.status()


def show(pool: PathLike, member: int | str = "best") -> dict[str, Any]:
    """One member, as `genepool show --json` prints it.

    Args:
        pool: its directory.
        member: its number, "best" for the champion, or a seed's name.

    Raises:
        GenepoolError: there is no such pool or member.
    """
    from genepool.pool.members import describe, member_number

    with Pool(pool) as opened:
        return describe(opened, member_number(opened, str(member)))


def report(pool: PathLike, file: PathLike, *, overwrite: bool = True) -> Path:
    """Write a page of HTML that shows a pool, and return its path.

    Args:
        pool: its directory.
        file: of the page.
        overwrite: a page that genepool wrote to this file before is replaced; nothing else ever is.

    Raises:
        GenepoolError: there is no such pool, nothing has been scored yet, or the file cannot be
            written.
    """
    from genepool.ui.report.report import write_report

    with Pool(pool) as opened:
        write_report(opened, Path(file), overwrite=overwrite)
    return Path(file)


def _watched(progress: Progress | bool) -> contextlib.AbstractContextManager[Progress]:
    from genepool.run.progress import Silence
    from genepool.ui.terminal.progress import watcher

    # Programs without a console, as those of pythonw, have no standard error.
    if progress is True and cast("object", sys.stderr) is not None:
        return watcher()
    return contextlib.nullcontext(Silence() if isinstance(progress, bool) else progress)
