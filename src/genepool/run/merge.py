"""One merge by hand, without a pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genepool.core.genome import Genome, seed_recipe
from genepool.core.slerp import Angle, merge_recipe, products_of
from genepool.run.card import Card, CardSeed
from genepool.run.export import rebuild_command
from genepool.run.output import (
    Exported,
    PathLike,
    Writing,
    card_seed,
    describe_genome,
    describe_seeds,
    library_of,
    write_model,
)
from genepool.run.seeds import SeedLike, named_source
from genepool.weights.family import Family, Source, Words, make_family, open_source
from genepool.weights.gram import load_or_build_gram
from genepool.weights.threads import Progress
from genepool.weights.writer import SHARD_BYTES, Produce


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
    vocabulary: Words = "same",
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    advance: Progress | None = None,
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
        vocabulary: "common" merges the rows of the tokens that are the same in both tokenizers.
        dtype: of all merged tensors, as safetensors names it; None keeps those of a.
        shard_bytes: largest size of a file.
        advance: called with the fraction that is done.

    Raises:
        CheckpointError, InputError: naming what does not fit.
    """
    opened = _open([a, b], adapter_base, partial, vocabulary)
    layout = opened.family.layout
    position = layout.position(split)
    gram = load_or_build_gram(opened.family.checkpoints, layout, None)
    sides = [seed_recipe(layout.axis.size, k, 2) for k in range(2)]
    genome = merge_recipe(
        products_of(sides[0], sides[1], gram), layout.axis, ratio, [position], angle
    )
    settings = {"method": "slerp", "ratio": ratio, "split": position, "angle": angle}
    where = "" if position == layout.axis.size else f", split at position {position} of the axis"
    text = f"SLERP at ratio {ratio:g}{where} (angle: {angle})"
    return _write(
        genome,
        describe_genome(genome),
        settings,
        text,
        opened,
        directory,
        Writing(dtype, shard_bytes, advance),
    )


@dataclass(frozen=True, eq=False, slots=True)
class _Opened:
    """The models of a merge, opened."""

    sources: tuple[Source, ...]
    family: Family
    seeds: tuple[CardSeed, ...]
    partial: bool


def _open(
    models: Sequence[SeedLike], adapter_base: str | None, partial: bool, vocabulary: Words
) -> _Opened:
    sources = tuple(named_source(model, adapter_base) for model in models)
    checkpoints = [open_source(source) for source in sources]
    family = make_family(checkpoints, partial=partial, vocabulary=vocabulary)
    given = [dict(model) if isinstance(model, Mapping) else {} for model in models]
    names = _names(
        [
            str(options.get("name") or checkpoint.name)
            for options, checkpoint in zip(given, family.checkpoints, strict=True)
        ]
    )
    seeds = tuple(
        card_seed(name, source, checkpoint, str(options.get("licence") or ""))
        for name, source, checkpoint, options in zip(
            names, sources, family.checkpoints, given, strict=True
        )
    )
    return _Opened(sources, family, seeds, partial)


def _write(
    made: Genome | Produce,
    genome: Mapping[str, Any],
    settings: Mapping[str, Any],
    text: str,
    opened: _Opened,
    directory: PathLike,
    writing: Writing,
) -> Exported:
    family = opened.family
    details: dict[str, Any] = {
        **describe_seeds(opened.seeds, opened.sources, family, partial=opened.partial),
        **genome,
        **settings,
    }
    card = Card(
        title="",
        seeds=opened.seeds,
        how=f"A merge of {len(opened.seeds)} models by hand, with genepool: {text}.",
        tags=("merge", "genepool"),
        library=library_of(family.checkpoints[0]),
        notices=family.notices,
        rebuild=rebuild_command(opened.seeds),
    )
    return write_model(made, details, card, family.checkpoints, family.layout, directory, writing)


def _names(names: list[str]) -> list[str]:
    """The names, a number added where one repeats, since a recipe's seeds are known by name."""
    out: list[str] = []
    for name in names:
        unique, number = name, 2
        while unique in out:
            unique, number = f"{name}-{number}", number + 1
        out.append(unique)
    return out
