"""Pictures that a member of a pool draws, as files to look at."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from genepool.checkpoints.files.atomic import write_bytes
from genepool.checkpoints.naming import told_apart
from genepool.errors import InputError
from genepool.output.member import open_seeds
from genepool.output.own_files import require_free
from genepool.output.write.model import PathLike
from genepool.pool.members import member_number
from genepool.pool.reader import Pool
from genepool.run.executors.scorer import Scorer
from genepool.run.finished.observe import batch_of, evenly
from genepool.run.finished.reopen import reopen
from genepool.run.pins import check_model_files
from genepool.tasks.png import grid, to_png
from genepool.tasks.task import Drawn

# Characters of an example's id that stay in the name of its file, and how many of them.
_OTHER = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST = 60

# Pictures in a row of the overview.
_ACROSS = 8


def draw_pictures(
    pool: Pool,
    member: int | str,
    count: int,
    directory: PathLike,
    *,
    seeds: Mapping[str, PathLike] | None = None,
) -> list[Path]:
    """Let a member draw examples, held-out ones if there are any, and write what it drew.

    Args:
        pool: where the member lives.
        member: its number, "best" for the champion, or a seed's name.
        count: pictures of each task, at most; at least 1.
        directory: new or empty.
        seeds: where seeds lie now, by name, for those that have moved.

    Returns:
        The files, an overview of all of a task's pictures before these.

    Raises:
        InputError: no task of the pool is about pictures.
        GenepoolError: no such member, or seeds or tasks are not what they were.
    """
    genome = pool.genome(member_number(pool, str(member)))
    target = require_free(Path(directory))
    inputs = reopen(pool, *open_seeds(pool, seeds))
    if not any(isinstance(task, Drawn) for task in inputs.tasks):
        raise InputError(f"{pool.path}: none of its tasks is about pictures")
    check_model_files(pool, inputs)
    scorer = Scorer(inputs, as_exported=pool.header.scored_as_exported)
    scorer.load(genome)
    target.mkdir(exist_ok=True)
    written: list[Path] = []
    # Of what is not ASCII nothing is left.
    names = told_apart(_plain(entry.name) for entry in inputs.run.config.contested)
    for number, (task, name) in enumerate(zip(inputs.tasks, names, strict=True)):
        held_out = bool(task.held_out)
        ids = task.held_out if held_out else task.samples
        if not isinstance(task, Drawn):
            continue
        indices = evenly(len(ids), count, batch_of(inputs.tasks[number]))
        pictures = [*scorer.pictures(number, indices, held_out=held_out)]
        rows = [pictures[start : start + _ACROSS] for start in range(0, len(pictures), _ACROSS)]
        files = {f"{name}.png": grid(rows)}
        positions: list[int] = indices.tolist()
        for place, (index, picture) in enumerate(zip(positions, pictures, strict=True), 1):
            files[f"{name}-{place:03d}-{_plain(ids[index])}.png"] = picture
        for file, picture in files.items():
            write_bytes(target / file, to_png(picture))
            written.append(target / file)
    return written


def _plain(text: str) -> str:
    return _OTHER.sub("_", text)[:_LONGEST].strip("._-") or "example"
