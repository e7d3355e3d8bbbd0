"""A merged model onto disk: weights, what goes with them, the recipe and the card."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genepool.checkpoints.family import Family, Source
from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.pipelines.components import EVOLVE
from genepool.checkpoints.pipelines.files import component_digest, written_components
from genepool.checkpoints.pipelines.single_file import lasting_metadata
from genepool.core.genome import Genome, Recipe, digest
from genepool.errors import InputError
from genepool.governance.card import PICTURES, Card, CardComponent, CardSeed, render
from genepool.governance.licences import common_licence, hub_id, licence_files, licence_terms
from genepool.messages import at
from genepool.output.recipe_file import FILE, FORMAT, to_bytes, to_metadata
from genepool.output.write.weights import Produce, Writing, genome_tensors, write_tensors
from genepool.threads import Progress

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Exported:
    """A checkpoint that was written.

    Attributes:
        directory: where.
        genome: digest of the genome.
        details: what it was made from.
        notices: what was told of the seeds, one line each, with the paths of this machine.
        verified: number of examples on which it was scored again, as the pool says; 0: was not.
        unverified: why it was not, where that was to be tried.
        changed: of files beside the weights that were others when the model was made, one line
            each: it was not made or scored with these.
    """

    directory: Path
    genome: str
    details: dict[str, Any]
    notices: tuple[str, ...] = ()
    verified: int = 0
    unverified: str = ""
    changed: tuple[str, ...] = ()


def describe_seeds(
    seeds: Sequence[CardSeed],
    sources: Sequence[Source],
    family: Family,
    chromosomes: Mapping[str, Sequence[str]] | None = None,
    *,
    partial: bool = False,
    givers: Sequence[CardSeed] = (),
) -> dict[str, Any]:
    """The part of `genepool.json` that says over what a recipe is.

    Of a pipeline it says of each component that it evolves, or which seed or giver it comes from,
    with a digest of its files; of a pipeline in one file, which components were said to evolve.
    """
    out: dict[str, Any] = {
        "format": FORMAT,
        "seeds": [
            {
                "name": seed.name,
                "digest": seed.digest,
                "hub": seed.hub,
                "licence": seed.licence,
                "rename": dict(source.rename),
                "dtype": source.dtype,
                **({"variant": source.variant} if source.variant else {}),
            }
            for seed, source in zip(seeds, sources, strict=True)
        ],
        "layout": family.layout.digest,
        "chromosomes": {
            name: chromosomes[name] for name in family.layout.axis.names if name in chromosomes
        }
        if chromosomes
        else {},
        "partial": partial,
        "vocabulary": family.vocabulary,
        "notices": _published(family.notices, seeds, family),
    }
    first = family.checkpoints[0]
    if first.pipeline is not None:
        names = [seed.name for seed in (*seeds, *givers)]
        out["components"] = {
            name: EVOLVE
            if name in first.pipeline.evolving
            else {"seed": names[family.whole.get(name, 0)], "digest": component_digest(component)}
            for name, component in written_components(first.pipeline).items()
        }
    elif first.evolving:
        out["components"] = dict.fromkeys(sources[0].components, EVOLVE)
    if givers:
        out["givers"] = [
            {"name": giver.name, "hub": giver.hub, "licence": giver.licence} for giver in givers
        ]
    return out


def describe_genome(genome: Genome) -> dict[str, Any]:
    """The part of `genepool.json` that is the genome."""
    out: dict[str, Any] = {"genome": digest(genome)}
    if isinstance(genome, Recipe):
        out["recipe"] = {"bounds": genome.bounds.tolist(), "coefs": genome.coefs.tolist()}
    return out


def write_model(
    made: Genome | Produce,
    details: Mapping[str, Any],
    card: Card,
    family: Family,
    directory: PathLike,
    writing: Writing,
    progress: Progress | None = None,
    check: Callable[[Path], None] | None = None,
) -> Exported:
    """Write weights, the files that go with them, `genepool.json` and the card.

    Args:
        made: a genome over the family, or a function that computes the merged tensors.
        details: for `genepool.json`; `dtype` is added, and the names of the licences' files.
        card: its title is the directory's name.
        family: the first seed gives names, carried tensors and model files.
        directory: new or empty, or `writing` says otherwise.
        writing: dtype and size of the files.
        progress: called with the fraction that is done.
        check: as `write_tensors` takes it.

    Raises:
        CheckpointError: a seed's file was changed or replaced since it was opened.
        InputError: a seed lies in the directory that is to be replaced.
    """
    target, layout = Path(directory), family.layout
    if writing.overwrite:
        for file in (file for checkpoint in family.checkpoints for file in checkpoint.files):
            if file.path.resolve().is_relative_to(target.resolve()):
                raise InputError(f"{at(target)}: is among what is merged; choose another place")
    genome = None if callable(made) else made

    def look(place: Path) -> None:
        for checkpoint in family.checkpoints:
            checkpoint.look()
        if check is not None:
            check(place)

    first = family.checkpoints[0]
    notices = tuple(_published(card.notices, card.seeds, family))
    card = replace(card, library=_library(first), notices=notices)
    card = _of_images(card, details, first, writing.dtype)
    licence = common_licence([seed.licence for seed in (*card.seeds, *card.givers)])
    names = [seed.name for seed in card.seeds]
    licences = licence_files(names, family.checkpoints, licence)
    terms = licence_terms(licence, family.checkpoints, licences)
    card = replace(card, licences=tuple(licences), terms=terms)
    document = {**details, "dtype": writing.dtype, "licences": sorted(licences)}
    if not licences:
        del document["licences"]
    page = render(replace(card, title=target.resolve().name), genome, layout)
    write_tensors(
        made if callable(made) else genome_tensors(made, family.checkpoints, layout),
        first,
        layout,
        target,
        writing,
        metadata={**(lasting_metadata(first) if first.evolving else {}), **to_metadata(document)},
        extra={
            **licences,
            FILE: to_bytes(document),
            "README.md": page,
            **({} if card.pictures is None else {PICTURES: card.pictures.png}),
        },
        progress=progress,
        check=look,
    )
    return Exported(target, str(document["genome"]), document, family.notices)


def _library(first: Checkpoint) -> str:
    """What loads a model like the first seed; "" where that is not known."""
    if first.pipeline is not None or first.evolving:
        return "diffusers"
    directory = first.directory
    return "transformers" if directory and (directory / "config.json").is_file() else ""


def _published(notices: Sequence[str], seeds: Sequence[CardSeed], family: Family) -> list[str]:
    """Notices as they go out with a model: seeds by name, where they had paths of this machine."""
    names: dict[str, str] = {}
    for seed, checkpoint in zip(seeds, family.checkpoints, strict=True):
        own = [checkpoint.path, checkpoint.tokenizer, checkpoint.directory]
        others: list[Path | None] = []
        if checkpoint.origins:
            others = [checkpoint.origins[0], own.pop()]
        if checkpoint.pipeline is not None:
            others += [part.directory.parent for part in checkpoint.pipeline.components.values()]
        for place in filter(None, others):
            names.setdefault(at(place), hub_id(str(place)) or place.name)
        names |= {at(place): seed.name for place in own if place and place.is_absolute()}
    if not names:
        return [*notices]
    listed = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    pattern = re.compile(rf"(?:{listed})(?![\w-]|\.\w)")
    return [pattern.sub(lambda found: names[found[0]], notice) for notice in notices]


def _of_images(
    card: Card, details: Mapping[str, Any], first: Checkpoint, dtype: str | None
) -> Card:
    """The card of an image generator, which says where each component of a pipeline comes from;
    that of any other model as it is."""
    if first.pipeline is None and not first.evolving:
        return card
    if dtype is not None:
        text = f"{dtype} is the type of the merged components; all others have their own"
        card = replace(card, notices=(*card.notices, text))
    draws = True
    components: list[CardComponent] = []
    if first.pipeline is not None:
        draws = any(name.startswith("text_encoder") for name in first.pipeline.components)
        for name, component in written_components(first.pipeline).items():
            value = details["components"][name]
            taken = ("", "") if value == EVOLVE else (value["seed"], value["digest"])
            components.append(CardComponent(name, component.class_name, *taken))
    tags = (*card.tags, "text-to-image") if draws else card.tags
    return replace(card, components=tuple(components), tags=tags)
