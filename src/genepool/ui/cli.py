"""The command line.

Everything but click is imported inside the command that needs it, so that commands which only read
a pool start at once. Exit codes: 0 done; 1 failed, with the reason in one line on standard error;
2 wrong usage; 130 interrupted. An exception that is not a `GenepoolError` is a bug and keeps its
traceback.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from genepool.errors import GenepoolError, InputError

if TYPE_CHECKING:
    from genepool.run.driver import Result

# Beyond these the curves of the demo are flat.
DEMO_BUDGET, DEMO_BUDGET_FROM_SCRATCH = 5_000, 20_000


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit; the console script `genepool`."""
    sys.exit(_run(arguments))


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
    from genepool.ui.terminal import plain

    click.echo(f"genepool: {plain(text)}", err=True)


def _explain_usage(error: click.ClickException) -> int:
    path = "genepool"
    if isinstance(error, click.UsageError) and error.ctx is not None:
        path = error.ctx.command_path
    message = error.format_message().rstrip(".")
    _complain(f"{message} (see `{path} --help`)")
    return error.exit_code


_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_pool = click.argument("pool", type=click.Path(path_type=Path), metavar="POOL")
_output = click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory to write; new or empty.",
)
_shards = click.option(
    "--shard-size",
    metavar="SIZE",
    default="5GB",
    show_default=True,
    help="Largest size of a weight file, in bytes or as 500MB, 2GB, 4GiB.",
)
_dtype = click.option(
    "--dtype",
    type=click.Choice(["F64", "F32", "F16", "BF16"]),
    help="Type of all merged tensors.  [default: as in the first checkpoint]",
)


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
@_json
def digits(
    from_scratch: bool, budget: int | None, seed: int, pool: Path | None, as_json: bool
) -> None:
    """Breed two digit specialists into one better classifier.

    Trains one small network on the digits 0-4 and another on 5-9, writes them as checkpoints,
    evolves, and shows seeds, the best single merge and the champion on training and held-out data.
    The same command again goes on where it stopped.
    """
    from genepool.ui.demo import digits_demo

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
@_json
def evolve(run: Path, budget: int | None, as_json: bool) -> None:
    """Bring the pool that RUN.yaml names to its budget.

    The same command again resumes where it was left, and does nothing when done. Ctrl-C finishes
    the children being scored and keeps everything.
    """
    from genepool.run.driver import evolve
    from genepool.ui.progress import watcher

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
@_json
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
    from genepool.run.compare import compare, parse_variant
    from genepool.ui.progress import watcher
    from genepool.ui.terminal import print_json

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
    from genepool.run.comparison import as_json as table
    from genepool.ui.compare import table_page, write_pages

    files, reason = write_pages(found)
    if as_json:
        print_json({**table(found), "files": [str(file) for file in files], "no_figure": reason})
        return
    click.echo(table_page(found))
    click.echo(f"wrote {output}" + (f"; no figure: {reason}" if reason else ""))


@cli.command()
@_pool
@_json
def status(pool: Path, as_json: bool) -> None:
    """Say how far a pool is, and what lives in it.

    Works while a run is writing to it.
    """
    from genepool.run.pool import Pool
    from genepool.ui.terminal import console, print_json

    with Pool(pool) as opened:
        found = opened.status()
    if as_json:
        print_json(found)
    else:
        from genepool.ui.tables import print_status

        print_status(console(), found)


@cli.command()
@_pool
@click.argument("member")
@_json
def show(pool: Path, member: str, as_json: bool) -> None:
    """Show a member: its parents, its fate, its genome.

    MEMBER is its number, `best` for the champion, or the name of a seed. Members that were
    rejected can be shown too.
    """
    from genepool.run.members import describe, member_number
    from genepool.run.pool import Pool
    from genepool.ui.terminal import console, print_json

    with Pool(pool) as opened:
        found = describe(opened, member_number(opened, member))
    if as_json:
        print_json(found)
    else:
        from genepool.ui.tables import print_member

        print_member(console(), found)


