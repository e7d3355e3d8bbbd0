"""The command line.

Everything but click is imported inside the command that needs it, so that commands which only read
a pool start at once. Exit codes: 0 done; 1 failed, with the reason in one line on standard error;
2 wrong usage; 130 interrupted. An exception that is not a `GenepoolError` is a bug and keeps its
traceback.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from genepool.errors import GenepoolError
from genepool.ui.cli.checkpoint_commands import COMMANDS
from genepool.ui.cli.options import json_option, pool_argument

if TYPE_CHECKING:
    from genepool.run.evolve import Result

# Beyond these the curves of the demo are flat.
DEMO_BUDGET, DEMO_BUDGET_FROM_SCRATCH = 5_000, 20_000


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit."""
    sys.exit(_run(arguments))


def script() -> NoReturn:
    """Run the command that was typed: the console script `genepool`.

    Commands close what they open. Where compiled code has run, taking the interpreter apart as well
    takes a quarter of a second, a sixth of a merge of two models of 1.1 B parameters.
    """
    from genepool.run.interrupt import end_like_ctrl_c

    end_like_ctrl_c()
    code = _run(None)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = cli.main(args=arguments, prog_name="genepool", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        return _explain_usage(error)
    except BrokenPipeError:
        # The reader has left, as `| head` does. What is still buffered must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted")
        return 130
    except GenepoolError as error:
        _complain(str(error))
        return 1
    # A command returns nothing; click returns the code that `Exit` carries.
    return code if isinstance(code, int) else 0


@contextlib.contextmanager
def _resumable() -> Generator[None, None, None]:
    try:
        yield
    except KeyboardInterrupt:
        _complain("interrupted; what was scored is kept, and the same command goes on")
        raise click.exceptions.Exit(130) from None


def _complain(text: str) -> None:
    from genepool.ui.terminal.console import plain

    click.echo(f"genepool: {plain(text)}", err=True)


def _explain_usage(error: click.ClickException) -> int:
    path = "genepool"
    if isinstance(error, click.UsageError) and error.ctx is not None:
        path = error.ctx.command_path
    message = error.format_message().rstrip(".")
    _complain(f"{message} (see `{path} --help`)")
    return error.exit_code


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="genepool", message="genepool %(version)s")
def cli() -> None:
    """Breed better models out of models that already exist.

    genepool merges checkpoints of one architecture, scores the children example by example, and
    keeps those that solve what others do not: evolution by forward passes alone.
    """


@cli.group()
def demo() -> None:
    """Watch a complete run on real data."""


@demo.command()
@click.option(
    "--from-scratch",
    is_flag=True,
    help="Start from two untrained networks, with mutation, instead of two specialists.",
)
@click.option(
    "--budget",
    type=click.IntRange(0, 10**9),
    metavar="N",
    help="Number of children to score.  "
    f"[default: {DEMO_BUDGET}; from scratch {DEMO_BUDGET_FROM_SCRATCH}]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    metavar="S",
    default=0,
    show_default=True,
    help="Of the randomness.",
)
@click.option(
    "--pool",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where it all goes.  [default: demo/digits; from scratch demo/digits-from-scratch]",
)
@json_option
def digits(
    from_scratch: bool, budget: int | None, seed: int, pool: Path | None, as_json: bool
) -> None:
    """Breed two digit specialists into one better classifier.

    Trains one small network on the digits 0-4 and another on 5-9, writes them as checkpoints,
    evolves, and shows seeds, the best single merge and the champion on training and held-out data.
    The same command again goes on where it stopped.
    """
    from genepool.ui.cli.demo import digits_demo

    if budget is None:
        budget = DEMO_BUDGET_FROM_SCRATCH if from_scratch else DEMO_BUDGET
    if pool is None:
        pool = Path("demo", "digits-from-scratch" if from_scratch else "digits")
    with _resumable():
        digits_demo(pool, from_scratch=from_scratch, budget=budget, seed=seed, as_json=as_json)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN.yaml")
@click.option(
    "--budget",
    type=click.IntRange(0, 10**9),
    metavar="N",
    help="Number of children to have scored in the end.  [default: the run file's]",
)
@json_option
def evolve(run: Path, budget: int | None, as_json: bool) -> None:
    """Bring the pool that RUN.yaml names to its budget.

    The same command again resumes where it was left, and does nothing when done. Ctrl-C finishes
    the children being scored and keeps everything.
    """
    from genepool.run.evolve import evolve
    from genepool.ui.terminal.progress import watcher

    with _resumable(), watcher() as progress:
        result = evolve(run, budget=budget, progress=progress)
    _report(result, as_json)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN.yaml")
