"""The model card of a merged model: README.md with the front matter that the hub reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from genepool.checkpoints.family import Source
from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.files.lora import named_base
from genepool.checkpoints.layout import Layout
from genepool.core.genome import Genome, Recipe
from genepool.core.shares import shares_between
from genepool.governance.licences import common_licence, hub_id, licence_of, licences_of
from genepool.governance.markdown import argument, block, code, scalar, table, text
from genepool.messages import one_line

_ROWS = 40
# Where image generators in single files say what their licence is.
_SAID = "modelspec.license"

PICTURES = "pictures.png"
"""The name of the file that holds a card's pictures."""


@dataclass(frozen=True, slots=True)
class CardSeed:
    """A seed as the card shows it: `licence` as declared, `hub` its id on the hub, if known, with
    the revision that was named, and `based`, whether it is an adapter whose own files do not say
    where everyone finds its base."""

    name: str
    digest: str
    licence: str | None
    hub: str | None
    based: bool = False


@dataclass(frozen=True, slots=True)
class CardComponent:
    """A component of a pipeline: its class, the seed that gave it as it is ("" where it is merged
    from all of them), and then the digest of its files."""

    name: str
    class_name: str
    seed: str
    digest: str


@dataclass(frozen=True, slots=True)
class Scores:
    """A row of the table of scores: mean per task on selection and held-out examples, in [0, 1],
    None where it was not measured; `member` is the number of the model that the card is about."""

    name: str
    train: tuple[float | None, ...]
    held_out: tuple[float | None, ...]
    member: int | None = None


@dataclass(frozen=True, slots=True)
class CardGuard:
    """A guard: the best seed with its mean score, the least that children had to reach, and what
    the model reaches (None where it was not asked); scores in [0, 1]."""

    name: str
    seed: str
    best: float
    bound: float
    score: float | None


@dataclass(frozen=True, slots=True)
class CardMeasures:
    """What was measured of a model and nobody competed for: a value in [0, 1] for each name."""

    model: str
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CardPictures:
    """A picture with a row for each model and a column for each prompt, as a PNG file."""

    png: bytes
    rows: tuple[str, ...]
    prompts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ancestor:
    """One merge on the way from the seeds to the model."""

    name: str
    parents: tuple[str, ...]
    plan: str
    train: float | None


@dataclass(frozen=True, slots=True)
class Card:
    """What a card tells.

    Attributes:
        title: of the model.
        seeds: in the recipe's order.
        how: sentences about how it was made, in Markdown.
        tags: for the hub.
        library: that loads the model, for the hub; "" leaves it out.
        tasks: names, in the order of the scores.
        scores: seeds first, the model last; empty for a merge by hand.
        guards: what no child was to lose.
        measures: what nobody competed for; seeds first, the model last.
        pictures: what an image generator draws; they lie beside the card as `PICTURES`.
        ancestors: the nearest merges, the youngest first.
        ancestry: a sentence about all of them; "" leaves the section out.
        notices: remarks of one line each, such as differences between the seeds' model files.
        rebuild: the command, or "" where it cannot be rebuilt from a recipe.
        caveat: why the scores are not of this very file; "" if they are.
        givers: what gave components of a pipeline as they are, and was not merged.
        components: of a pipeline.
        licences: names of the files that hold the seeds' licences, if they do not share one.
        terms: what the front matter says of the licence; empty for the one that all seeds declare.
    """

    title: str
    seeds: tuple[CardSeed, ...]
    how: str
    tags: tuple[str, ...]
    library: str = ""
    tasks: tuple[str, ...] = ()
    scores: tuple[Scores, ...] = ()
    guards: tuple[CardGuard, ...] = ()
    measures: tuple[CardMeasures, ...] = ()
    pictures: CardPictures | None = None
    ancestors: tuple[Ancestor, ...] = ()
    ancestry: str = ""
    notices: tuple[str, ...] = ()
    rebuild: str = ""
    caveat: str = ""
    givers: tuple[CardSeed, ...] = ()
    components: tuple[CardComponent, ...] = ()
    licences: tuple[str, ...] = ()
    terms: Mapping[str, str] = field(default_factory=dict[str, str])


def card_seed(name: str, source: Source, checkpoint: Checkpoint, licence: str = "") -> CardSeed:
    """A seed for the card: its licence as given, else as its directory declares it, and of an
    adapter also that of its base."""
    place = Path(source.path)
    if not place.exists():
        place = checkpoint.directory or checkpoint.path
    declared = licence.lower() or licences_of(checkpoint.origins or (place,))
    if declared is None and checkpoint.directory is not None:  # Of a GGUF file, by what it says.
        declared = licence_of(checkpoint.directory)
    declared = declared or one_line(checkpoint.metadata.get(_SAID, "")).lower() or None
    based = source.base is not None and bool(checkpoint.origins)
    if based and not Path(str(source.base)).is_absolute() and checkpoint.pipeline is None:
        based = named_base(checkpoint.origins[-1].parent) != source.base
    return CardSeed(name, checkpoint.digest(), declared, hub_id(source.path), based)