@cli.command()
@_pool
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Page to write; one that is there is replaced.",
)
@_json
def report(pool: Path, output: Path, as_json: bool) -> None:
    """Write a page that shows a pool: its champion, its course, its genomes.

    One file of HTML without scripts, to be read, printed and sent around without a server or a
    network. Works while a run is writing to the pool.
    """
    from genepool.run.pool import Pool
    from genepool.ui.report import write_report
    from genepool.ui.terminal import console, print_json

    with Pool(pool) as opened:
        write_report(opened, output)
    if as_json:
        print_json({"file": str(output)})
    else:
        console().print(f"wrote {output}")


@cli.command()
@_pool
@click.argument("member", default="best")
@_output
@click.option(
    "--seed",
    "moved",
    multiple=True,
    metavar="NAME=PATH",
    help="Where the seed NAME lies now, if it has moved; may be repeated.",
)
@_dtype
@_shards
@_json
def export(
    pool: Path,
    member: str,
    output: Path,
    moved: tuple[str, ...],
    dtype: str | None,
    shard_size: str,
    as_json: bool,
) -> None:
    """Write a member as an ordinary checkpoint directory.

    MEMBER is its number, `best` for the champion (which is the default), or the name of a seed. A
    model card and a file genepool.json, which `genepool rebuild` reads, tell what it was made from.
    """
    from genepool.run.export import export
    from genepool.run.members import member_number
    from genepool.run.pool import Pool
    from genepool.ui.progress import watcher

    seeds, shard_bytes = _places(moved, "--seed"), _bytes(shard_size)
    with Pool(pool) as opened, watcher() as progress:
        number = member_number(opened, member)
        progress.stage(f"writing member {number}")
        written = export(
            opened,
            number,
            output,
            seeds=seeds,
            dtype=dtype,
            shard_bytes=shard_bytes,
            advance=progress.advance,
        )
    _report_checkpoint(written.directory, written.genome, written.details, as_json)


@cli.command()
@click.argument("recipe", type=click.Path(path_type=Path), metavar="RECIPE.json")
@click.argument("more", nargs=-1, metavar="[NAME=PATH]...")
@click.option(
    "--seeds",
    "--seed",
    "places",
    multiple=True,
    metavar="NAME=PATH",
    help="Where the seed NAME of the recipe lies; more of them may follow, with or without the "
    "option's name.",
)
@_output
@_shards
@_json
def rebuild(
    recipe: Path,
    more: tuple[str, ...],
    places: tuple[str, ...],
    output: Path,
    shard_size: str,
    as_json: bool,
) -> None:
    """Make a checkpoint again from its recipe and the same seeds, bit for bit.

    RECIPE.json is the genepool.json of an exported or merged checkpoint; its directory, or one of
    its weight files, will do too.
    """
    from genepool.run.export import rebuild
    from genepool.ui.progress import watcher

    seeds, shard_bytes = _places((*places, *more), "--seeds"), _bytes(shard_size)
    with watcher() as progress:
        progress.stage("rebuilding")
        written = rebuild(
            recipe, output, seeds=seeds, shard_bytes=shard_bytes, advance=progress.advance
        )
    _report_checkpoint(written.directory, written.genome, written.details, as_json)


