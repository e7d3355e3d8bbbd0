"""Merging by hand, without a pool: `merge_models`, and the two functions that users call."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from genepool.checkpoints.family import (
    Family,
    Source,
    Words,
    locate,
    make_family,
    open_giver,
    open_source,
    renamed,
)
from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.files.digests import copies, remember_digests
from genepool.checkpoints.files.lora import AdapterMismatch
from genepool.checkpoints.naming import helpful, told_apart
from genepool.checkpoints.pipelines.components import EVOLVE, evolving
from genepool.checkpoints.pipelines.lora_files import require_folders
from genepool.checkpoints.seeds import SeedLike, named_source
from genepool.core.slerp import Angle
from genepool.documents import current_folder
from genepool.errors import InputError, WriteError
from genepool.governance import markdown
from genepool.governance.card import Card, CardSeed, card_seed, rebuild_command
from genepool.messages import at, count, one_line, some
from genepool.output.methods.layer_values import Values
from genepool.output.methods.registry import METHODS, specify
from genepool.output.methods.specification import Options, Specification, cache_for
from genepool.output.write.model import (
    Exported,
    PathLike,
    describe_genome,
    describe_seeds,
    write_model,
)
from genepool.output.write.weights import SHARD_BYTES, Writing
from genepool.threads import Progress

Components = Mapping[str, str | os.PathLike[str]]


@dataclass(frozen=True, slots=True)
class Opening:
    """How models are opened and compared.

    Attributes:
        partial: merge what all hold under one name and in one shape, and take the rest from the
            first.
        vocabulary: "common" merges the rows of the tokens that are the same in all tokenizers.
        adapter_base: base of a model that is an adapter; None takes the one that it names.
        components: of pipelines: component -> "evolve" for those that are merged (the denoiser, if
            none is), or what it is taken from as it is: the name or path of one of the models, or
            path or id of another pipeline, or of a folder that holds such a component alone. The
            others come from the first.
        rename: prefixes of tensor names and what stands in their place, in those of the models but
            the first of which more tensors are then called as the first one's are. A model that
            has prefixes of its own is left alone.
    """

    partial: bool = False
    vocabulary: Words = "same"
    adapter_base: str | None = None
    components: Components = field(default_factory=dict[str, str | os.PathLike[str]])
    rename: Mapping[str, str] = field(default_factory=dict[str, str])


def merge_models(
    models: Sequence[SeedLike],
    specification: Specification,
    opening: Opening,
    directory: PathLike,
    writing: Writing,
    advance: Progress | None = None,
) -> Exported:
    """Merge models once, as a specification says.

    Args:
        models: of one architecture: paths, ids of the Hugging Face Hub, or mappings with the keys
            of a seed in a run file. The first gives configuration and tokenizer; a base is the
            last.
        specification: see `methods.registry.specify`.
        opening: how the models are opened.
        directory: new or empty; but see `overwrite`.
        writing: dtype and size of the files.
        advance: called with the fraction that is done.

    Raises:
        CheckpointError, InputError: naming what does not fit.
    """
    sources, seeds, givers, family = _open(models, opening)
    combined = specification.combine(family, [seed.name for seed in seeds])
    details: dict[str, Any] = {
        **describe_seeds(seeds, sources, family, partial=bool(opening.partial), givers=givers),
        **(
            {"genome": combined.digest}
            if callable(combined.made)
            else describe_genome(combined.made)
        ),
        **combined.settings,
    }
    card = Card(
        title="",
        seeds=seeds,
        how=f"A merge of {count(len(seeds), 'model')} by hand, with genepool: "
        f"{markdown.text(combined.text)}.",
        tags=("merge", "genepool"),
        notices=family.notices,
        rebuild=rebuild_command((*seeds, *givers)),
        givers=givers,
    )
    return write_model(combined.made, details, card, family, directory, writing, advance)


def merge(
    a: SeedLike,
    b: SeedLike,
    directory: PathLike,
    *,
    ratio: Values | Mapping[str, Values],
    split: float | int | str = 1.0,
    angle: Angle = "global",
    adapter_base: str | None = None,
    partial: bool = False,
    vocabulary: Words = "same",
    components: Components | None = None,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    advance: Progress | None = None,
) -> Exported:
    """Merge two checkpoints by SLERP: `ratio` left of the split point and 1 - ratio right of it.

    Args:
        a, b: as the models of `merge_models`.
        directory: new or empty; but see `overwrite`.
        ratio, split, angle: see `Options`.
        adapter_base, partial, vocabulary, components: see `Opening`.
        dtype, shard_bytes, overwrite: see `Writing`.
        advance: called with the fraction that is done.

    Raises:
        CheckpointError, InputError: naming what does not fit.
    """
    specification = specify("slerp", Options(ratio=ratio, split=split, angle=angle), 2)
    opening = Opening(partial, vocabulary, adapter_base, components or {})
    writing = Writing(dtype, shard_bytes, overwrite)
    return merge_models([a, b], specification, opening, directory, writing, advance)


def blend(
    models: Sequence[SeedLike],
    directory: PathLike,
    *,
    method: str = "linear",
    base: SeedLike | None = None,
    weights: Sequence[float] | None = None,
    density: float | Sequence[float] | None = None,
    seed: int = 0,
    normalise: bool | None = None,
    scale: float = 1.0,
    adapter_base: str | None = None,
    partial: bool = False,
    vocabulary: Words = "same",
    components: Components | None = None,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    advance: Progress | None = None,
) -> Exported:
    """Merge any number of models, or what training changed in them, by weight.

    Args:
        models: as for `merge_models`.
        directory: new or empty; but see `overwrite`.
        method: "linear": the weighted mean (Wortsman et al. 2022). With a base: "task-arithmetic"
            adds the weighted task vectors (model - base) to it (Ilharco et al. 2023); "ties" trims
            them by size, elects signs and averages (Yadav et al. 2023); "dare-linear" and
            "dare-ties" keep changes at random and divide by the density (Yu et al. 2024).
        base: that the models were trained from; all methods but "linear" need it.
        weights: one for each model; None means 1 each.
        density: share of each task vector that is kept, in (0, 1], one for all or one for each
            model; for "ties" and the DARE methods, None means 0.5.
        seed: the random seed of what is kept; for methods that have none it says nothing.
        normalise: divide by the sum of the weights; None does so for "linear" and "ties". A sum
            below a millionth of that of their absolute values counts as 0.
        scale: factor of the merged task vector; for "linear" it says nothing.
        adapter_base, partial, vocabulary, components: see `Opening`.
        dtype, shard_bytes, overwrite: see `Writing`.
        advance: called with the fraction that is done.

    Raises:
        CheckpointError, InputError: naming what does not fit.
    """
    takes = METHODS[method].takes if method in METHODS else ()
    options = Options(
        base=base,
        weights=weights,
        density=density,
        normalise=normalise,
        seed=seed if "seed" in takes else None,
        scale=scale if "scale" in takes else None,
    )
    models = [models] if isinstance(models, str) else models
    specification = specify(method, options, len(models))
    given = [*models] if base is None else [*models, base]
    opening = Opening(partial, vocabulary, adapter_base, components or {})
    writing = Writing(dtype, shard_bytes, overwrite)
    return merge_models(given, specification, opening, directory, writing, advance)


def _open(
    models: Sequence[SeedLike], opening: Opening
) -> tuple[tuple[Source, ...], tuple[CardSeed, ...], tuple[CardSeed, ...], Family]:
    """The models' sources and what the card says of them; the same of givers; and the family."""
    sources = tuple(
        replace(named_source(model, opening.adapter_base), components=evolving(opening.components))
        for model in models
    )
    sources, checkpoints = _opened(sources, opening.rename)
    require_folders(checkpoints)
    if opening.adapter_base is not None and not any(each.origins for each in checkpoints):
        raise InputError(
            f"a base for adapters is given ('{one_line(opening.adapter_base)}'), and none of the "
            "models is an adapter; leave out --adapter-base"
        )
    given = [dict(model) if isinstance(model, Mapping) else {} for model in models]
    names = told_apart(
        str(options.get("name") or checkpoint.name)
        for options, checkpoint in zip(given, checkpoints, strict=True)
    )
    if opening.components and (
        plain := [c for c in checkpoints if c.pipeline is None and not c.evolving]
    ):
        raise InputError(
            f"{at(plain[0].path)}: is no pipeline, and has no components; leave out --component"
        )
    whole, others = _whole(opening, names, sources)
    givers = [open_giver(source, part) for part, source in others.items()]
    family = make_family(
        checkpoints,
        partial=opening.partial,
        vocabulary=opening.vocabulary,
        whole=whole,
        givers=givers,
    )
    if cache := cache_for(family):
        # All are known by the time that they are written; a full cache costs the next merge only.
        with suppress(WriteError):
            remember_digests(family.checkpoints, [source.rename for source in sources], cache)
    seeds = tuple(
        card_seed(name, source, checkpoint, str(options.get("licence") or ""))
        for name, source, checkpoint, options in zip(
            names, sources, family.checkpoints, given, strict=True
        )
    )
    further = told_apart([*names, *(giver.name for giver in givers)])[len(names) :]
    cards = tuple(
        replace(card_seed(name, source, giver), digest="")
        for name, source, giver in zip(further, others.values(), givers, strict=True)
    )
    twins = copies(names, [seed.digest for seed in seeds])
    return sources, seeds, cards, replace(family, notices=(*family.notices, *twins))


