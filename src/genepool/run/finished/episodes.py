"""What a member of a pool does in one episode."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

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

_T = TypeVar("_T")


def episode(
    pool: Pool, member: int | str, id: str, *, seeds: Mapping[str, PathLike] | None = None
) -> dict[str, Any]:
    """The transcript of an episode: the one that was kept, or else it is played now.

    Args:
        pool: where the member lives.
        member: its number, "best" for the champion, or a seed's name.
        id: of a task in an environment, selection or held out; TASK/ID where several have one.
        seeds: where seeds lie now, by name, for those that have moved.

    Returns:
        A dict with `task`, `part` and what `tasks.task.Transcribed` says.

    Raises:
        InputError: no task of the pool has such an example, or such episodes, or several have.
        GenepoolError: no such member, or seeds, tasks or environment are not what they were.
    """
    number = member_number(pool, str(member))
    transcripts = [each for each in pool.transcripts() if each.member == number]
    kept = _meant(id, [(each.task, each.example, each) for each in transcripts])
    if kept is not None:
        return {"task": kept.task, "part": kept.part, **json.loads(kept.transcript)}
    inputs = reopen(pool, *open_seeds(pool, seeds))
    entries = zip(inputs.run.config.contested, inputs.tasks, strict=True)
    known = [
        (entry.name, each, (place, position, part))
        for place, (entry, task) in enumerate(entries)
        if isinstance(task, Transcribed)
        for part, ids in (("train", task.samples), ("held-out", task.held_out))
        for position, each in enumerate(ids)
    ]
    if not known:
        raise InputError(f"{pool.path}: in none of its tasks do models act")
    found = _meant(id, known)
    if found is None:
        listed = some((each for _, each, _ in known), 8)
        raise InputError(
            f"{pool.path}: no task has an episode '{one_line(id)}'; there are {listed}"
        )
    place, position, part = found
    check_model_files(pool, inputs)
    scorer = Scorer(inputs, as_exported=pool.header.scored_as_exported)
    scorer.load(pool.genome(number))
    wanted = np.array([position], dtype=np.int64)
    (told,) = scorer.transcripts(place, wanted, held_out=part == "held-out")
    name = inputs.run.config.contested[place].name
    return {"task": name, "part": part, **json.loads(told)}


def _meant(wanted: str, there: Sequence[tuple[str, str, _T]]) -> _T | None:
    """What stands behind the task and the id that are meant by ID or TASK/ID, if it is there.

    Raises:
        InputError: several tasks have that id.
    """
    found = [each for each in there if f"{each[0]}/{each[1]}" == wanted]
    found = found or [each for each in there if each[1] == wanted]
    if len(found) > 1:
        ways = some((f"{task}/{id}" for task, id, _ in found), 8)
        raise InputError(f"'{one_line(wanted)}' is an episode of several tasks; name one of {ways}")
    return found[0][2] if found else None
