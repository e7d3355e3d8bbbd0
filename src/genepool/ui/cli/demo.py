"""`genepool demo`: the whole way from nothing to a better model, and what came of it."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from genepool.checkpoints.files.atomic import write_bytes
from genepool.errors import MissingExtraError
from genepool.messages import count, percent
from genepool.output.member import export
from genepool.pool.members import describe
from genepool.pool.reader import Pool
from genepool.run.evolve import Result, evolve
from genepool.study import digits, pictures
from genepool.study.digits import BruteForce
from genepool.study.pictures import Scored
from genepool.ui.cli.endings import breeding
from genepool.ui.terminal.console import command, console, plain, print_json
from genepool.ui.terminal.progress import watcher
from genepool.ui.terminal.tables import print_scores, print_scores_by_task, print_session


def digits_demo(
    directory: Path, *, from_scratch: bool, budget: int, seed: int, as_json: bool
) -> None:
    """Prepare, evolve, compare with the best single merge, write champion and figure, and report.

    Args:
        directory: of the pool; everything is written below it.
        from_scratch: two untrained networks and mutation, instead of two specialists.
        budget: number of children in the end.
        seed: the random seed.
        as_json: print the report as JSON.
    """
    with breeding(), watcher() as progress:
        progress.stage("preparing the two seeds")
        run = digits.prepare(directory, from_scratch=from_scratch, budget=budget, seed=seed)
        result = evolve(run, progress=progress)
        progress.stage("looking for the best single merge of the seeds")
        single = digits.brute_force(run)
        progress.stage("writing champion and figure")
        with Pool(directory) as pool:
            champion = describe(pool, result.status["champion"]["member"])
            checkpoint = _exported(pool, directory, champion["member"])
            figure, reason = _figure(pool, directory / "run.png")
    if as_json:
        _print_json(result, "brute_force", single, checkpoint, figure)
    else:
        _report(directory, result, single, champion, checkpoint, figure or reason)


def pictures_demo(
    directory: Path, *, budget: int, seed: int, training: float, as_json: bool
) -> None:
    """Train, evolve, compare with the seeds' mean, write champion and pictures, and report.

    Args:
        directory: of the pool; everything is written below it.
        budget: number of children in the end.
        seed: the random seed.
        training: how long the seeds are trained, as a part of what is usual.
        as_json: print the report as JSON.
    """
    from genepool.tasks.png import to_png

    with breeding(), watcher() as progress, _pictures_thread():
        progress.stage("training the four seeds")
        run = pictures.prepare(
            directory, budget=budget, seed=seed, advance=progress.advance, effort=training
        )
        result = evolve(run, progress=progress)
        progress.stage("drawing what seeds, mean and champion draw")
        file = directory / "pictures.png"
        with Pool(directory) as pool:
            champion = describe(pool, result.status["champion"]["member"])
            mean, drawn = pictures.compare(run, pool.genome(champion["member"]))
            write_bytes(file, to_png(drawn))
            progress.stage("writing the champion")
            checkpoint = _exported(pool, directory, champion["member"])
    if as_json:
        _print_json(result, "mean", mean, checkpoint, file)
    else:
        _report_pictures(directory, result, mean, champion, checkpoint, file)


def _print_json(
    result: Result, name: str, other: BruteForce | Scored, checkpoint: Path, figure: Path | None
) -> None:
    """What came of a run, beside a model that is no member of it."""
    print_json(
        {
            **result.status,
            name: asdict(other),
            "session": result.session,
            "seconds": result.seconds,
            "checkpoint": str(checkpoint),
            "figure": None if figure is None else str(figure),
        }
    )


def _pictures_thread() -> contextlib.AbstractContextManager[None]:
    pictures.require_installed()
    from genepool.study.generators import one_thread

    return one_thread()


def _exported(pool: Pool, directory: Path, member: int) -> Path:
    """A member's checkpoint: it appears whole or not at all, and a member never changes."""
    checkpoint = directory / f"member-{member}"
    if not checkpoint.exists():
        export(pool, member, checkpoint)
    return checkpoint


def _figure(pool: Pool, file: Path) -> tuple[Path | None, str]:
    """The figure's file, or None and why there is none: the demo is worth having without it."""
    try:
        from genepool.ui.figures import run_figure

        run_figure(pool, file)
    except MissingExtraError as error:
        return None, str(error)
    return file, ""


def _report(
    directory: Path,
    result: Result,
    single: BruteForce,
    champion: dict[str, Any],
    checkpoint: Path,
    figure: Path | str,
) -> None:
    out = console()
    rows = [(s["name"], s["train"], s["held_out"]) for s in result.status["seeds"]]
    rows.append(("best single merge", single.train, single.held_out))
    rows.append(("champion", champion["train"], champion["held_out"]))
    print_scores(out, rows)
    out.print()
    out.print(f"the best single merge has one SLERP ratio for all weights, {single.ratio:.2f}")
    out.print(f"the champion is {_of(champion)}")
    print_session(out, result)
    asked, total = result.status["examples_evaluated"], result.status["examples_total"]
    if total:
        out.print(f"early stop saved {percent(1 - asked / total)} of the example evaluations")
    _print_places(directory, checkpoint, "figure", figure)


def _report_pictures(
    directory: Path,
    result: Result,
    mean: Scored,
    champion: dict[str, Any],
    checkpoint: Path,
    file: Path,
) -> None:
    out = console()
    models = [*((seed["name"], seed) for seed in result.status["seeds"])]
    models += [("plain mean", asdict(mean)), ("champion", result.status["champion"])]
    out.print("how surely pictures show the digit that was asked for; by task the held-out ones")
    print_scores_by_task(out, models)
    out.print()
    out.print(f"the champion is {_of(champion)}")
    print_session(out, result)
    _print_places(directory, checkpoint, "pictures", file)


def _of(champion: dict[str, Any]) -> str:
    """Where a champion comes from, in a few words."""
    text = f"member {champion['member']}, {count(champion['generation'], 'generation')}"
    if champion["genome"]["kind"] == "recipe":
        text += f", {count(champion['genome']['segments'], 'segment')}"
    return text


def _print_places(directory: Path, checkpoint: Path, what: str, figure: Path | str) -> None:
    out = console()
    out.print()
    out.print(f"champion  {plain(checkpoint)}")
    out.print(f"{what:<8}  {plain(figure)}")
    out.print(f"pool      {plain(directory)}  ({plain(command('status', directory))})")