def _opened(
    sources: Sequence[Source], prefixes: Mapping[str, str]
) -> tuple[tuple[Source, ...], list[Checkpoint]]:
    """The models, under other names where prefixes say so; and their sources, which say it too.

    Raises:
        InputError: a prefix is for none of them.
    """
    first, *others = sources
    checkpoints, told, used = [open_source(first)], [first], set[str]()
    for source in others:
        wanted = dict[str, str]() if source.rename else prefixes
        try:
            opened = open_source(source)
            fitting = helpful(wanted, checkpoints[0].tensors, opened.tensors)
            opened = renamed(opened, fitting) if fitting else opened
        except AdapterMismatch:
            # An adapter that was trained under the names that its base is to get.
            if not wanted:
                raise
            opened, fitting = open_source(replace(source, rename=wanted)), wanted
        source = replace(source, rename=fitting) if fitting else source
        used |= fitting.keys()
        checkpoints.append(opened)
        told.append(source)
    if idle := [f"{old}={new}" for old, new in prefixes.items() if old not in used]:
        names = "; ".join(f"{at(each.path)}: {some(each.tensors)}" for each in checkpoints)
        raise InputError(
            f"--rename {some(idle)}: with it no model has more tensors that are called as in "
            f"{at(checkpoints[0].path)}; tensors are called like these: {names}"
        )
    return tuple(told), checkpoints


def _whole(
    opening: Opening, names: Sequence[str], sources: Sequence[Source]
) -> tuple[dict[str, int], dict[str, Source]]:
    """Component -> number of the model or giver that it is taken from; and the givers, each under
    the first component that it gives."""
    numbers: dict[str, int] = {}
    givers: dict[str, Source] = {}
    paths = [_same(source.path) for source in sources]
    for part, value in opening.components.items():
        if value == EVOLVE:
            continue
        text = os.fspath(value)
        if text in names:
            numbers[part] = names.index(text)
            continue
        place = locate(text, current_folder())
        if Path(place).is_absolute() and not Path(place).exists():
            raise InputError(
                f"components: '{one_line(part)}' is to come from '{one_line(text)}'; expected "
                f"'{EVOLVE}', the name of a model ({some(names, limit=20)}), or the path or id of "
                "another pipeline"
            )
        if _same(place) not in paths:
            paths.append(_same(place))
            givers[part] = Source(place)
        numbers[part] = paths.index(_same(place))
    return numbers, givers


def _same(place: str) -> str:
    """Equal for all ways to write a path; an id of the Hub is itself."""
    return str(Path(place).resolve()) if Path(place).is_absolute() else place
