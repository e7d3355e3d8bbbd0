"""A checkpoint again from its recipe."""

from __future__ import annotations

import contextlib
import filecmp
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from genepool.checkpoints.family import Family, Source, make_family, open_giver, open_source
from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.files.lora import is_adapter, without_doubt
from genepool.checkpoints.model_files.side_files import copied, goes_along, module_files
from genepool.checkpoints.pipelines.components import Component
from genepool.checkpoints.pipelines.files import component_digest, written_components
from genepool.checkpoints.pipelines.lora_files import lora_file
from genepool.core.genome import Recipe
from genepool.errors import CheckpointError, InputError
from genepool.governance.card import Card, CardSeed, rebuild_command
from genepool.messages import at, count, some
from genepool.output.member import moved
from genepool.output.recipe_file import RecipeFile, RecipeSeed, read_recipe
from genepool.output.write.model import Exported, PathLike, write_model
from genepool.output.write.weights import SHARD_BYTES, Writing
from genepool.threads import Progress


def rebuild(
    recipe: PathLike,
    directory: PathLike,
    *,
    seeds: Mapping[str, PathLike],
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    advance: Progress | None = None,
) -> Exported:
    """Make a checkpoint again from its recipe: the same tensors, bit for bit on one device type.

    Args:
        recipe: `genepool.json`, a directory that genepool wrote, or one of its weight files.
        directory: new or empty; but see `overwrite`.
        seeds: where each seed of the recipe lies, by name.
        shard_bytes: largest size of a file; it does not change the tensors.
        overwrite: see `Writing`.
        advance: called with the fraction that is done.

    Raises:
        InputError: the recipe is missing, damaged, or names a seed that was not given.
        CheckpointError: a seed holds other tensors than the one that the recipe was made with.
    """
    read = read_recipe(Path(recipe))
    writing = Writing(read.dtype, shard_bytes, overwrite)
    if read.made is None:
        raise InputError(
            f"{recipe}: holds no recipe, because mutation has added noise to this model; the pool "
            "that it came from makes it again: genepool export POOL MEMBER -o DIR"
        )
    names = [seed.name for seed in (*read.seeds, *read.givers)]
    if unknown := sorted(set(seeds) - set(names) - {f"{name}.base" for name in names}):
        raise InputError(
            f"the recipe has no seed named '{unknown[0]}'; its seeds: {', '.join(names)}"
        )
    family = make_family(
        [_recipe_seed(seed, read.evolving, seeds) for seed in read.seeds],
        read.chromosomes,
        partial=read.partial,
        vocabulary=read.vocabulary,
        whole={part: names.index(giver) for part, (giver, _) in read.whole.items()},
        givers=_recipe_givers(read, seeds),
        layout=read.layout,
    )
    if family.layout.digest != read.layout:
        raise InputError(
            f"{recipe}: this genepool lays the tensors out differently from the one that wrote the "
            "recipe; use that version"
        )
    _require_components(read, family)
    made = read.made
    if not isinstance(made, Recipe):
        made = made.combine(family, [seed.name for seed in read.seeds]).made
    card = _rebuilt_card(read, family, seeds)
    written = write_model(made, read.details, card, family, directory, writing, advance)
    home = Path(recipe) if Path(recipe).is_dir() else Path(recipe).parent
    return replace(written, changed=_changed(home, written.directory))


def _recipe_seed(
    seed: RecipeSeed, evolving: tuple[str, ...], places: Mapping[str, PathLike]
) -> Checkpoint:
    source = _source(seed, places)
    if evolving and source.base is None and lora_file(Path(source.path)) is not None:
        raise InputError(
            f"seed '{seed.name}': {source.path} is a LoRA; say where the pipeline is that it was "
            f"trained on with --moved {seed.name}.base=PATH"
        )
    try:
        checkpoint = open_source(replace(source, components=evolving))
    except CheckpointError as error:
        raise _unopened(seed, error, is_adapter(Path(source.path))) from None
    if checkpoint.digest() != seed.digest:
        base = f" and base (--moved {seed.name}.base=PATH)" if checkpoint.origins else ""
        raise CheckpointError(
            f"seed '{seed.name}': {source.path} holds other tensors (digest "
            f"{checkpoint.digest()[:12]}) than the recipe was made with ({seed.digest[:12]}); give "
            f"the very same model{base}"
        )
    return without_doubt(checkpoint)


