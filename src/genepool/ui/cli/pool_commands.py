"""The commands that look into a pool: status, show, report, pack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from genepool.messages import children, count
from genepool.ui.cli.options import (
    Whole,
    json_option,
    moved_option,
    named_places,
    output_to,
    pool_argument,
)


@click.command()
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


@click.command()
@pool_argument
@click.argument("member", default="best")
@click.option(
    "--pictures",
    type=Whole(1, 10_000),
    metavar="N",
    help="An image generator draws so many held-out examples of each task; this needs -o.",
)
@output_to(
    "The pictures are written to this directory, which must be new or empty.", required=False
)
@click.option(
    "--episode",
    metavar="ID",
    help="What an agent did in this episode is shown (TASK/ID where several tasks have one of that "
    "id); one that was not kept is played now.",
)
@moved_option
@json_option
def show(
    pool: Path,
    member: str,
    pictures: int | None,
    output: Path | None,
    episode: str | None,
    moved: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show a member: its parents, its fate, its genome.

    MEMBER is its number, `best` for the champion (which is the default), or the name of a seed.
    Members that were rejected can be shown too; and what a member draws, or does in an episode.
    """
    from genepool.pool.members import describe, member_number
    from genepool.pool.reader import Pool
    from genepool.ui.terminal.console import console, print_json

    if (pictures is None) != (output is None):
        raise click.UsageError("--pictures N and -o DIR belong together.")
    seeds = named_places(moved)
    written: list[Path] = []
    told: dict[str, Any] | None = None
    with Pool(pool) as opened:
        found = describe(opened, number := member_number(opened, member))
        if pictures is not None and output is not None:
            from genepool.run.finished.draw import draw_pictures
            from genepool.ui.terminal.progress import watcher

            with watcher() as progress:
                progress.stage(f"drawing pictures with member {number}")
                written = draw_pictures(opened, member, pictures, output, seeds=seeds)
        if episode is not None:
            from genepool.run.finished.episodes import episode as play
            from genepool.ui.terminal.progress import watcher

            with watcher() as progress:
                progress.stage(f"playing an episode with member {number}")
                told = play(opened, member, episode, seeds=seeds)
    if as_json:
        if written:
            found["pictures"] = [str(file) for file in written]
        if told is not None:
            found["episode"] = told
        print_json(found)
        return
    from genepool.ui.terminal.tables import print_episode, print_member

    if told is not None:
        print_episode(console(), told)
        return
    print_member(console(), found)
    if written:
        console().print(
            f"wrote {count(len(written), 'file')}; all pictures of a task: {written[0]}"
        )


@click.command()
@pool_argument
@output_to("The page is written to this file.", "FILE.html")
@click.option(
    "--overwrite/--no-overwrite",
    default=True,
    show_default=True,
    help="A page that genepool wrote to that file before is replaced; nothing else ever is.",
)
@json_option
def report(pool: Path, output: Path, overwrite: bool, as_json: bool) -> None:
    """Write a page of HTML that shows a pool.

    Its champion, its course and its genomes, in one file without scripts, to be read, printed and
    sent around without a server or a network. Works while a run is writing to the pool.
    """
    from genepool.pool.reader import Pool
    from genepool.ui.report.report import write_report
    from genepool.ui.terminal.console import console, print_json

    with Pool(pool) as opened:
        write_report(opened, output, overwrite=overwrite)
    if as_json:
        print_json({"file": str(output)})
    else:
        console().print(f"wrote {output}")


@click.command()
@pool_argument
@output_to(
    "The copy is written to this directory, which must be new or empty; it is a pool, of one file.",
)
@json_option
def pack(pool: Path, output: Path, as_json: bool) -> None:
    """Copy a pool, also while a run is writing to it.

    Copying pool.sqlite by other means leaves out what the run has not yet moved into it from its
    log, pool.sqlite-wal. The copy opens as any pool does; caches are left out.
    """
    from genepool.pool.reader import Pool
    from genepool.pool.writer import pack_pool
    from genepool.ui.terminal.console import console, print_json

    with Pool(pool) as opened:
        scored = pack_pool(opened, output)
    if as_json:
        print_json({"pool": str(output), "evaluations": scored})
    else:
        console().print(f"wrote {output}, {children(scored)}")


COMMANDS = (status, show, report, pack)