def rebuild_command(seeds: Sequence[CardSeed]) -> str:
    """How the card says that the model is made again."""
    names = [name for seed in seeds for name in (seed.name, f"{seed.name}.base")[: 1 + seed.based]]
    given = " ".join(argument(f"{name}=PATH") for name in names)
    return f"genepool rebuild genepool.json --moved {given} -o DIR"


def render(card: Card, genome: Genome | None, layout: Layout) -> bytes:
    """The card as UTF-8 Markdown; equal input gives equal bytes.

    Args:
        card: what it tells.
        genome: of the model, for a table of what comes from where; None where it has none.
        layout: of the seeds.
    """
    sources = (*card.seeds, *card.givers)
    licence = common_licence([seed.licence for seed in sources])
    parts = [
        _front_matter(card, licence),
        f"# {text(card.title)}\n",
        f"{card.how}\n",
        "## Seeds\n",
        table(
            ("seed", "licence", "digest of its tensors (SHA-256)"),
            [
                (
                    text(seed.hub or seed.name),
                    text(seed.licence or "not declared"),
                    code(seed.digest) if seed.digest else "not merged",
                )
                for seed in sources
            ],
        ),
    ]
    if licence == "other":
        parts.append(
            "The seeds do not all declare one licence that has a name of its own on the Hub: what "
            "may be done with this model follows from all of those above."
            + (f" Their texts: {', '.join(map(code, card.licences))}." if card.licences else "")
            + "\n"
        )
    if card.components:
        parts += ["## Components\n", _component_table(card)]
    if card.scores or card.caveat:
        parts.append("## Scores\n")
        parts += [_score_table(card)] if card.scores else []
        parts += [f"{card.caveat[:1].upper()}{card.caveat[1:]}.\n"] if card.caveat else []
    if card.guards:
        parts += ["## Guards\n", _guard_table(card.guards)]
    if card.measures:
        parts += ["## Measured besides\n", _measure_table(card.measures)]
    if card.pictures is not None:
        parts += ["## Pictures\n", _pictures(card.pictures)]
    if genome is not None:
        parts += ["## What comes from where\n", _genome_table(card.seeds, genome, layout)]
    if card.ancestry:
        parts += ["## Ancestry\n", f"{card.ancestry}\n"]
        if card.ancestors:
            rows = [
                (text(a.name), ", ".join(map(text, a.parents)), text(a.plan), _score(a.train))
                for a in card.ancestors
            ]
            parts.append(table(("member", "parents", "merge", "selection score"), rows))
    if card.notices:
        parts += ["## Notices\n", "\n".join(f"- {text(notice)}" for notice in card.notices) + "\n"]
    if card.rebuild:
        parts += [
            "## Making it again\n",
            "`genepool.json` holds the recipe; the weights' metadata hold it too. From the same "
            "seeds it gives the same tensors, bit for bit:\n",
            block(card.rebuild),
        ]
    return "\n".join(parts).encode()


def _component_table(card: Card) -> str:
    sources = {seed.name: seed for seed in (*card.seeds, *card.givers)}
    rows: list[tuple[str, ...]] = []
    for part in card.components:
        giver = sources.get(part.seed)
        if giver is None:
            cells = ("merged", "that of the seeds", "")
        else:
            origin = f"as it is in {text(giver.hub or giver.name)}"
            cells = (origin, text(giver.licence or "not declared"), code(part.digest))
        rows.append((text(part.name), text(part.class_name), *cells))
    return table(("component", "class", "weights and files", "licence", "digest (SHA-256)"), rows)


def _front_matter(card: Card, licence: str) -> str:
    lines = ["---", "base_model:"]
    # The hub knows models by their ids, without revisions.
    names = (
        (seed.hub or "").partition("@")[0] or seed.name for seed in (*card.seeds, *card.givers)
    )
    lines += [f"- {scalar(name)}" for name in dict.fromkeys(names)]
    lines += ["base_model_relation: merge"] if "merge" in card.tags else []
    terms = card.terms or {"license": licence}
    lines += [f"{key}: {scalar(value)}" for key, value in terms.items()]
    if card.library:
        lines.append(f"library_name: {scalar(card.library)}")
    lines += ["pipeline_tag: text-to-image"] if "text-to-image" in card.tags else []
    lines += ["tags:", *(f"- {scalar(tag)}" for tag in card.tags), "---\n"]
    return "\n".join(lines)


