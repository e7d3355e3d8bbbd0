"""Out of the pool: a member as a checkpoint."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.checkpoints.family import Family, Source, locate, make_family, open_source
from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.files.digests import recall_digests
from genepool.checkpoints.files.lora import without_doubt
from genepool.checkpoints.pipelines.components import EVOLVE
from genepool.documents import current_folder, mapping_of
from genepool.errors import CheckpointError, InputError, PoolError
from genepool.governance.card import CardPictures, CardSeed, card_seed
from genepool.governance.member_card import member_card
from genepool.messages import one_line
from genepool.models.image_generator import pinned_name
from genepool.output.write.model import (
    Exported,
    PathLike,
    describe_genome,
    describe_seeds,
    write_model,
)
from genepool.output.write.weights import Writing
from genepool.pool.members import member_number
from genepool.pool.reader import Pool
from genepool.pool.records import REFERENCE
from genepool.tasks.png import from_png, grid, to_png
from genepool.threads import Progress


def export(
    pool: Pool,
    member: int | str,
    directory: PathLike,
    writing: Writing | None = None,
    *,
    seeds: Mapping[str, PathLike] | None = None,
    advance: Progress | None = None,
    check: Callable[[Checkpoint, str, Path], None] | None = None,
) -> Exported:
    """Write a member as an ordinary checkpoint directory, with `genepool.json` beside the weights.

    Arguments and errors are those of `genepool.export`, `writing` is its dtype, shard_bytes and
    overwrite, and `check` is called with the first seed, with why the pool's scores are not of
    these very weights ("" if they are) and with the directory in which everything lies before it
    gets its name; what it raises gives the export up.
    """
    writing = writing or Writing()
    scored, entries = pool.seeds_scored, len(pool.header.seeds)
    if scored < entries:
        raise PoolError(
            f"{pool.path}: the seeds are still being scored ({scored} of {entries} so far); export "
            "when they are, or let `genepool evolve` finish what was interrupted"
        )
    number = member_number(pool, str(member))
    record = pool.record(number)
    genome = pool.genome(number)
    sources, family = open_seeds(pool, seeds)
    checkpoints = family.checkpoints
    known = _card_seeds(pool, sources, checkpoints)
    meta = pool.meta()
    # With subsets a member may be known on some examples only, each on others.
    partial_scores = record.scores is not None and bool(np.isnan(record.scores).any())
    converted, caveat = _caveat(pool, family, writing.dtype)
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
        "train": None if converted or partial_scores else record.train,
        "held_out": None if converted else pool.held_out().get(number),
        "strategy": meta["pins"]["strategy"].get("name"),
    }
    _require_components(pool, details.get("components", {}))
    card = member_card(pool, number, known, family, recipe="recipe" in details)
    card = replace(card, caveat=caveat, pictures=None if converted else _pictures(pool, number))
    if converted:
        card = replace(card, scores=(), guards=(), measures=())
    verify = None if check is None else partial(check, checkpoints[0], caveat)
    return write_model(genome, details, card, family, directory, writing, advance, verify)


def _pictures(pool: Pool, number: int) -> CardPictures | None:
    """What a seed or the champion draws for held-out prompts, below what was meant, if known, and
    what the best seed draws."""
    drawn = [picture for picture in pool.pictures() if picture.part == "held-out"]
    mine = [picture for picture in drawn if picture.member == number]
    if not mine or importlib.util.find_spec("PIL") is None:
        return None
    names = [seed.name for seed in pool.header.seeds]
    seeds = pool.chosen(range(len(names)))
    best = max(seeds, key=lambda member: (seeds[member].train or 0.0, -member))
    titles = {REFERENCE: "the real pictures", best: names[best], number: "this model"}
    task, like = mine[0].task, from_png(mine[0].png)
    rows: dict[str, list[NDArray[np.uint8]]] = {title: [] for title in titles.values()}
    prompts: dict[int, str] = {}
    for picture in sorted(drawn, key=lambda picture: picture.example):
        if picture.task == task and picture.member in titles:
            rows[titles[picture.member]].append(from_png(picture.png, like))
            prompts[picture.example] = picture.caption
    shown = {title: row for title, row in rows.items() if row}
    return CardPictures(to_png(grid([*shown.values()])), tuple(shown), tuple(prompts.values()))


def _caveat(pool: Pool, family: Family, dtype: str | None) -> tuple[bool, str]:
    """Whether an export has another dtype than the pool's members were scored in, and why its
    scores are not those of the pool; "" if they are."""
    held = sorted({slot.dtype for slot in family.layout.slots})
    if dtype is not None and held != [dtype]:
        return True, (
            f"scores were measured with weights in {', '.join(held)}; this file is written as "
            f"{dtype} and was not scored"
        )
    if not pool.header.scored_as_exported and not set(held) <= {"F64", "F32"}:
        return False, (
            "scores were made by the rule of an older release, before the weights were rounded to "
            f"{', '.join(held)}; this file may score otherwise"
        )
    return False, ""


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
    places = dict(seeds or {})
    entries = pool.seeds()
    names = {seed.name for seed in entries}
    unknown = sorted(set(places) - names - {f"{name}.base" for name in names})
    if unknown:
        raise InputError(
            f"the pool has no seed named {unknown[0]!r}; its seeds: "
            f"{', '.join(seed.name for seed in entries)}"
        )
    checkpoints: list[Checkpoint] = []
    opening: dict[str, Any] = pool.meta().get("opening") or {}
    sources = [_source(entry) for entry in opening.get("sources", ())] or [
        Source(seed.path) for seed in entries
    ]
    for number, seed in enumerate(entries):
        sources[number] = moved(sources[number], seed.name, places)
        try:
            checkpoint = open_source(sources[number])
        except CheckpointError as error:
            raise CheckpointError(
                f"seed '{seed.name}': {error}; if it has moved, say where it is with "
                f"--moved {seed.name}=PATH"
            ) from None
        recall_digests([checkpoint], [sources[number].rename], pool.path)
        if checkpoint.digest() != seed.digest:
            raise CheckpointError(
                f"seed '{seed.name}': {sources[number].path} holds other tensors (digest "
                f"{checkpoint.digest()[:12]}) than when the pool was made ({seed.digest[:12]})"
            )
        moved_base = f"{seed.name}.base" in places
        checkpoints.append(without_doubt(checkpoint) if moved_base else checkpoint)
    pins = pool.meta()["pins"]
    family = make_family(
        checkpoints,
        pins["chromosomes"],
        partial=opening.get("partial", False),
        vocabulary=opening.get("vocabulary", "same"),
        whole=opening.get("whole") or {},
        layout=pins["layout"],
    )
    if family.layout.digest != pins["layout"]:
        raise PoolError(
            f"{pool.path}: this genepool lays the tensors out differently from the one that made "
            "the pool; use that version"
        )
    return tuple(sources), family


def _require_components(pool: Pool, components: Mapping[str, Any]) -> None:
    """Refuse components of pipelines that are not what they were when the pool was made."""
    pins: dict[str, str] = pool.meta()["pins"].get("companions", {})
    for name, taken in components.items():
        pinned = pins.get(pinned_name(name))
        if pinned is not None and taken != EVOLVE and taken["digest"] != pinned:
            raise CheckpointError(
                f"seed '{taken['seed']}': its component '{one_line(name)}' has other files (digest "
                f"{taken['digest'][:12]}) than when the pool was made ({pinned[:12]}); restore them"
            )


def _source(entry: Mapping[str, Any]) -> Source:
    """A source as the pool remembers it."""
    return replace(Source(**entry), components=tuple(entry.get("components", ())))


def moved(source: Source, name: str, places: Mapping[str, PathLike]) -> Source:
    """A source where it lies now."""
    here = current_folder()
    path = locate(os.fspath(places.get(name, source.path)), here)
    base = places.get(f"{name}.base", source.base)
    return replace(source, path=path, base=None if base is None else locate(os.fspath(base), here))


def _card_seeds(
    pool: Pool, sources: Sequence[Source], checkpoints: Sequence[Checkpoint]
) -> tuple[CardSeed, ...]:
    given: list[Any] = pool.meta()["config"].get("seeds", [])
    out: list[CardSeed] = []
    for number, seed in enumerate(pool.seeds()):
        options = mapping_of(given[number] if number < len(given) else None)
        licence = str(options.get("licence") or "")
        out.append(card_seed(seed.name, sources[number], checkpoints[number], licence))
    return tuple(out)
