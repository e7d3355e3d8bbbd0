"""`genepool demo digits`: the whole way from nothing to a better model, and what came of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from genepool.errors import MissingExtraError
from genepool.output.member import export
from genepool.pool.members import describe
from genepool.pool.reader import Pool
from genepool.run.evolve import Result, evolve
from genepool.study.digits import BruteForce, brute_force, prepare
from genepool.ui.cli.endings import breeding
from genepool.ui.terminal.console import command, console, count, percent, plain, print_json
from genepool.ui.terminal.progress import watcher
from genepool.ui.terminal.tables import print_scores, print_session


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
        run = prepare(directory, from_scratch=from_scratch, budget=budget, seed=seed)
        result = evolve(run, progress=progress)
        progress.stage("looking for the best single merge of the seeds")
        single = brute_force(run)
        progress.stage("writing champion and figure")
        with Pool(directory) as pool:
            champion = describe(pool, result.status["champion"]["member"])
            checkpoint = directory / f"member-{champion['member']}"
            # A checkpoint appears whole or not at all, and a member never changes.
            if not checkpoint.exists():
                export(pool, champion["member"], checkpoint)
            figure, reason = _figure(pool, directory / "run.png")
    if as_json:
        print_json(
            {
                **result.status,
                "brute_force": asdict(single),
                "session": result.session,
                "seconds": result.seconds,
                "checkpoint": str(checkpoint),
                "figure": None if figure is None else str(figure),
            }
        )
    else:
        _report(directory, result, single, champion, checkpoint, figure or reason)


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
    rows = [(s["name"], s["train"], s["held_out"], "") for s in result.status["seeds"]]
    remark = f"one SLERP ratio for all weights, {single.ratio:.2f}"
    rows.append(("best single merge", single.train, single.held_out, remark))
    remark = f"member {champion['member']}, {count(champion['generation'], 'generation')}"
    if champion["genome"]["kind"] == "recipe":
        remark += f", {count(champion['genome']['segments'], 'segment')}"
    rows.append(("champion", champion["train"], champion["held_out"], remark))
    print_scores(out, rows)
    out.print()
    print_session(out, result.status, result.session, result.seconds)
    asked, total = result.status["examples_evaluated"], result.status["examples_total"]
    if total:
        out.print(f"early stop saved {percent(1 - asked / total)} of the example evaluations")
    out.print()
    out.print(f"champion  {plain(checkpoint)}")
    out.print(f"figure    {plain(figure)}")
    out.print(f"pool      {plain(directory)}  ({plain(command('status', directory))})")