@click.option(
    "--strategies",
    metavar="NAMES",
    default="",
    help="Names, with commas between them; the first is what the others are compared with. The "
    "run file's own strategy has the options that stand there, any other its defaults.",
)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="LABEL={...}",
    help="A strategy with options of its own, such as plain='{name: m2n2, attraction: false}'; may "
    "be repeated.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 10_000),
    metavar="K",
    default=10,
    show_default=True,
    help="Runs per strategy: with the run file's seed, seed + 1, and so on.",
)
@click.option(
    "--budget",
    type=click.IntRange(0, 10**9),
    metavar="N",
    help="Number of children of each run.  [default: the run file's]",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory of the comparison; one that was begun goes on.",
)
@json_option
def compare(
    run: Path,
    strategies: str,
    variants: tuple[str, ...],
    seeds: int,
    budget: int | None,
    output: Path,
    as_json: bool,
) -> None:
    """Compare strategies on what RUN.yaml describes, over several seeds.

    Runs every strategy with every seed, one pool each and one process per core, and writes
    curves.csv, summary.csv, table.md and comparison.png and .svg. The same command again goes on
    where it was left, and ends with the same numbers.
    """
    from genepool.study.compare import compare, parse_variant
    from genepool.ui.terminal.console import print_json
    from genepool.ui.terminal.progress import watcher

    names = [name.strip() for name in strategies.split(",") if name.strip()]
    if not (names or variants):
        raise click.UsageError("Nothing to compare: give --strategies or --variant.")
    with _resumable(), watcher() as progress:
        found = compare(
            run,
            output,
            strategies=names,
            variants=[parse_variant(text) for text in variants],
            seeds=seeds,
            budget=budget,
            progress=progress,
        )
    from genepool.study.comparison import as_json as table
    from genepool.ui.report.comparison_page import table_page, write_pages

    files, reason = write_pages(found)
    if as_json:
        print_json({**table(found), "files": [str(file) for file in files], "no_figure": reason})
        return
    click.echo(table_page(found))
    click.echo(f"wrote {output}" + (f"; no figure: {reason}" if reason else ""))


@cli.command()
@pool_argument
@json_option
def status(pool: Path, as_json: bool) -> None:
    """Say how far a pool is, and what lives in it.

    Works while a run is writing to it.
    """
    from genepool.pool.reader import Pool
    from genepool.ui.terminal.console import console, print_json

    with Pool(pool) as opened:
        found = opened.status()
    if as_json:
        print_json(found)
    else:
        from genepool.ui.terminal.tables import print_status

        print_status(console(), found)


@cli.command()
@pool_argument
@click.argument("member")
@json_option
def show(pool: Path, member: str, as_json: bool) -> None:
    """Show a member: its parents, its fate, its genome.

    MEMBER is its number, `best` for the champion, or the name of a seed. Members that were
    rejected can be shown too.
    """
    from genepool.pool.members import describe, member_number
    from genepool.pool.reader import Pool
    from genepool.ui.terminal.console import console, print_json

    with Pool(pool) as opened:
        found = describe(opened, member_number(opened, member))
    if as_json:
        print_json(found)
    else:
        from genepool.ui.terminal.tables import print_member

        print_member(console(), found)


@cli.command()
@pool_argument
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Page to write; one that is there is replaced.",
)
@json_option
def report(pool: Path, output: Path, as_json: bool) -> None:
    """Write a page that shows a pool: its champion, its course, its genomes.

    One file of HTML without scripts, to be read, printed and sent around without a server or a
    network. Works while a run is writing to the pool.
    """
    from genepool.pool.reader import Pool
    from genepool.ui.report.report import write_report
    from genepool.ui.terminal.console import console, print_json

    with Pool(pool) as opened:
        write_report(opened, output)
    if as_json:
        print_json({"file": str(output)})
    else:
        console().print(f"wrote {output}")


def _report(result: Result, as_json: bool) -> None:
    from genepool.ui.terminal.console import console, print_json

    if as_json:
        print_json({**result.status, "session": result.session, "seconds": result.seconds})
        return
    from genepool.ui.terminal.tables import print_session, print_status

    out = console()
    print_session(out, result.status, result.session, result.seconds)
    print_status(out, result.status)


for command in COMMANDS:
    cli.add_command(command)