def _recipe_givers(read: RecipeFile, places: Mapping[str, PathLike]) -> list[Checkpoint]:
    givers: list[Checkpoint] = []
    for giver in read.givers:
        part = next((part for part, (name, _) in read.whole.items() if name == giver.name), "")
        try:
            givers.append(open_giver(_source(giver, places), part))
        except CheckpointError as error:
            raise _unopened(giver, error) from None
    return givers


def _source(seed: RecipeSeed, places: Mapping[str, PathLike]) -> Source:
    if seed.name not in places and seed.hub is None:
        raise InputError(
            f"the recipe needs the seed '{seed.name}'; say where it is with "
            f"--moved {seed.name}=PATH"
        )
    source = Source(seed.hub or "", rename=seed.rename, dtype=seed.dtype, variant=seed.variant)
    return moved(source, seed.name, places)


def _unopened(seed: RecipeSeed, error: CheckpointError, adapter: bool = False) -> CheckpointError:
    base = f", and its base with --moved {seed.name}.base=PATH" if adapter else ""
    return CheckpointError(
        f"seed '{seed.name}': {error}; say where it is with --moved {seed.name}=PATH{base}"
    )


def _require_components(read: RecipeFile, family: Family) -> None:
    """Refuse other files of the components that are taken as they are."""
    pipeline = family.checkpoints[0].pipeline
    if pipeline is None and not read.whole:
        return  # Of a pipeline in one file, the digest of its tensors covers all.
    components: Mapping[str, Component] = {} if pipeline is None else written_components(pipeline)
    if other := {*components} ^ {*read.evolving, *read.whole}:
        raise CheckpointError(
            f"seed '{read.seeds[0].name}': has other components than the recipe was made with "
            f"({some(sorted(other))}); give the very same pipeline"
        )
    for part, (giver, digest) in read.whole.items():
        found = component_digest(components[part])
        if found != digest:
            raise CheckpointError(
                f"seed '{giver}': holds another component '{part}' (digest of its files "
                f"{found[:12]}) than the recipe was made with ({digest[:12]}); give the very same "
                "files"
            )


def _changed(home: Path, written: Path) -> tuple[str, ...]:
    """What to say of files beside the weights, in folders inside too, that are others than those
    beside the recipe; what is missing there is not told, since a recipe may lie alone."""
    folders = [written, *(path for path in written.rglob("*") if path.is_dir())]
    names = {
        (folder / name).relative_to(written).as_posix()
        for folder in folders
        for name in copied(folder, goes_along, home=written)
    }
    found: list[str] = []
    for name in sorted(names | module_files(written).keys()):
        with contextlib.suppress(OSError):  # The model is written: nothing here may fail.
            if not filecmp.cmp(home / name, written / name, shallow=False):
                found.append(name)
    text = f"{at(home)} has other content in {some(found)}: what was written has the first seed's"
    return (text,) if found else ()


def _rebuilt_card(read: RecipeFile, family: Family, places: Mapping[str, PathLike]) -> Card:
    known, givers = (
        tuple(
            CardSeed(
                seed.name,
                seed.digest,
                seed.licence or None,
                seed.hub,
                f"{seed.name}.base" in places,
            )
            for seed in seeds
        )
        for seeds in (read.seeds, read.givers)
    )
    return Card(
        title="",
        seeds=known,
        how=f"A merge of {count(len(known), 'model')}, made again from its recipe by genepool.",
        tags=("merge", "genepool"),
        notices=family.notices,
        rebuild=rebuild_command((*known, *givers)),
        givers=givers,
    )
