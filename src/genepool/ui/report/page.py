"""The page of a report, from its document and the scores; pure. The templates hold the HTML."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from genepool.messages import count, measured, percent
from genepool.pool.records import Picture, Transcript, measure_names
from genepool.pool.score_matrix import ScoreMatrix, in_columns
from genepool.pool.summary import unbeaten
from genepool.ui.report.gallery import episodes, galleries
from genepool.ui.report.graphics import COLOURS, Chart, Line, chart, strip, stripes
from genepool.ui.terminal.console import number, plain

# Members of the archive whose scores are drawn, and pixels along their examples.
_ROWS, _COLUMNS = 60, 1000
# Seeds that get a line of their own in a chart, and a number of their own in a table.
_SEED_LINES = 4
# Layers that are shown.
_LAYERS = 160

_SECTIONS = (
    ("result", "Result"),
    ("pictures", "What they draw"),
    ("episodes", "What they do"),
    ("course", "How it went"),
    ("solved", "Who solves what"),
    ("genome", "What it is made of"),
    ("family", "Family"),
    ("run", "The run"),
)
_TEMPLATES = Path(__file__).with_name("templates")


def page(
    facts: dict[str, Any],
    scores: ScoreMatrix,
    pictures: Sequence[Picture] = (),
    transcripts: Sequence[Transcript] = (),
) -> str:
    """The whole page.

    Args:
        facts: of `report.facts`.
        scores: of the same pool.
        pictures: of the same pool.
        transcripts: of the same pool.
    """
    shown = {"pictures": bool(pictures), "episodes": bool(transcripts)}
    champion, who, config = facts["champion"], partial(_who, facts), facts["config"]
    unused = None if config.get("executor") == "ray" else "ray"
    best = None if champion is None else champion["member"]
    shares: list[float] = []
    if champion is not None and facts["genomes"]["champion"] is not None:
        shares = list(champion["genome"]["shares"].values())
    return (
        _environment()
        .get_template("report.html")
        .render(
            facts=facts,
            style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
            sections=[each for each in _SECTIONS if shown.get(each[0], True)],
            episodes=episodes(transcripts, best, who),
            galleries=galleries(pictures, best, who),
            measures=_measures(facts),
            lede=_lede(facts),
            key_numbers=_key_numbers(facts),
            held_out=any(task["held_out"] for task in facts["tasks"]),
            result=_result(facts),
            charts=_charts(facts),
            solved=_solved(facts, scores),
            columns=_SEED_LINES,
            champion_shares=shares,
            champion_stripes=stripes(facts["genomes"]["champion"]) if shares else None,
            champion_said="Genome of the champion along the parameter axis: "
            + ", ".join(
                f"{seed['name']} {percent(share)}"
                for seed, share in zip(facts["seeds"], shares, strict=False)
            ),
            layers=_layers(facts),
            archive=_archive(facts),
            who=who,
            counts=_counts(facts["status"]),
            settings=[*_flat({key: value for key, value in config.items() if key != unused})],
            download=_download(facts),
        )
    )


@cache
def _environment() -> Environment:
    """Templates in which every value is escaped, and its control characters are shown."""
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    filters: list[Callable[..., Any]] = [
        *(percent, number, count, colour, width, largest, how, took, in_lines)
    ]
    vars(made)["filters"].update({each.__name__: each for each in filters})
    return made


def _visible(value: object) -> object:
    """A value as it is printed: control characters in text are shown; markup is ours."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


# What the templates call


def in_lines(text: str) -> Markup:
    """A text of several lines, each as it is printed."""
    return Markup("\n").join(plain(line) for line in text.splitlines())


def colour(seed: int) -> str:
    """The classes that paint in the colour of a seed; after seven seeds these come again, pale."""
    again, place = divmod(seed, len(COLOURS))
    return f"s{place} again" if again % 2 else f"s{place}"


def width(value: float | None) -> str:
    """A share as a width in per cent."""
    return f"{0.0 if value is None else 100 * min(max(value, 0.0), 1.0):.2f}"


