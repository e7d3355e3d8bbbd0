"""The commands that breed: demo, evolve, compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from genepool.ui.cli.endings import breeding
from genepool.ui.cli.options import Whole, budget_option, json_option, output_to, seed_option

if TYPE_CHECKING:
    from genepool.run.evolve import Result

# Beyond these the curves of the demo are flat.
DEMO_BUDGET, DEMO_BUDGET_FROM_SCRATCH = 5_000, 20_000
# What two cores do within four minutes, training included.
PICTURES_BUDGET = 120


@click.group()
def demo() -> None:
    """Watch a complete run on real data."""


@demo.command()
@click.option(
    "--from-scratch",
    is_flag=True,
    help="Start from two untrained networks, with mutation, instead of two specialists.",
)
@budget_option(
    "So many children are scored.  "
    f"[default: {DEMO_BUDGET}; from scratch {DEMO_BUDGET_FROM_SCRATCH}]"
)
@seed_option
@click.option(
    "--pool",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="This is the pool's directory; everything is written below it.  [default: demo/digits; "
    "from scratch demo/digits-from-scratch]",
)
@json_option
def digits(
    from_scratch: bool, budget: int | None, seed: int, pool: Path | None, as_json: bool
) -> None:
    """Breed two digit specialists into one better classifier.

    Trains one small network on the digits 0-4 and another on 5-9, writes them as checkpoints,
    evolves, and shows seeds, the best single merge and the champion on selection and held-out
    examples. The same command again goes on where it stopped.
    """
    from genepool.ui.cli.demo import digits_demo

    if budget is None:
        budget = DEMO_BUDGET_FROM_SCRATCH if from_scratch else DEMO_BUDGET
    if pool is None:
        pool = Path("demo", "digits-from-scratch" if from_scratch else "digits")
    digits_demo(pool, from_scratch=from_scratch, budget=budget, seed=seed, as_json=as_json)


@demo.command()
@budget_option(f"So many children are scored.  [default: {PICTURES_BUDGET}]")
@seed_option
@click.option(
    "--pool",
    type=click.Path(path_type=Path),
    metavar="DIR",
    default=Path("demo", "pictures"),
    show_default=True,
    help="This is the pool's directory; everything is written below it.",
)
@click.option(
    "--training",
    type=click.FloatRange(0.01, 1.0),
    default=1.0,
    show_default=True,
    help="The seeds are trained for this part of the usual steps; with less the demo is over "
    "sooner, and all models are worse. Seeds that are there already stay as they are.",
)
@json_option
def pictures(budget: int | None, seed: int, pool: Path, training: float, as_json: bool) -> None:
    """Breed four small image generators into one that draws what each of them can.

    A tiny diffusion model is trained on handwritten digits for a while, and then fine-tuned four
    times: on half of the digits, with prompts in English or in Japanese. These are written as
    pipelines of diffusers, and their U-Nets evolve. The end shows what seeds, their plain mean and
    the champion score and draw. The same command again goes on where it stopped.
    """
    from genepool.ui.cli.demo import pictures_demo

    budget = PICTURES_BUDGET if budget is None else budget
    pictures_demo(pool, budget=budget, seed=seed, training=training, as_json=as_json)


@click.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN.yaml")
@budget_option("So many children have been scored in the end.  [default: the run file's]")
@json_option
def evolve(run: Path, budget: int | None, as_json: bool) -> None:
    """Bring the pool that RUN.yaml names to its budget.

    The same command again resumes where it was left, and does nothing when done. Ctrl-C finishes
    the children being scored and keeps everything.
    """
    from genepool.run.evolve import evolve
    from genepool.ui.terminal.progress import watcher

    with breeding(), watcher() as progress:
        result = evolve(run, budget=budget, progress=progress)
    _report(result, as_json)


@click.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN.yaml")
@click.option(
    "--strategies",
    metavar="NAMES",
    default="",
    help="These strategies are compared, the others with the first; commas stand between their "
    "names. The run file's own strategy has the options that stand there; any other has "
    "its defaults.",
)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="LABEL={...}",
    help="This strategy with options of its own is compared, too, such as plain='{name: m2n2, "
    "attraction: false}'. The option may be repeated.",
)
@click.option(
    "--runs",
    type=Whole(1, 10_000),
    metavar="K",
    default=10,
    show_default=True,
    help="Each strategy has so many runs: the first has the run file's random seed, the next "
    "that seed + 1, and so on.",
)
@budget_option("Each run has so many children.  [default: the run file's]")
@click.option(
    "--workers",
    type=Whole(1, 4096),
    metavar="W",
    help="So many runs are scored at a time, each in a process with a model of its own.  "
    "[default: as many as there are cores]",
)
@output_to(
    "The comparison is written to this directory; one that was begun there goes on.",
)
@json_option
def compare(
    run: Path,
    strategies: str,
    variants: tuple[str, ...],
    runs: int,
    budget: int | None,
    workers: int | None,
    output: Path,
    as_json: bool,
) -> None:
    """Compare strategies over several runs of each.

    Runs every strategy on what RUN.yaml describes with every random seed, one pool each and one
    process per core, and writes curves.csv, summary.csv, table.md and comparison.png and .svg. The
    same command again goes on where it was left, and ends with the same numbers.
    """
    from genepool.study.compare import compare, parse_variant
    from genepool.ui.terminal.console import console, plain, print_json
    from genepool.ui.terminal.progress import watcher
    from genepool.ui.terminal.tables import print_page

    names = [name.strip() for name in strategies.split(",") if name.strip()]
    if not (names or variants):
        raise click.UsageError("Nothing to compare: give --strategies or --variant.")
    with breeding(), watcher() as progress:
        found = compare(
            run,
            output,
            strategies=names,
            variants=[parse_variant(text) for text in variants],
            runs=runs,
            budget=budget,
            workers=workers,
            progress=progress,
        )
    from genepool.study.comparison import as_json as table
    from genepool.ui.report.comparison_page import table_page, write_pages

    files, reason = write_pages(found)
    if as_json:
        print_json({**table(found), "files": [str(file) for file in files], "no_figure": reason})
        return
    print_page(console(), table_page(found))
    console().print(f"wrote {plain(output)}" + (f"; no figure: {reason}" if reason else ""))


def _report(result: Result, as_json: bool) -> None:
    from genepool.ui.terminal.console import console, print_json

    if as_json:
        print_json({**result.status, "session": result.session, "seconds": result.seconds})
        return
    from genepool.ui.terminal.console import command, near, plain
    from genepool.ui.terminal.tables import print_session, print_status

    out, pool = console(), near(str(result.pool))
    print_session(out, result)
    print_status(out, {**result.status, "pool": pool})
    out.print()
    out.print(f"next: {plain(command('export', pool, '-o', 'champion'))}")


COMMANDS = (demo, evolve, compare)
