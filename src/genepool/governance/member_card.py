"""The card of a member of a pool: how it was bred, its scores, guards and ancestors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from genepool.checkpoints.family import Family
from genepool.governance.card import (
    Ancestor,
    Card,
    CardGuard,
    CardMeasures,
    CardSeed,
    Scores,
    rebuild_command,
)
from genepool.governance.markdown import code
from genepool.messages import agreeing, count
from genepool.pool.members import Ancestry, ancestry, known_means
from genepool.pool.reader import Pool
from genepool.pool.records import measure_names

_ANCESTORS = 15


def member_card(
    pool: Pool,
    number: int,
    seeds: tuple[CardSeed, ...],
    family: Family,
    *,
    recipe: bool,
) -> Card:
    """The card of a member.

    Args:
        pool: where it lives.
        number: its id.
        seeds: of the pool.
        family: the seeds, opened.
        recipe: whether `genepool.json` is enough to make the model again.
    """
    strategy = str(pool.meta()["pins"]["strategy"].get("name", ""))
    origin = ancestry(pool, number)
    tasks = pool.tasks()
    names = {k: seed.name for k, seed in enumerate(seeds)}
    bred = (
        f"a population evolved with the strategy {code(strategy)} over "
        f"{count(pool.evaluations, 'evaluation')} on {', '.join(code(task.name) for task in tasks)}"
    )
    if number in names:
        how = f"The seed {code(names[number])} as it is, out of {bred}: nothing was merged."
        if number == pool.champion():
            how += " No child that was accepted has beaten it on the selection examples."
    else:
        how = (
            f"A merge of {count(len(seeds), 'model')}, bred by genepool: member {number} of "
            f"{bred}. No gradient was computed: models were merged, scored example by example, "
            "and selected."
        )
    others = {k: name for k, name in names.items() if k != number}
    *scores, this = _scores(pool, {**others, number: names.get(number, "this model")})
    behind, merges = origin.ancestors, origin.generation
    text = (
        f"{count(behind, 'model')} {agreeing(behind, 'stands', 'stand')} behind it, the seeds "
        f"included, and {count(merges, 'merge')} {agreeing(merges, 'lies', 'lie')} on the longest "
        "way back to a seed."
        if origin.generation
        else "It is a seed itself."
    )
    listed = _ancestors(pool, origin, names)
    if listed and pool.header.subsets is not None:
        text += (
            " Children were scored on subsets of the examples, so that selection scores below can "
            "be means of different examples."
        )
    if len(listed) == _ANCESTORS:
        text += f" The {_ANCESTORS} youngest merges on the way:"
    return Card(
        title="",
        seeds=seeds,
        how=how,
        tags=(*(() if number in names else ("merge",)), "genepool", strategy or "evolution"),
        notices=family.notices,
        tasks=tuple(task.name for task in tasks),
        scores=(*scores, replace(this, member=number)),
        guards=_guards(pool, number),
        measures=_measures(pool, {**others, number: names.get(number, "this model")}),
        ancestors=tuple(listed),
        ancestry=text,
        rebuild=rebuild_command(seeds) if recipe else "",
    )


def _scores(pool: Pool, titles: Mapping[int, str]) -> tuple[Scores, ...]:
    """Rows of the table of scores, for members with what they are called there."""
    records, measured = pool.chosen(titles), pool.held_out_of(titles)
    return tuple(
        Scores(
            title,
            tuple(known_means(pool, records[member].scores)),
            tuple(known_means(pool, measured.get(member), held_out=True)),
        )
        for member, title in titles.items()
    )


def _measures(pool: Pool, titles: Mapping[int, str]) -> tuple[CardMeasures, ...]:
    measured = {member: found for member, found in pool.measures().items() if member in titles}
    names = measure_names((one.task, one.name) for found in measured.values() for one in found)
    return tuple(
        CardMeasures(title, {names[one.task, one.name]: one.value for one in measured[member]})
        for member, title in titles.items()
        if member in measured
    )


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


def _ancestors(pool: Pool, origin: Ancestry, names: Mapping[int, str]) -> list[Ancestor]:
    """The youngest merges behind a member, itself first."""
    merges = [member for member in reversed(origin.members) if member not in names]
    return [
        Ancestor(
            str(record.id),
            tuple(names.get(parent, str(parent)) for parent in record.parents),
            _plan(record.plan, pool.header.axis_size),
            record.train,
        )
        for record in pool.chosen(merges[:_ANCESTORS]).values()
    ]


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
