"""The model card of a merged model: README.md with the front matter that the hub reads."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from genepool.checkpoints.family import Source
from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.layout import Layout
from genepool.core.genome import Genome, Recipe
from genepool.governance.licences import common_licence, hub_id, licence_of
from genepool.pool.members import shares_between

_ROWS = 40


@dataclass(frozen=True, slots=True)
class CardSeed:
    """A seed as the card shows it: `licence` as declared, `hub` its id on the hub, if known."""

    name: str
    digest: str
    licence: str | None
    hub: str | None


@dataclass(frozen=True, slots=True)
class Scores:
    """A row of the table of scores: mean per task on training and held-out examples, in [0, 1];
    None where it was not measured."""

    name: str
    train: tuple[float | None, ...]
    held_out: tuple[float | None, ...]


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
        ancestors: the nearest merges, the youngest first.
        ancestry: a sentence about all of them; "" leaves the section out.
        notices: remarks of one line each, such as differences between the seeds' companions.
        rebuild: the command, or "" where it cannot be rebuilt from a recipe.
    """

    title: str
    seeds: tuple[CardSeed, ...]
    how: str
    tags: tuple[str, ...]
    library: str
    tasks: tuple[str, ...] = ()
    scores: tuple[Scores, ...] = ()
    guards: tuple[CardGuard, ...] = ()
    ancestors: tuple[Ancestor, ...] = ()
    ancestry: str = ""
    notices: tuple[str, ...] = ()
    rebuild: str = ""


def card_seed(name: str, source: Source, checkpoint: Checkpoint, licence: str = "") -> CardSeed:
    """A seed for the card: its licence as given, else as its directory declares it."""
    place = Path(source.path)
    if not place.exists():
        place = checkpoint.directory or checkpoint.path
    declared = licence.lower() or licence_of(place)
    return CardSeed(name, checkpoint.digest(), declared, hub_id(source.path))


def rebuild_command(seeds: Sequence[CardSeed]) -> str:
    """How the card says that the model is made again."""
    given = " ".join(f"{seed.name}=PATH" for seed in seeds)
    return f"genepool rebuild genepool.json --seeds {given} -o DIR"


def render(card: Card, genome: Genome | None, layout: Layout) -> bytes:
    """The card as UTF-8 Markdown; equal input gives equal bytes.

    Args:
        card: what it tells.
        genome: of the model, for a table of what comes from where; None where it has none.
        layout: of the seeds.
    """
    licence = common_licence([seed.licence for seed in card.seeds])
    parts = [
        _front_matter(card, licence),
        f"# {_plain(card.title)}\n",
        f"{card.how}\n",
        "## Seeds\n",
        _table(
            ("seed", "licence", "digest of its tensors (SHA-256)"),
            [
                (seed.hub or seed.name, seed.licence or "not declared", f"`{seed.digest}`")
                for seed in card.seeds
            ],
        ),
    ]
    if licence == "other":
        parts.append(
            "The seeds do not all declare one and the same licence: what may be done with this "
            "model follows from all of those above.\n"
        )
    if card.scores:
        parts += ["## Scores\n", _score_table(card)]
    if card.guards:
        parts += ["## Guards\n", _guard_table(card.guards)]
    if genome is not None:
        parts += ["## What comes from where\n", _genome_table(card.seeds, genome, layout)]
    if card.ancestry:
        parts += ["## Ancestry\n", f"{card.ancestry}\n"]
        if card.ancestors:
            rows = [(a.name, ", ".join(a.parents), a.plan, _score(a.train)) for a in card.ancestors]
            parts.append(_table(("member", "parents", "merge", "training score"), rows))
    if card.notices:
        parts += ["## Notices\n", "\n".join(f"- {_plain(text)}" for text in card.notices) + "\n"]
    if card.rebuild:
        parts += [
            "## Making it again\n",
            "`genepool.json` holds the recipe; the weights' metadata hold it too. From the same "
            "seeds it gives the same tensors, bit for bit:\n",
            f"```sh\n{card.rebuild}\n```\n",
        ]
    return "\n".join(parts).encode()


def _front_matter(card: Card, licence: str) -> str:
    # JSON strings are YAML strings, whatever stands in a name.
    lines = ["---", "base_model:"]
    names = dict.fromkeys(seed.hub or seed.name for seed in card.seeds)
    lines += [f"- {json.dumps(name, ensure_ascii=False)}" for name in names]
    lines += ["base_model_relation: merge", f"license: {json.dumps(licence, ensure_ascii=False)}"]
    if card.library:
        lines.append(f"library_name: {card.library}")
    lines += ["tags:", *(f"- {tag}" for tag in card.tags), "---\n"]
    return "\n".join(lines)


def _score_table(card: Card) -> str:
    held_out = any(value is not None for row in card.scores for value in row.held_out)
    head = ["model"]
    for task in card.tasks:
        head += [f"{task}, training"] + ([f"{task}, held out"] if held_out else [])
    rows: list[tuple[str, ...]] = []
    for row in card.scores:
        cells = [row.name]
        for train, held in zip(row.train, row.held_out, strict=True):
            cells += [_score(train)] + ([_score(held)] if held_out else [])
        rows.append(tuple(cells))
    text = _table(tuple(head), rows)
    return text + (
        "\nMean scores in [0, 1]. Selection saw the training examples; the held-out examples never "
        "touched it.\n"
        if held_out
        else "\nMean scores in [0, 1] on the examples that selection saw.\n"
    )


def _guard_table(guards: Sequence[CardGuard]) -> str:
    rows = [
        (guard.name, guard.seed, *(_score(x) for x in (guard.best, guard.bound, guard.score)))
        for guard in guards
    ]
    text = _table(("guard", "best seed", "its score", "at least", "this model"), rows)
    return (
        f"{text}\nMean scores in [0, 1]. Nobody competed for these tasks; a child that scored less "
        "than asked for was not admitted.\n"
    )


def _genome_table(seeds: Sequence[CardSeed], genome: Genome, layout: Layout) -> str:
    if not isinstance(genome, Recipe):
        return "Mutation has added noise, so that no part of it is a combination of the seeds.\n"
    names = [seed.name for seed in seeds]
    bounds = genome.bounds.tolist()
    if len(genome.coefs) <= _ROWS:
        rows = [
            (_place(start, layout), _place(stop, layout), *(f"{c:.6g}" for c in row))
            for (start, stop), row in zip(pairwise(bounds), genome.coefs.tolist(), strict=True)
        ]
        text = _table(("from", "up to", *names), rows)
        return f"{text}\nEach stretch is the sum of the seeds, multiplied by these coefficients.\n"
    labels, edges = _layers(layout)
    shares = shares_between(genome, edges)
    if len(labels) > 4 * _ROWS:
        shares = shares_between(genome, np.linspace(0, genome.size, _ROWS + 1))
        labels = [f"{100 * i / _ROWS:.1f} % of the axis" for i in range(_ROWS)]
    rows = [
        (label, *(f"{100 * share:.1f} %" for share in row))
        for label, row in zip(labels, shares.tolist(), strict=True)
    ]
    text = _table(("layer", *names), rows)
    return (
        f"{text}\nShares of the seeds by the size of their coefficients; the recipe has "
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
        return f"`{slot.name}`"
    return f"`{slot.name}`, {100 * (position - slot.start) / (slot.stop - slot.start):.1f} %"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines) + (
        "\n"
    )


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """One line that no name can turn into markup."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return plain.replace("<", "&lt;")


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