def largest(shares: Sequence[float]) -> int:
    """The position of the largest share."""
    return int(np.argmax(shares))


def took(node: dict[str, Any], parent: int) -> float | None:
    """The share that a merge took of a parent, where it is known."""
    entries: Sequence[dict[str, Any]] = node.get("took") or ()
    return next((entry["share"] for entry in entries if entry["member"] == parent), None)


def how(node: dict[str, Any]) -> str:
    """How a merge was made, in a few words."""
    parts: list[str] = []
    pieces: list[float] | None = node["pieces"]
    if len(node["parents"]) > 1:
        if pieces is None:
            parts.append("weights drawn by the strategy")
        elif not pieces:
            parts.append("one ratio for the whole parameter axis")
        else:
            more = " and further" if len(pieces) > 3 else ""
            split = ", ".join(percent(piece) for piece in pieces[:3])
            parts.append(f"split at {split}{more} of the parameter axis")
    if node["mutation"]:
        parts.append(f"mutation {node['mutation']:.3g}")
    return ", ".join(parts) or "a copy"


def _who(facts: dict[str, Any], member: int) -> dict[str, Any]:
    """A member as it is called everywhere: by its number, or a seed by its name and colour."""
    champion = facts["champion"] is not None and facts["champion"]["member"] == member
    if member < len(facts["seeds"]):
        name, seed = facts["seeds"][member]["name"], member
    else:
        name, seed = f"member {member}", None
    return {"name": name, "seed": seed, "champion": champion}


def _lede(facts: dict[str, Any]) -> str:
    champion = facts["champion"]
    if champion is None:
        return "The seeds have been scored; there is no champion yet."
    key, kind = "held_out", "held-out"
    if champion[key] is None or _best_seed(facts, key) is None:
        key, kind = "train", "selection"
    best = _best_seed(facts, key)
    seeds = count(len(facts["seeds"]), "seed")
    if (told := unbeaten(facts["status"])) is not None:
        return f"{told[0].upper()}{told[1:]}."
    said = f"Bred from {seeds}, the champion reaches {percent(champion[key])} on {kind} examples"
    if best is None:
        return f"{said}."
    return f"{said}; the best seed, {best['name']}, reaches {percent(best[key])}."


def _best_seed(facts: dict[str, Any], key: str) -> dict[str, Any] | None:
    seeds = [m for m in facts["models"] if m["kind"] == "seed" and m[key] is not None]
    return max(seeds, key=lambda model: float(model[key]), default=None)


def _key_numbers(facts: dict[str, Any]) -> list[tuple[str, str, str]]:
    status, champion = facts["status"], facts["champion"]
    entries: list[tuple[str, str, str]] = []
    for key, name in (("held_out", "held-out"), ("train", "selection")):
        best = _best_seed(facts, key)
        if champion is not None and champion[key] is not None:
            gain = ""
            if best is not None:
                points = 100 * (champion[key] - best[key])
                sign = "+" if points >= 0 else "−"
                gain = f"{sign}{abs(points):.1f} points on the best seed"
            entries.append((f"champion, {name}", percent(champion[key]), gain))
    verdicts = f"{number(status['accepted'])} accepted into the archive"
    entries.append(("children scored", number(status["evaluations"]), verdicts))
    asked, total = status["examples_evaluated"], status["examples_total"]
    if total:
        details = f"{number(asked)} asked of {number(total)}"
        entries.append(("examples saved", percent(1 - asked / total), details))
    return entries


