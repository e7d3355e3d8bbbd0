"""Out of the pool: a member as a checkpoint, and a merge by hand."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genepool.core.genome import Genome, Recipe, digest, seed_recipe
from genepool.core.slerp import Angle, merge_recipe, products_of
from genepool.errors import CheckpointError, InputError, PoolError
from genepool.run.members import member_number
from genepool.run.pool import Pool
from genepool.run.seeds import SeedLike, named_source
from genepool.weights.checkpoint import Checkpoint
from genepool.weights.family import Source, locate, make_family, open_source
from genepool.weights.gram import load_or_build_gram
from genepool.weights.layout import Layout
from genepool.weights.writer import write_checkpoint

PathLike = str | os.PathLike[str]
Advance = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Exported:
    """A checkpoint that was written: directory, digest of the genome, what it was made from."""

    directory: Path
    genome: str
    details: dict[str, Any]


def export(
    pool: Pool,
    member: int | str,
    directory: PathLike,
    *,
    seeds: Mapping[str, PathLike] | None = None,
    dtype: str | None = None,
    shard_bytes: int = 5_000_000_000,
    advance: Advance | None = None,
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
    checkpoints, layout = open_seeds(pool, seeds)
    held_out = pool.held_out().get(number)
    details: dict[str, Any] = {
        "member": number,
        "parents": list(record.parents),
        "train": record.train,
        "held_out": held_out,
        "seeds": [{"name": seed.name, "digest": seed.digest} for seed in pool.seeds()],
        **_describe(genome),
    }
    return _write(genome, details, checkpoints, layout, directory, dtype, shard_bytes, advance)


def merge(
    a: SeedLike,
    b: SeedLike,
    directory: PathLike,
    *,
    ratio: float,
    split: float | int | str = 1.0,
    angle: Angle = "global",
    adapter_base: str | None = None,
    partial: bool = False,
    dtype: str | None = None,
    shard_bytes: int = 5_000_000_000,
    advance: Advance | None = None,
) -> Exported:
    """Merge two checkpoints by SLERP: `ratio` left of the split point and 1 - ratio right of it.

    Args:
        a, b: checkpoints of one architecture: paths, ids of the Hugging Face Hub, or mappings with
            the keys of a seed in a run file.
        directory: new or empty.
        ratio: in [0, 1]; left of the split 0 gives a and 1 gives b.
        split: fraction of the axis (float), position (int), or name of the tensor that is the
            first on the right; 1.0 merges everything at `ratio`.
        angle: over what the SLERP angle is measured.
        adapter_base: base of a seed that is an adapter; None takes the one that it names.
        partial: merge what both hold under one name and in one shape, and take the rest from a.
        dtype: of all merged tensors, as safetensors names it; None keeps those of a.
        shard_bytes: largest size of a file.
        advance: called with the fraction that is done.

    Raises:
        CheckpointError, InputError: naming what does not fit.
    """
    sources = [named_source(seed, adapter_base) for seed in (a, b)]
    family = make_family([open_source(source) for source in sources], partial=partial)
    checkpoints, layout = family.checkpoints, family.layout
    position = layout.position(split)
    gram = load_or_build_gram(checkpoints, layout, None)
    sides = [seed_recipe(layout.axis.size, k, 2) for k in range(2)]
    genome = merge_recipe(
        products_of(sides[0], sides[1], gram), layout.axis, ratio, [position], angle
    )
    details: dict[str, Any] = {
        "ratio": ratio,
        "split": position,
        "angle": angle,
        "seeds": [{"name": c.name, "digest": c.digest()} for c in checkpoints],
        "notices": list(family.notices),
        **_describe(genome),
    }
    return _write(genome, details, checkpoints, layout, directory, dtype, shard_bytes, advance)


def open_seeds(
    pool: Pool, seeds: Mapping[str, PathLike] | None = None
) -> tuple[tuple[Checkpoint, ...], Layout]:
    """Open the seeds that a pool names, and check that they are still what they were.

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
    for seed, source in zip(entries, sources, strict=True):
        here = Path.cwd()
        path = locate(os.fspath(moved.get(seed.name, source.path)), here)
        base = moved.get(f"{seed.name}.base", source.base)
        base = None if base is None else locate(os.fspath(base), here)
        try:
            checkpoint = open_source(replace(source, path=path, base=base))
        except CheckpointError as error:
            raise CheckpointError(
                f"seed '{seed.name}': {error}; if it has moved, say where it is with "
                f"--seed {seed.name}=PATH"
            ) from None
        if checkpoint.digest() != seed.digest:
            raise CheckpointError(
                f"seed '{seed.name}': {path} holds other tensors (digest "
                f"{checkpoint.digest()[:12]}) than when the pool was made ({seed.digest[:12]})"
            )
        checkpoints.append(checkpoint)
    pins = pool.meta()["pins"]
    family = make_family(
        checkpoints, pins["chromosomes"] or None, partial=bool(opening.get("partial"))
    )
    layout = family.layout
    if layout.digest != pins["layout"]:
        raise PoolError(
            f"{pool.path}: this genepool lays the tensors out differently from the one that made "
            "the pool; use that version"
        )
    return family.checkpoints, layout


def _describe(genome: Genome) -> dict[str, Any]:
    out: dict[str, Any] = {"genome": digest(genome)}
    if isinstance(genome, Recipe):
        out["recipe"] = {"bounds": genome.bounds.tolist(), "coefs": genome.coefs.tolist()}
    return out


def _write(
    genome: Genome,
    details: dict[str, Any],
    checkpoints: tuple[Checkpoint, ...],
    layout: Layout,
    directory: PathLike,
    dtype: str | None,
    shard_bytes: int,
    advance: Advance | None,
) -> Exported:
    target = Path(directory)
    name = digest(genome)
    write_checkpoint(
        genome,
        checkpoints,
        layout,
        target,
        dtype=dtype,
        shard_bytes=shard_bytes,
        metadata={"format": "pt", "genepool.genome": name},
        extra={"genepool.json": (json.dumps(details, indent=1, sort_keys=True) + "\n").encode()},
        progress=advance,
    )
    return Exported(target, name, details)
