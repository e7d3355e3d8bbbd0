"""What people look at when a run has reached its budget: measures, pictures, transcripts.

Nobody is selected by either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from genepool.core.genome import Genome
from genepool.pool.records import REFERENCE, Picture, Transcript
from genepool.pool.score_matrix import best_members
from genepool.run.session import Session
from genepool.tasks.task import Blocked, Drawn, Measured, Task, Transcribed

# Examples of a task that each member draws, and the larger side of a picture that is kept.
PICTURES, SIDE = 8, 160
# Episodes of a task whose transcripts are kept, of each member.
EPISODES = 4


def observe(session: Session, members: Mapping[int, Genome]) -> None:
    """Measure members that were not measured yet, and draw pictures anew.

    Args:
        session: whose tasks and pool.
        members: seeds and champion, by number.

    Raises:
        EvaluationError: a model could not be measured, or could not draw.
        KeyboardInterrupt: the run was interrupted; pictures and transcripts are those of before.
    """
    pool, tasks = session.pool, session.inputs.tasks
    if any(isinstance(task, Measured) for task in (*tasks, *session.inputs.guards)):
        known = pool.measures()
        for number in sorted(members.keys() - known):
            session.heed_interruption()
            session.progress.stage("measuring what nobody competes for")
            pool.add_measures(number, session.executor.measures(members[number]))
    if any(isinstance(task, Drawn) for task in tasks):
        session.progress.stage("drawing pictures")
        pool.set_pictures([*_pictures(session, members)])
    if any(isinstance(task, Transcribed) for task in tasks):
        session.progress.stage("playing episodes to be looked at")
        pool.set_transcripts([*_transcripts(session, members)])


def _pictures(session: Session, members: Mapping[int, Genome]) -> Iterator[Picture]:
    """The same held-out examples by each member, and others by whoever is best at them."""
    pool, start = session.pool, 0
    for number, task in enumerate(session.inputs.tasks):
        stop, batch = start + len(task.samples), batch_of(task)
        if isinstance(task, Drawn):
            if task.held_out:
                indices = evenly(len(task.held_out), batch=batch)
                drawn = [(member, genome, indices) for member, genome in members.items()]
                yield from _drawn(session, number, indices, drawn, held_out=True)
            indices = evenly(len(task.samples), batch=batch)
            best = best_members(pool, start + indices)
            genomes = sorted(pool.genomes(set(best.tolist())).items())
            drawn = [(member, genome, indices[best == member]) for member, genome in genomes]
            yield from _drawn(session, number, indices, drawn, held_out=False)
        start = stop


def _transcripts(session: Session, members: Mapping[int, Genome]) -> Iterator[Transcript]:
    """The same episodes by each member, held-out ones if there are any."""
    for number, task in enumerate(session.inputs.tasks):
        if not isinstance(task, Transcribed):
            continue
        held_out = bool(task.held_out)
        ids = task.held_out if held_out else task.samples
        indices = evenly(len(ids), EPISODES, batch_of(session.inputs.tasks[number]))
        name = session.inputs.run.config.contested[number].name
        part = "held-out" if held_out else "train"
        for member, genome in members.items():
            session.heed_interruption()
            told = session.executor.transcripts(genome, number, indices, held_out=held_out)
            positions: list[int] = indices.tolist()
            for position, transcript in zip(positions, told, strict=True):
                yield Transcript(member, name, part, str(ids[position]), transcript)


def evenly(size: int, most: int = PICTURES, batch: int = 1) -> NDArray[np.int64]:
    """int64[n], at most so many positions below `size`, far apart.

    Where whole blocks are drawn for any example in them, all lie in few blocks, no more than two if
    these are large enough.

    Args:
        size: number of examples.
        most: of positions.
        batch: examples in a block.
    """
    blocks = -(-size // batch)
    chosen: list[int] = _apart(blocks, max(2, -(-most // batch))).tolist()
    there = [
        place for block in chosen for place in range(block * batch, min((block + 1) * batch, size))
    ]
    return np.array(there, dtype=np.int64)[_apart(len(there), most)]


def _apart(size: int, most: int) -> NDArray[np.int64]:
    count = min(size, most)
    return (np.arange(count, dtype=np.int64) * size) // max(count, 1)


def batch_of(task: Task) -> int:
    """Examples in a block of a task; 1 where each is drawn alone."""
    blocks = task.blocks if isinstance(task, Blocked) else np.arange(2)
    return int(np.count_nonzero(blocks == blocks[0]))


def _drawn(
    session: Session,
    number: int,
    indices: NDArray[np.int64],
    members: Sequence[tuple[int, Genome, NDArray[np.int64]]],
    *,
    held_out: bool,
) -> Iterator[Picture]:
    """The real pictures of a task's examples, if there are any, and what members draw.

    Args:
        session: whose task.
        number: of the task.
        indices: int64[n], the examples.
        members: each with those of the examples that it draws.
        held_out: which of the task's examples.
    """
    from genepool.tasks.png import to_png

    task = session.inputs.tasks[number]
    if not isinstance(task, Drawn):
        return
    name = session.inputs.run.config.contested[number].name
    part = "held-out" if held_out else "train"

    def kept(
        member: int, examples: NDArray[np.int64], pictures: NDArray[np.uint8]
    ) -> Iterator[Picture]:
        captions = task.captions(examples, held_out=held_out)
        for example, caption, picture in zip(examples.tolist(), captions, pictures, strict=True):
            yield Picture(member, name, part, example, str(caption), to_png(picture, SIDE))

    if (real := task.references(indices, held_out=held_out)) is not None:
        yield from kept(REFERENCE, indices, real)
    for member, genome, mine in members:
        session.heed_interruption()
        pictures = session.executor.pictures(genome, number, mine, held_out=held_out)
        yield from kept(member, mine, pictures)