def _result(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Champion and seeds, over all tasks and task by task."""
    tasks = facts["tasks"]
    examples = sum(task["examples"] for task in tasks)
    held_out = sum(task["held_out"] for task in tasks)
    keys = ("train", "held_out") if held_out else ("train",)

    def group(title: str, task: int | None) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        for model in sorted(facts["models"], key=lambda model: model["kind"] == "seed"):
            if model["kind"] == "champion" and facts["champion"]["step"] == 0:
                continue  # It stands among the seeds.
            values = model if task is None else model["tasks"][task]
            who = _who(facts, model["member"])
            style = "ink" if who["seed"] is None else colour(who["seed"])
            scores = [values[key] for key in keys]
            rows.append({"kind": model["kind"], "who": who, "style": style, "scores": scores})
        return {"title": title, "rows": rows}

    groups: list[dict[str, Any]] = []
    if len(tasks) > 1:
        groups.append(group(f"all tasks, by weight ({_sizes(examples, held_out)})", None))
    for index, task in enumerate(tasks):
        title = f"{task['name']} ({_sizes(task['examples'], task['held_out'])})"
        groups.append(group(title, index))
    return groups


def _measures(facts: dict[str, Any]) -> dict[str, Any]:
    """What was measured of champion and seeds, and nobody competed for."""
    rows: dict[int, dict[tuple[str, str], float]] = {}
    for model in sorted(facts["models"], key=lambda model: model["kind"] == "seed"):
        if found := model["measures"]:
            rows[model["member"]] = {(each["task"], each["name"]): each["value"] for each in found}
    names = measure_names(key for row in rows.values() for key in row)
    columns = [measured([row.get(name) for row in rows.values()]) for name in names]
    return {
        "heads": ["model", *(f"#{name}" for name in names.values())],
        "rows": [
            {"who": _who(facts, member), "values": values}
            for member, *values in zip(rows, *columns, strict=True)
        ],
    }


def _sizes(examples: int, held_out: int) -> str:
    more = f", {number(held_out)} held out" if held_out else ""
    return f"{number(examples)} for selection{more}"


def _charts(facts: dict[str, Any]) -> tuple[Chart, Chart]:
    past = facts["history"]
    subsets = facts["status"]["rounds"] is not None
    label = "best of the archive, on its subset of the examples; at the end the champion, on all"
    lines = [Line(label if subsets else "champion, selection", past["train"], "best")]
    if any(value is not None for value in past["held_out"]):
        lines.append(Line("champion, held-out", past["held_out"], "held"))
    seeds = [model for model in facts["models"] if model["kind"] == "seed"]
    for model in seeds[:_SEED_LINES]:
        label = f"{model['name']}, selection"
        lines.append(Line(label, [model["train"]], f"level {colour(model['member'])}"))
    diversity = [
        Line("coverage: share of examples that some member solves", past["coverage"], "coverage"),
        Line("entropy in bits: 1 if half of all solve each", past["entropy"], "entropy"),
    ]
    at = past["evaluations"]
    return (
        chart("Score of the champion", at, lines, percent=True),
        chart("Diversity of the archive", at, diversity, percent=False),
    )


def _solved(facts: dict[str, Any], scores: ScoreMatrix) -> dict[str, Any]:
    trains = {entry["member"]: entry["train"] for entry in facts["status"]["archive"]}
    edges: list[int] = scores.edges.tolist()

    def row(member: int, values: np.ndarray[Any, Any], score: float | None) -> dict[str, Any]:
        pictures: list[Any] = []
        for task, start, stop in zip(facts["tasks"], edges[:-1], edges[1:], strict=True):
            part = values[start:stop]
            if not part.size:
                continue
            if task["binary"]:
                said = f"solves {number(int(part.sum()))} of {number(part.size)}"
            else:
                said = f"mean score {float(part.mean()):.2f} on {number(part.size)}"
            pixels = in_columns(part[None], max(1, round(_COLUMNS * part.size / edges[-1])))[0]
            pictures.append(strip(pixels, part.size, f"{task['name']}: {said}"))
        return {"who": _who(facts, member), "score": score, "pictures": pictures}

    seeds = [
        row(index, values, seed["train"])
        for index, (seed, values) in enumerate(
            zip(facts["status"]["seeds"], scores.seeds, strict=False)
        )
    ]
    archive = [
        row(member, values, trains.get(member))
        for member, values in zip(scores.members[:_ROWS], scores.archive, strict=False)
    ]
    return {
        "total": edges[-1],
        "tasks": [
            {"name": task["name"], "examples": stop - start}
            for task, start, stop in zip(facts["tasks"], edges[:-1], edges[1:], strict=True)
            if stop > start
        ],
        "groups": [
            {"title": "seeds", "rows": seeds},
            {"title": "archive, best first", "rows": archive},
        ],
        "left_out": len(scores.members) if len(scores.members) > _ROWS else 0,
    }


def _layers(facts: dict[str, Any]) -> dict[str, Any]:
    """One row per layer, and a column for each of its parts that there is in any of them."""
    entries: list[dict[str, Any]] = facts["genomes"]["layers"]
    order = ("attention", "MLP", "embeddings", "other")
    parts = [part for part in order if any(entry["part"] == part for entry in entries)]
    rows: dict[str, dict[str, Any]] = {}
    for entry in entries:
        empty = {"name": entry["name"], "weights": 0, "parts": [None] * len(parts)}
        row = rows.setdefault(entry["name"], empty)
        row["weights"] += entry["weights"]
        row["parts"][parts.index(entry["part"])] = entry["value"]
    dense = facts["genomes"]["champion"] is None
    values = [entry["value"] for entry in entries] if dense else []
    whole = parts == ["other"]
    heads = ["mean |weight|" if dense else "shares of the seeds"] if whole else parts
    shown = list(rows.values())[:_LAYERS]
    return {
        "heads": [f"#{head}" for head in heads] if dense else heads,
        "rows": shown,
        "some": "" if len(shown) == len(rows) else f" (the first {len(shown)} of {len(rows)})",
        "top": max(values, default=0.0) or 1.0,
    }


def _archive(facts: dict[str, Any]) -> dict[str, Any]:
    rows = [
        {
            "who": _who(facts, entry["member"]),
            "segments": entry["segments"],
            "shares": entry["shares"],
            "stripes": stripes(entry["stripes"]),
        }
        for entry in facts["genomes"]["members"]
    ]
    total, shown = len(facts["status"]["archive"]), len(rows)
    return {
        "rows": rows,
        "some": "" if shown == total else f" (the best {shown} of {number(total)})",
    }


def _counts(status: dict[str, Any]) -> list[tuple[str, str]]:
    asked, total = status["examples_evaluated"], status["examples_total"]
    counts = [
        ("children scored", number(status["evaluations"])),
        ("budget", number(status["budget"])),
        ("accepted into the archive", number(status["accepted"])),
        ("stopped early, rejection being certain", number(status["stopped"])),
        ("broke a guard", number(status["guarded"])),
        ("failed", number(status["failed"])),
        ("members of the archive", number(len(status["archive"]))),
        ("examples asked of the children", number(asked)),
        ("examples, had all been asked", number(total)),
        ("examples saved", percent(1 - asked / total) if total else "–"),
    ]
    if (subsets := status["rounds"]) is not None:
        counts += [
            ("subsets of the examples so far", number(subsets["number"] + 1)),
            ("children per subset", number(subsets["renew"])),
            ("examples in a subset", number(subsets["examples"])),
            ("finalists, scored on all examples", number(len(subsets["finalists"]))),
        ]
    return counts


def _flat(value: Any, key: str = "") -> Iterable[tuple[str, str]]:
    """Nested settings as dotted keys, without those that are not set."""
    if isinstance(value, dict):
        for name, inside in cast("dict[str, Any]", value).items():
            yield from _flat(inside, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for index, inside in enumerate(cast("list[Any]", value)):
            yield from _flat(inside, f"{key}[{index}]")
    elif value not in (None, ""):
        yield key, value if isinstance(value, str) else json.dumps(value)


def _download(facts: dict[str, Any]) -> dict[str, str]:
    body = json.dumps(facts, allow_nan=False, separators=(",", ":")).encode("utf-8")
    return {
        "data": base64.b64encode(body).decode("ascii"),
        "kilobytes": number(len(body) / 1000),
    }
