"""The tasks of a pool, opened again around seeds or around a checkpoint that was written."""

from __future__ import annotations

from pathlib import Path

from genepool.checkpoints.family import Family, Source
from genepool.errors import ConfigError
from genepool.models.build import ModelOptions
from genepool.pool.reader import Pool
from genepool.run.inputs import Inputs, open_inputs
from genepool.run.run_file import Run, recorded_run

# Seconds for which somebody in a hurry waits for an environment that is not there.
_PATIENCE = 10.0


def reopen(
    pool: Pool, sources: tuple[Source, ...], family: Family, *, hurry: bool = False
) -> Inputs:
    """What the run of a pool worked on, with these checkpoints.

    Args:
        pool: the pool.
        sources: where its seeds lie now.
        family: what they have in common.
        hurry: an environment that does not answer is soon given up.

    Raises:
        GenepoolError: what the tasks need is not there, or they have other examples or settings.
    """
    run = run_of(pool, hurry=hurry)
    inputs = open_inputs(run, (sources, family))
    entries, tasks = (*pool.tasks(), *pool.guards()), (*inputs.tasks, *inputs.guards)
    for entry, task in zip(entries, tasks, strict=True):
        if entry.digest != task.digest:
            raise ConfigError(f"task '{entry.name}' has other examples or settings now")
    return inputs


def run_of(pool: Pool, *, hurry: bool = False) -> Run:
    """The run that a pool was made by; `hurry` as for `reopen`.

    Raises:
        GenepoolError: what it names is not there.
    """
    config = pool.meta()["config"]
    if hurry:
        tasks = [
            {**task, "patience": min(_PATIENCE, task.get("patience", _PATIENCE))}
            if task.get("evaluator") == "agent"
            else task
            for task in config["tasks"]
        ]
        config = {**config, "tasks": tasks}
    return recorded_run(config, _directory(pool), str(pool.path))


def model_of(pool: Pool) -> tuple[ModelOptions, Path]:
    """What the run that a pool was made by says of its model, and the folder that it starts from;
    for this alone, nothing of what scores is needed.

    Raises:
        InputError: another release of genepool made the pool, whose models had other options.
    """
    return ModelOptions(**pool.meta()["config"].get("model", {})), _directory(pool)


def _directory(pool: Pool) -> Path:
    # Pools of older releases do not say where the run file lay; mostly beside the pool.
    return Path(pool.meta().get("directory") or pool.path.absolute().parent)
