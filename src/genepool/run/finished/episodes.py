"""What a member of a pool does in one episode."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from genepool.errors import InputError
from genepool.messages import one_line, some
from genepool.output.member import open_seeds
from genepool.output.write.model import PathLike
from genepool.pool.members import member_number
from genepool.pool.reader import Pool
from genepool.run.executors.scorer import Scorer
from genepool.run.finished.reopen import reopen
from genepool.run.pins import check_model_files
from genepool.tasks.task import Transcribed


def episode(
    pool: Pool, member: int | str, id: str, *, seeds: Mapping[str, PathLike] | None = None
) -> dict[str, Any]:
    """The transcript of an episode: the one that was kept, or else it is played now.

    Args:
        pool: where the member lives.
        member: its number, "best" for the champion, or a seed's name.
        id: of a task in an environment, selection or held out.
        seeds: where seeds lie now, by name, for those that have moved.

    Returns:
        A dict with `task`, `part` and what `tasks.task.Transcribed` says.

    Raises:
        InputError: no task of the pool has such an example, or such episodes.
        GenepoolError: no such member, or seeds, tasks or environment are not what they were.
    """
    number = member_number(pool, str(member))
    for kept in pool.transcripts():
        if kept.member == number and kept.example == id:
            return {"task": kept.task, "part": kept.part, **json.loads(kept.transcript)}
    inputs = reopen(pool, *open_seeds(pool, seeds))
    acting = [place for place, task in enumerate(inputs.tasks) if isinstance(task, Transcribed)]
    if not acting:
        raise InputError(f"{pool.path}: in none of its tasks do models act")
    for place in acting:
        task = inputs.tasks[place]
        for held_out, ids in ((True, task.held_out), (False, task.samples)):
            if id not in ids:
                continue
            check_model_files(pool, inputs)
            scorer = Scorer(inputs, as_exported=pool.header.scored_as_exported)
            scorer.load(pool.genome(number))
            wanted = np.array([ids.index(id)], dtype=np.int64)
            (told,) = scorer.transcripts(place, wanted, held_out=held_out)
            name = inputs.run.config.contested[place].name
            part = "held-out" if held_out else "train"
            return {"task": name, "part": part, **json.loads(told)}
    asked = [inputs.tasks[place] for place in acting]
    known = [id for task in asked for id in (*task.samples, *task.held_out)]
    raise InputError(
        f"{pool.path}: no task has an episode '{one_line(id)}'; there are {some(known, 8)}"
    )