@cli.command()
@click.argument("a")
@click.argument("b")
@_output
@click.option(
    "--ratio",
    type=click.FloatRange(0, 1),
    metavar="R",
    required=True,
    help="Of the SLERP left of the split point: 0 gives A, 1 gives B; right of it 1 - R holds.",
)
@click.option(
    "--split",
    metavar="S",
    default="1",
    show_default=True,
    help="Split point: a fraction of the axis, or the name of the first tensor right of it; "
    "1 merges everything at R.",
)
@click.option(
    "--angle",
    type=click.Choice(["global", "side", "tensor"]),
    default="global",
    show_default=True,
    help="SLERP angle over the whole axis, each side, or each tensor.",
)
@click.option(
    "--adapter-base",
    metavar="MODEL",
    help="Base of the adapters among A and B.  [default: as the adapter says]",
)
@click.option(
    "--partial",
    is_flag=True,
    help="Merge what A and B share, and take the rest from A.",
)
@click.option(
    "--vocabulary",
    type=click.Choice(["same", "common"]),
    default="same",
    show_default=True,
    help="Where tokenizers differ: refuse, or merge the rows of the tokens that are the same.",
)
@click.option(
    "--rename",
    "prefixes",
    multiple=True,
    metavar="OLD=NEW",
    help="Begin of tensor names in B, and what to put in its place; may be repeated.",
)
@_dtype
@_shards
@_json
def merge(
    a: str,
    b: str,
    output: Path,
    ratio: float,
    split: str,
    angle: Any,
    adapter_base: str | None,
    partial: bool,
    vocabulary: Any,
    prefixes: tuple[str, ...],
    dtype: str | None,
    shard_size: str,
    as_json: bool,
) -> None:
    """Merge the checkpoints A and B once, by hand.

    Each is a safetensors file, a directory as Hugging Face writes it, a LoRA adapter as peft writes
    it, a GGUF file, or an id of the Hugging Face Hub.
    """
    from genepool.run.merge import merge
    from genepool.ui.progress import watcher

    shard_bytes = _bytes(shard_size)
    with watcher() as progress:
        progress.stage("merging")
        written = merge(
            a,
            {"path": b, "rename": dict(_renamed(entry) for entry in prefixes)},
            output,
            ratio=ratio,
            split=_split(split),
            angle=angle,
            adapter_base=adapter_base,
            partial=partial,
            vocabulary=vocabulary,
            dtype=dtype,
            shard_bytes=shard_bytes,
            advance=progress.advance,
        )
        for notice in written.details["notices"]:
            progress.notice(notice)
    _report_checkpoint(written.directory, written.genome, written.details, as_json)


def _split(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _places(entries: Sequence[str], option: str) -> dict[str, Path]:
    """Where seeds lie, from entries NAME=PATH."""
    out: dict[str, Path] = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not (name and equals and path):
            raise InputError(f"{option}: expected NAME=PATH; got '{entry}'")
        if name in out:
            raise InputError(f"{option}: the seed '{name}' is given twice")
        out[name] = Path(path)
    return out


def _bytes(text: str) -> int:
    """A size such as 500MB, 2GB (powers of ten), 4GiB (of two), or a number of bytes."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*(?:([kmgt])(i?))?b?", text.strip().lower())
    size = 0
    if found is not None:
        power = " kmgt".index(found[2] or " ")
        size = int(float(found[1]) * (1024 if found[3] else 1000) ** power)
    if size < 1:
        raise click.UsageError(f"--shard-size: expected a size such as 500MB or 2GB; got '{text}'")
    return size


def _renamed(entry: str) -> tuple[str, str]:
    old, equals, new = entry.partition("=")
    if not (old and equals):
        raise InputError(f"--rename: expected OLD=NEW; got '{entry}'")
    return old, new


def _report(result: Result, as_json: bool) -> None:
    from genepool.ui.terminal import console, print_json

    if as_json:
        print_json({**result.status, "session": result.session, "seconds": result.seconds})
        return
    from genepool.ui.tables import print_session, print_status

    out = console()
    print_session(out, result.status, result.session, result.seconds)
    print_status(out, result.status)


def _report_checkpoint(
    directory: Path, genome: str, details: dict[str, Any], as_json: bool
) -> None:
    from genepool.ui.terminal import console, print_json

    if as_json:
        print_json({"directory": str(directory), **details})
    else:
        console().print(f"wrote {directory} (genome {genome})")
