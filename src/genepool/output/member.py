"""Out of the pool: a member as a checkpoint; and a checkpoint again from its recipe."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from genepool.checkpoints.family import Family, Source, locate, make_family, open_source
from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.files.digests import recall_digests
from genepool.errors import CheckpointError, InputError, PoolError
from genepool.governance.card import Ancestor, Card, CardGuard, CardSeed, Scores
from genepool.output.methods.task_vectors import TaskVectors, task_vectors
from genepool.output.recipe_file import RecipeFile, RecipeSeed, read_recipe
from genepool.output.write.model import (
    Exported,
    PathLike,
    Writing,
    card_seed,
    describe_genome,
    describe_seeds,
    library_of,
    write_model,
)
from genepool.output.write.weights import SHARD_BYTES
from genepool.pool.members import ancestry, member_number
from genepool.pool.reader import Pool
from genepool.threads import Progress

_ANCESTORS = 15


def export(
    pool: Pool,
    member: int | str,
    directory: PathLike,
    *,
    seeds: Mapping[str, PathLike] | None = None,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    advance: Progress | None = None,
) -> Exported:
    """Write a member as an ordinary checkpoint directory, with `genepool.json` beside the weights.

    Args:
        pool: where it lives.
        member: id, "best" for the champion, or a seed's name.
        directory: new or empty.
        seeds: where seeds lie now, by name, for those that have moved.
        dtype: of all merged tensors, as safetensors names it; None keeps the first seed's.
        shard_bytes: largest size of a file.
        advance: called with the fraction that is done.

    Raises:
        InputError, PoolError: no such member.
        CheckpointError: a seed is missing or holds other tensors than when the pool was made.
    """
    number = member_number(pool, str(member))
    record = pool.record(number)
    genome = pool.genome(number)
    sources, family = open_seeds(pool, seeds)
    checkpoints = family.checkpoints
    known = _card_seeds(pool, sources, checkpoints)
    meta = pool.meta()
    details: dict[str, Any] = {
        **describe_seeds(
            known,
            sources,
            family,
            meta["pins"]["chromosomes"],
            partial=bool(meta.get("opening", {}).get("partial")),
        ),
        **describe_genome(genome),
        "member": number,
        "parents": list(record.parents),
        "train": record.train,
        "held_out": pool.held_out().get(number),
        "strategy": meta["pins"]["strategy"].get("name"),
    }
    card = _card(pool, number, known, family, "recipe" in details)
    writing = Writing(dtype, shard_bytes, advance)
    return write_model(genome, details, card, checkpoints, family.layout, directory, writing)


def rebuild(
    recipe: PathLike,
    directory: PathLike,
    *,
    seeds: Mapping[str, PathLike],
    shard_bytes: int = SHARD_BYTES,
    advance: Progress | None = None,
) -> Exported:
    """Make a checkpoint again from its recipe: the same tensors, bit for bit on one device type.

    Args:
        recipe: `genepool.json`, a directory that genepool wrote, or one of its weight files.
        directory: new or empty.
        seeds: where each seed of the recipe lies, by name.
        shard_bytes: largest size of a file; it does not change the tensors.
        advance: called with the fraction that is done.

    Raises:
        InputError: the recipe is missing, damaged, or names a seed that was not given.
        CheckpointError: a seed holds other tensors than the one that the recipe was made with.
    """
    read = read_recipe(Path(recipe))
    if read.made is None:
        raise InputError(
            f"{recipe}: holds no recipe, because mutation has added noise to this model; the pool "
            "that it came from makes it again: genepool export POOL MEMBER -o DIR"
        )
    checkpoints = _recipe_seeds(read, seeds)
    family = make_family(
        checkpoints,
        read.chromosomes or None,
        partial=read.partial,
        vocabulary=read.vocabulary,
    )
    layout = family.layout
    if layout.digest != read.layout:
        raise InputError(
            f"{recipe}: this genepool lays the tensors out differently from the one that wrote the "
            "recipe; use that version"
        )
    card = _rebuilt_card(read, family)
    writing = Writing(read.dtype, shard_bytes, advance)
    made = read.made
    if isinstance(made, TaskVectors):
        made = task_vectors(family.checkpoints, layout, made)
    return write_model(made, read.details, card, checkpoints, layout, directory, writing)


def open_seeds(
    pool: Pool, seeds: Mapping[str, PathLike] | None = None
) -> tuple[tuple[Source, ...], Family]:
    """Open the seeds that a pool names, and check that they are still what they were.

    Args:
        pool: whose seeds.
        seeds: where they lie now, by name, for those that have moved; NAME.base for the base of an
            adapter.

    Raises:
        CheckpointError: one is missing or holds other tensors.
        InputError: `seeds` names one that the pool does not have.
    """
    moved = dict(seeds or {})
    entries = pool.seeds()
    names = {seed.name for seed in entries}
    unknown = sorted(set(moved) - names - {f"{name}.base" for name in names})
    if unknown:
        raise InputError(
            f"the pool has no seed named {unknown[0]!r}; its seeds: "
            f"{', '.join(seed.name for seed in entries)}"
        )
    checkpoints: list[Checkpoint] = []
    opening: dict[str, Any] = pool.meta().get("opening") or {}
    sources = [Source(**entry) for entry in opening.get("sources", ())] or [
        Source(seed.path) for seed in entries
    ]
    for number, seed in enumerate(entries):
        sources[number] = _moved(sources[number], seed.name, moved)
        try:
            checkpoint = open_source(sources[number])
        except CheckpointError as error:
            raise CheckpointError(
                f"seed '{seed.name}': {error}; if it has moved, say where it is with "
                f"--seed {seed.name}=PATH"
            ) from None
        recall_digests([checkpoint], [sources[number].rename], pool.path)
        if checkpoint.digest() != seed.digest:
            raise CheckpointError(
                f"seed '{seed.name}': {sources[number].path} holds other tensors (digest "
                f"{checkpoint.digest()[:12]}) than when the pool was made ({seed.digest[:12]})"
            )
        checkpoints.append(checkpoint)
    pins = pool.meta()["pins"]
    family = make_family(
        checkpoints,
        pins["chromosomes"] or None,
        partial=opening.get("partial", False),
        vocabulary=opening.get("vocabulary", "same"),
    )
    if family.layout.digest != pins["layout"]:
        raise PoolError(
            f"{pool.path}: this genepool lays the tensors out differently from the one that made "
            "the pool; use that version"
        )
    return tuple(sources), family


def _moved(source: Source, name: str, places: Mapping[str, PathLike]) -> Source:
    """A source where it lies now."""
    here = Path.cwd()
    path = locate(os.fspath(places.get(name, source.path)), here)
    base = places.get(f"{name}.base", source.base)
    return replace(source, path=path, base=None if base is None else locate(os.fspath(base), here))


def _recipe_seeds(read: RecipeFile, seeds: Mapping[str, PathLike]) -> list[Checkpoint]:
    names = [seed.name for seed in read.seeds]
    if unknown := sorted(set(seeds) - set(names) - {f"{name}.base" for name in names}):
        raise InputError(
            f"the recipe has no seed named '{unknown[0]}'; its seeds: {', '.join(names)}"
        )
    return [_recipe_seed(seed, seeds) for seed in read.seeds]


def _recipe_seed(seed: RecipeSeed, places: Mapping[str, PathLike]) -> Checkpoint:
    if seed.name not in places and seed.hub is None:
        raise InputError(
            f"the recipe needs the seed '{seed.name}'; say where it is with "
            f"--seeds {seed.name}=PATH"
        )
    source = Source(seed.hub or "", rename=seed.rename, dtype=seed.dtype)
    source = _moved(source, seed.name, places)
    try:
        checkpoint = open_source(source)
    except CheckpointError as error:
        raise CheckpointError(
            f"seed '{seed.name}': {error}; say where it is with --seeds {seed.name}=PATH"
        ) from None
    if checkpoint.digest() != seed.digest:
        raise CheckpointError(
            f"seed '{seed.name}': {source.path} holds other tensors (digest "
            f"{checkpoint.digest()[:12]}) than the recipe was made with ({seed.digest[:12]}); give "
            "the very same model"
        )
    return checkpoint


def _card_seeds(
    pool: Pool, sources: Sequence[Source], checkpoints: Sequence[Checkpoint]
) -> tuple[CardSeed, ...]:
    given: list[Any] = pool.meta()["config"].get("seeds", [])
    out: list[CardSeed] = []
    for number, seed in enumerate(pool.seeds()):
        entry: Any = given[number] if number < len(given) else None
        options = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
        licence = str(options.get("licence") or "")
        out.append(card_seed(seed.name, sources[number], checkpoints[number], licence))
    return tuple(out)


def rebuild_command(seeds: tuple[CardSeed, ...]) -> str:
    """How the card says that the model is made again."""
    given = " ".join(f"{seed.name}=PATH" for seed in seeds)
    return f"genepool rebuild genepool.json --seeds {given} -o DIR"


def _card(
    pool: Pool, number: int, seeds: tuple[CardSeed, ...], family: Family, recipe: bool
) -> Card:
    strategy = str(pool.meta()["pins"]["strategy"].get("name", ""))
    origin = ancestry(pool, number)
    tasks = pool.tasks()
    names = {k: seed.name for k, seed in enumerate(seeds)}
    budget = pool.evaluations
    how = (
        f"A merge of {len(seeds)} models, bred by genepool: "
        f"member {number} of a population evolved with the strategy `{strategy}` over {budget} "
        f"evaluations on {', '.join(f'`{task.name}`' for task in tasks)}. No gradient was "
        "computed: models were merged, scored example by example, and selected."
    )
    rows = [k for k in range(len(seeds)) if k != number]
    scores = tuple(_scores(pool, k, names.get(k, f"this model (member {k})")) for k in rows)
    this = names.get(number, "this model")
    scores += (_scores(pool, number, f"**{this}** (member {number})"),)
    count = origin.ancestors
    text = (
        f"{count} models stand behind it, the seeds included, and {origin.generation} merges lie "
        "on the longest way back to a seed."
        if origin.generation
        else "It is a seed itself."
    )
    listed = _ancestors(pool, number, names)
    if len(listed) == _ANCESTORS:
        text += f" The {_ANCESTORS} youngest merges on the way:"
    return Card(
        title="",
        seeds=seeds,
        how=how,
        tags=("merge", "genepool", strategy or "evolution"),
        library=library_of(family.checkpoints[0]),
        notices=family.notices,
        tasks=tuple(task.name for task in tasks),
        scores=scores,
        guards=_guards(pool, number),
        ancestors=tuple(listed),
        ancestry=text,
        rebuild=rebuild_command(seeds) if recipe else "",
    )


def _scores(pool: Pool, number: int, name: str) -> Scores:
    record, held = pool.record(number), pool.held_out_scores(number)
    train: list[float | None] = []
    held_out: list[float | None] = []
    start = held_start = 0
    for task in pool.tasks():
        stop, held_stop = start + task.examples, held_start + task.held_out
        known = None if record.scores is None else record.scores[start:stop]
        train.append(_mean(known))
        held_out.append(_mean(None if held is None else held[held_start:held_stop]))
        start, held_start = stop, held_stop
    return Scores(name, tuple(train), tuple(held_out))


def _guards(pool: Pool, number: int) -> tuple[CardGuard, ...]:
    means = pool.guard_means().get(number)
    return tuple(
        CardGuard(
            guard["name"],
            guard["best_seed"]["name"],
            guard["best_seed"]["score"],
            guard["bound"],
            None if means is None else means[position],
        )
        for position, guard in enumerate(pool.guard_standing())
        if guard["best_seed"] is not None
    )


def _mean(values: np.ndarray[Any, np.dtype[np.float32]] | None) -> float | None:
    if values is None or values.size == 0 or bool(np.isnan(values).any()):
        return None
    return float(values.mean(dtype=np.float64))


def _ancestors(pool: Pool, number: int, names: dict[int, str]) -> list[Ancestor]:
    """The youngest merges behind a member, itself first."""
    size = int(pool.meta()["axis_size"])
    out: list[Ancestor] = []
    ahead = {number}
    while ahead and len(out) < _ANCESTORS:
        member = max(ahead)
        ahead.remove(member)
        record = pool.record(member)
        if record.step == 0:
            continue
        ahead.update(record.parents)
        out.append(
            Ancestor(
                str(member),
                tuple(names.get(parent, str(parent)) for parent in record.parents),
                _plan(record.plan, size),
                record.train,
            )
        )
    return out


def _plan(text: str, size: int) -> str:
    """What was drawn, in a few words."""
    plan: dict[str, Any] = json.loads(text) if text else {}
    parts: list[str] = []
    if isinstance(plan.get("ratio"), (int, float)):
        parts.append(f"ratio {plan['ratio']:.4f}")
    splits: Any = plan.get("splits")
    if isinstance(splits, list) and splits:
        shown = ", ".join(f"{100 * int(split) / size:.1f} %" for split in cast("list[int]", splits))
        parts.append(f"split at {shown}")
    if plan.get("mutation"):
        parts.append(f"noise {plan['mutation']:.3g}")
    return ", ".join(parts)


def _rebuilt_card(read: RecipeFile, family: Family) -> Card:
    known = tuple(
        CardSeed(seed.name, seed.digest, seed.licence or None, seed.hub) for seed in read.seeds
    )
    return Card(
        title="",
        seeds=known,
        how=f"A merge of {len(known)} models, made again from its recipe by genepool.",
        tags=("merge", "genepool"),
        library=library_of(family.checkpoints[0]),
        notices=family.notices,
        rebuild=rebuild_command(known),
    )