def _score_table(card: Card) -> str:
    held_out = any(value is not None for row in card.scores for value in row.held_out)
    head = ["model"]
    for task in card.tasks:
        head += [f"{text(task)}, selection"]
        head += [f"{text(task)}, held out"] if held_out else []
    rows: list[tuple[str, ...]] = []
    for row in card.scores:
        name = text(row.name)
        cells = [name if row.member is None else f"**{name}** (member {row.member})"]
        for train, held in zip(row.train, row.held_out, strict=True):
            cells += [_score(train)] + ([_score(held)] if held_out else [])
        rows.append(tuple(cells))
    return table(tuple(head), rows) + (
        "\nMean scores in [0, 1]. Models were selected by their scores on the selection examples; "
        "the held-out examples never touched that.\n"
        if held_out
        else "\nMean scores in [0, 1] on the examples by which models were selected.\n"
    )


def _guard_table(guards: Sequence[CardGuard]) -> str:
    rows = [
        (
            text(guard.name),
            text(guard.seed),
            *(_score(x) for x in (guard.best, guard.bound, guard.score)),
        )
        for guard in guards
    ]
    made = table(("guard", "best seed", "its score", "at least", "this model"), rows)
    return (
        f"{made}\nMean scores in [0, 1]. Nobody competed for these tasks; a child that scored less "
        "than asked for was not admitted.\n"
    )


def _measure_table(measures: Sequence[CardMeasures]) -> str:
    names = list(dict.fromkeys(name for row in measures for name in row.values))
    rows = [
        (text(row.model), *(_score(row.values.get(name)) for name in names)) for row in measures
    ]
    made = table(("model", *map(text, names)), rows)
    return f"{made}\nNobody was selected by these.\n"


def _pictures(pictures: CardPictures) -> str:
    rows, prompts = (", ".join(map(text, names)) for names in (pictures.rows, pictures.prompts))
    return (
        f"![Pictures by {rows}]({PICTURES})\n\n"
        f"From top to bottom: {rows}. From left to right: {prompts}. Nobody was selected by these "
        "prompts, and all models begin each of them from the same noise.\n"
    )


def _genome_table(seeds: Sequence[CardSeed], genome: Genome, layout: Layout) -> str:
    if not isinstance(genome, Recipe):
        return "Mutation has added noise, so that no part of it is a combination of the seeds.\n"
    names = [text(seed.name) for seed in seeds]
    bounds = genome.bounds.tolist()
    if len(genome.coefs) <= _ROWS:
        rows = [
            (_place(start, layout), _place(stop, layout), *(f"{c:.6g}" for c in row))
            for (start, stop), row in zip(pairwise(bounds), genome.coefs.tolist(), strict=True)
        ]
        made = table(("from", "up to", *names), rows)
        return f"{made}\nEach stretch is the sum of the seeds, multiplied by these coefficients.\n"
    labels, edges = _layers(layout)
    shares = shares_between(genome, edges)
    if len(labels) > 4 * _ROWS:
        shares = shares_between(genome, np.linspace(0, genome.size, _ROWS + 1))
        labels = [f"{100 * i / _ROWS:.1f} % of the parameter axis" for i in range(_ROWS)]
    rows = [
        (text(label), *(f"{100 * share:.1f} %" for share in row))
        for label, row in zip(labels, shares.tolist(), strict=True)
    ]
    made = table(("layer", *names), rows)
    return (
        f"{made}\nShares of the seeds by the size of their coefficients; the recipe has "
        f"{len(genome.coefs)} segments.\n"
    )


def _layers(layout: Layout) -> tuple[list[str], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Neighbouring tensors of one layer joined: labels, and int64 edges, one more."""
    labels: list[str] = []
    edges: list[int] = []
    for slot in layout.slots:
        found = re.match(r"(?:[^.\d]+\.)*?\d+(?=\.)", slot.name)
        label = found[0] if found else slot.name.rsplit(".", 1)[0]
        if not labels or labels[-1] != label:
            labels.append(label)
            edges.append(slot.start)
    return labels, np.array([*edges, layout.axis.size], dtype=np.int64)


def _place(position: int, layout: Layout) -> str:
    """A position in words: the tensor, and how far into it."""
    if position == 0:
        return "the beginning"
    if position == layout.axis.size:
        return "the end"
    slot = next(slot for slot in layout.slots if position < slot.stop)
    if position == slot.start:
        return code(slot.name)
    return f"{code(slot.name)}, {100 * (position - slot.start) / (slot.stop - slot.start):.1f} %"


def _score(value: float | None) -> str:
    if value is None:
        return ""
    written = f"{value:.4f}"
    # What is not quite all or nothing is not told as that; see `messages.percent`.
    if written == "0.0000" and value > 1e-9:
        return "< 0.0001"
    return "> 0.9999" if written == "1.0000" and value < 1 - 1e-9 else written
