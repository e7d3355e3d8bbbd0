"""The page of a report, made from its document and the scores; pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np

from genepool.pool.score_matrix import Solved, in_columns
from genepool.ui.report.genomes import made_of
from genepool.ui.report.graphics import Line, bar, chart, colour, strip, text
from genepool.ui.report.parts import pairs, swatch, table
from genepool.ui.terminal.console import count, number, percent

# Members of the archive whose scores are drawn, and pixels along their examples.
_ROWS, _COLUMNS = 60, 1000
# Seeds that get a line of their own in a chart.
_SEED_LINES = 4

_SECTIONS = (
    ("result", "Result"),
    ("course", "How it went"),
    ("solved", "Who solves what"),
    ("genome", "What it is made of"),
    ("family", "Family"),
    ("run", "The run"),
)


def page(facts: dict[str, Any], scores: Solved) -> str:
    """The whole page.

    Args:
        facts: of `report.facts`.
        scores: of the same pool.
    """
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    bodies = (
        _result(facts),
        _course(facts),
        _solved(facts, scores),
        made_of(facts),
        _family(facts),
        _run(facts),
    )
    links = "".join(f'<li><a href="#{key}">{name}</a></li>' for key, name in _SECTIONS)
    sections = "\n".join(
        f'<section id="{key}" aria-labelledby="{key}-title">'
        f'<h2 id="{key}-title">{name}</h2>\n{body}</section>'
        for (key, name), body in zip(_SECTIONS, bodies, strict=True)
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="genepool {text(facts["environment"]["genepool"])}">
<title>{text(facts["name"])} – genepool report</title>
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the result</a>
<header>
<p class="kicker">genepool report</p>
<h1>{text(facts["name"])}</h1>
<p class="lede">{_lede(facts)}</p>
{_key_numbers(facts)}
</header>
<nav aria-label="Contents"><ul>{links}</ul></nav>
<main id="main">
{sections}
</main>
<footer><p>Made by genepool {text(facts["environment"]["genepool"])} on
<time datetime="{text(facts["made"])}">{text(facts["made"][:10])}</time> from
<span class="path">{text(facts["status"]["pool"])}</span>.</p>
{_download(facts)}
</footer>
</body>
</html>
"""


def _lede(facts: dict[str, Any]) -> str:
    champion = facts["champion"]
    if champion is None:
        return "The seeds have been scored; there is no champion yet."
    key, kind = "held_out", "held-out"
    if champion[key] is None or _best_seed(facts, key) is None:
        key, kind = "train", "training"
    best = _best_seed(facts, key)
    seeds = count(len(facts["seeds"]), "seed")
    if champion["step"] == 0:
        return f"No child of the {seeds} has beaten the best of them yet, {text(champion['name'])}."
    said = f"Bred from {seeds}, the champion reaches {percent(champion[key])} on {kind} examples"
    if best is None:
        return f"{said}."
    return f"{said}; the best seed, {text(best['name'])}, reaches {percent(best[key])}."


def _best_seed(facts: dict[str, Any], key: str) -> dict[str, Any] | None:
    seeds = [m for m in facts["models"] if m["kind"] == "seed" and m[key] is not None]
    return max(seeds, key=lambda model: float(model[key]), default=None)


def _key_numbers(facts: dict[str, Any]) -> str:
    status, champion = facts["status"], facts["champion"]
    entries: list[tuple[str, str, str]] = []
    for key, name in (("held_out", "held-out"), ("train", "training")):
        best = _best_seed(facts, key)
        if champion is not None and champion[key] is not None:
            gain = "" if best is None else _gain(champion[key] - best[key])
            entries.append((f"champion, {name}", percent(champion[key]), gain))
    verdicts = f"{number(status['accepted'])} accepted into the archive"
    entries.append(("children scored", number(status["evaluations"]), verdicts))
    asked, total = status["examples_evaluated"], status["examples_total"]
    if total:
        details = f"{number(asked)} asked of {number(total)}"
        entries.append(("evaluations saved", percent(1 - asked / total), details))
    boxes = "".join(
        f'<div><dt>{name}</dt><dd class="big">{value}</dd><dd>{more}</dd></div>'
        for name, value, more in entries
    )
    return f'<dl class="key">{boxes}</dl>'


def _gain(points: float) -> str:
    sign = "+" if points >= 0 else "−"
    return f"{sign}{100 * abs(points):.1f} points on the best seed"


# Tables


def _label(facts: dict[str, Any], model: dict[str, Any]) -> str:
    if model["kind"] == "champion":
        return f"<b>champion</b> <small>member {model['member']}</small>"
    return swatch(facts, model["member"])


# Result


def _result(facts: dict[str, Any]) -> str:
    tasks = facts["tasks"]
    examples = sum(task["examples"] for task in tasks)
    held_out = sum(task["held_out"] for task in tasks)
    groups: list[str] = []
    if len(tasks) > 1:
        title = f"all tasks, by weight ({_sizes(examples, held_out)})"
        groups.append(_group(facts, title, None, held_out > 0))
    for index, task in enumerate(tasks):
        title = f"{text(task['name'])} ({_sizes(task['examples'], task['held_out'])})"
        groups.append(_group(facts, title, index, held_out > 0))
    columns = ["model", "#training"]
    note = "Selection has seen the training examples only; the held-out ones are the fair test."
    if held_out:
        columns.append("#held-out")
    else:
        note = "No examples were held out: these are the ones that selection has seen."
    caption = "Mean score of champion and seeds"
    return f"<p>{note}</p>" + table(caption, columns, "".join(groups), "models") + _guards(facts)


def _guards(facts: dict[str, Any]) -> str:
    """What must not be lost; nothing if there are no guards."""
    guards = facts["status"]["guards"]
    if not guards:
        return ""
    rows: list[str] = []
    for guard in guards:
        best: dict[str, Any] = guard["best_seed"] or {"name": "–", "score": None}
        scores = (best["score"], guard["tolerance"], guard["bound"], guard["champion"])
        cells = "".join(f'<td class="n">{percent(score)}</td>' for score in scores)
        rows.append(
            f'<tr><th scope="row">{text(guard["name"])}</th><td>{text(best["name"])}</td>{cells}'
            f'<td class="n">{number(guard["checked"])}</td>'
            f'<td class="n">{number(guard["broken"])}</td></tr>'
        )
    columns = ("guard", "best seed", "#its score", "#tolerance", "#at least", "#champion")
    columns += ("#children asked", "#broke it")
    return (
        "<p>Guards are tasks that nobody competes for. A child that would be accepted is turned "
        "away if it falls below the best seed by more than the tolerance.</p>"
    ) + table("Guards", columns, f"<tbody>{''.join(rows)}</tbody>")


def _sizes(examples: int, held_out: int) -> str:
    more = f", {number(held_out)} held out" if held_out else ""
    return f"{number(examples)} training{more}"


def _group(facts: dict[str, Any], title: str, task: int | None, held_out: bool) -> str:
    rows: list[str] = []
    for model in sorted(facts["models"], key=lambda model: model["kind"] == "seed"):
        values = model if task is None else model["tasks"][task]
        style = "champion" if model["kind"] == "champion" else colour(model["member"])
        keys = ("train", "held_out") if held_out else ("train",)
        cells = "".join(
            f'<td class="n">{bar(values[key], style)}<span>{percent(values[key])}</span></td>'
            for key in keys
        )
        rows.append(f'<tr class="{model["kind"]}"><th scope="row">{_label(facts, model)}</th>')
        rows.append(f"{cells}</tr>")
    span = 3 if held_out else 2
    head = f'<tr class="group"><th scope="rowgroup" colspan="{span}">{title}</th></tr>'
    return f"<tbody>{head}{''.join(rows)}</tbody>"


# How it went


def _course(facts: dict[str, Any]) -> str:
    past = facts["history"]
    lines = [Line("champion, training", past["train"], "train")]
    if any(value is not None for value in past["held_out"]):
        lines.append(Line("champion, held-out", past["held_out"], "held"))
    seeds = [model for model in facts["models"] if model["kind"] == "seed"]
    for model in seeds[:_SEED_LINES]:
        label = f"seed {model['name']}, training"
        lines.append(Line(label, [model["train"]], f"level {colour(model['member'])}"))
    best = chart("Score of the champion", past["evaluations"], lines, percent=True)
    diversity = chart(
        "Diversity of the archive",
        past["evaluations"],
        [
            Line("coverage: share of examples that some member solves", past["coverage"], "train"),
            Line("entropy in bits: 1 if half of all solve each", past["entropy"], "held"),
        ],
        percent=False,
    )
    return f'<div class="charts">{best}{diversity}</div>'


# Who solves what


def _solved(facts: dict[str, Any], scores: Solved) -> str:
    tasks = facts["tasks"]
    trains = {entry["member"]: entry["train"] for entry in facts["status"]["archive"]}
    seeds = [
        _scores_row(swatch(facts, index), facts, scores, row, seed["train"])
        for index, (seed, row) in enumerate(
            zip(facts["status"]["seeds"], scores.seeds, strict=False)
        )
    ]
    champion = None if facts["champion"] is None else facts["champion"]["member"]
    names = [seed["name"] for seed in facts["seeds"]]
    archive: list[str] = []
    for member, row in zip(scores.members[:_ROWS], scores.archive, strict=False):
        label = str(member) if member >= len(names) else text(names[member])
        if member == champion:
            label += " <b>champion</b>"
        archive.append(_scores_row(label, facts, scores, row, trains.get(member)))
    body = f"<tbody>{_head('seeds', 3)}{''.join(seeds)}</tbody>"
    body += f"<tbody>{_head('archive, best first', 3)}{''.join(archive)}</tbody>"
    total = number(int(scores.edges[-1]))
    note = (
        f"Each row is a model and each column one of the {total} training examples, blue where the "
        "model solves it. They are ordered by which seeds solve them, then by how many members do."
    )
    if len(tasks) > 1:
        note += f" Gaps part the tasks: {', '.join(text(task['name']) for task in tasks)}."
    if len(scores.members) > _ROWS:
        note += f" The best {_ROWS} of {number(len(scores.members))} members are shown."
    columns = ("member", "#training", "examples")
    return f"<p>{note}</p>" + table("Scores by example", columns, body, "strips")


def _head(title: str, span: int) -> str:
    return f'<tr class="group"><th scope="rowgroup" colspan="{span}">{title}</th></tr>'


def _scores_row(
    label: str,
    facts: dict[str, Any],
    scores: Solved,
    row: np.ndarray[Any, np.dtype[np.float32]],
    train: float | None,
) -> str:
    edges = scores.edges.tolist()
    pictures: list[str] = []
    for task, start, stop in zip(facts["tasks"], edges[:-1], edges[1:], strict=True):
        part = row[start:stop]
        if not part.size:
            continue
        if task["binary"]:
            said = f"solves {number(int(part.sum()))} of {number(part.size)}"
        else:
            said = f"mean score {float(part.mean()):.2f} on {number(part.size)}"
        columns = max(1, round(_COLUMNS * part.size / edges[-1]))
        picture = strip(in_columns(part[None], columns)[0], f"{task['name']}: {said}")
        pictures.append(f'<span style="flex-grow:{part.size}">{picture}</span>')
    return (
        f'<tr><th scope="row">{label}</th><td class="n">{percent(train)}</td>'
        f'<td><div class="strip">{"".join(pictures)}</div></td></tr>'
    )


# Family


def _family(facts: dict[str, Any]) -> str:
    champion = facts["champion"]
    if champion is None:
        return "<p>There is no champion yet.</p>"
    if champion["step"] == 0:
        return f"<p>The champion is a seed: {text(champion['name'])}.</p>"
    behind = (
        f"{count(champion['generation'], 'generation')} and "
        f"{count(champion['ancestors'], 'ancestor')}"
    )
    return (
        f"<p>{behind} stand behind the champion. Here are the last few merges, with what each took "
        "from whom.</p>"
        f'<ul class="tree">{_node(facts["tree"], None)}</ul>'
    )


def _node(node: dict[str, Any], took: float | None) -> str:
    name = f"member {node['member']}"
    if node["name"] is not None:
        name = f"seed {text(node['name'])}"
    scores = percent(node["train"])
    if node["held_out"] is not None:
        scores += f", held-out {percent(node['held_out'])}"
    share = "" if took is None else f'<span class="took">{percent(took)} from</span> '
    inside = f"<p>{share}<b>{name}</b> <small>{scores}</small></p>"
    if "parents" in node:
        inside += f"<p><small>{_how(node)}</small></p>"
    elif node["told_before"]:
        inside += "<p><small>told elsewhere in this tree</small></p>"
    elif node["goes_on"]:
        inside += "<p><small>and so on</small></p>"
    took_from: list[dict[str, Any]] = node.get("took") or []
    shares: dict[int, float] = {entry["member"]: entry["share"] for entry in took_from}
    below = "".join(
        _node(parent, shares.get(parent["member"])) for parent in node.get("parents", [])
    )
    branch = f"<ul>{below}</ul>" if below else ""
    return f'<li><div class="node">{inside}</div>{branch}</li>'


def _how(node: dict[str, Any]) -> str:
    parts: list[str] = []
    pieces: list[float] | None = node["pieces"]
    if len(node["parents"]) > 1:
        if pieces is None:
            parts.append("weights drawn by the strategy")
        elif not pieces:
            parts.append("one ratio for the whole axis")
        else:
            more = " and further" if len(pieces) > 3 else ""
            parts.append(f"split at {', '.join(percent(p) for p in pieces[:3])}{more} of the axis")
    if node["mutation"]:
        parts.append(f"mutation {node['mutation']:.3g}")
    return ", ".join(parts) or "a copy"


# The run


def _run(facts: dict[str, Any]) -> str:
    status = facts["status"]
    asked, total = status["examples_evaluated"], status["examples_total"]
    course: list[tuple[str, object]] = [
        ("children scored", number(status["evaluations"])),
        ("budget", number(status["budget"])),
        ("accepted into the archive", number(status["accepted"])),
        ("stopped early, rejection being certain", number(status["stopped"])),
        ("broke a guard", number(status["guarded"])),
        ("failed", number(status["failed"])),
        ("members of the archive", number(len(status["archive"]))),
        ("examples asked of the children", number(asked)),
        ("examples, had all been asked", number(total)),
        ("evaluations saved", percent(1 - asked / total) if total else "–"),
    ]
    if (rounds := status["rounds"]) is not None:
        course += [
            ("rounds", number(rounds["number"] + 1)),
            ("children in a round", number(rounds["renew"])),
            ("examples that members compete for in a round", number(rounds["examples"])),
            ("finalists, scored on all examples", number(len(rounds["finalists"]))),
        ]
    seeds = "".join(
        f'<tr><th scope="row">{swatch(facts, index)}</th>'
        f'<td class="path">{text(seed["path"])}</td>'
        f'<td class="path">{text(seed["digest"][:16])}</td></tr>'
        for index, seed in enumerate(facts["seeds"])
    )
    tasks = "".join(
        f'<tr><th scope="row">{text(task["name"])}</th>'
        f'<td class="n">{number(task["examples"])}</td>'
        f'<td class="n">{number(task["held_out"])}</td><td class="n">{task["weight"]:g}</td>'
        f'<td class="path">{text(task["digest"][:16])}</td></tr>'
        for task in facts["tasks"]
    )
    return (
        '<div class="columns">'
        + pairs("Counts", course, "pairs counts")
        + pairs("Where this report was made", facts["environment"].items())
        + "</div>"
        + table("Seeds", ("seed", "path", "digest"), f"<tbody>{seeds}</tbody>")
        + table(
            "Tasks",
            ("task", "#training", "#held-out", "#weight", "digest"),
            f"<tbody>{tasks}</tbody>",
        )
        + pairs("Configuration", _flat(facts["config"]))
    )


def _flat(value: Any, key: str = "") -> Iterable[tuple[str, object]]:
    """Nested settings as dotted keys."""
    if isinstance(value, dict) and value:
        for name, inside in cast("dict[str, Any]", value).items():
            yield from _flat(inside, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and value:
        for index, inside in enumerate(cast("list[Any]", value)):
            yield from _flat(inside, f"{key}[{index}]")
    else:
        shown = json.dumps(value) if not isinstance(value, str) else value
        yield key, {"null": "not set", "{}": "none", "[]": "none"}.get(shown, shown)


def _download(facts: dict[str, Any]) -> str:
    body = json.dumps(facts, allow_nan=False, separators=(",", ":")).encode("utf-8")
    data = base64.b64encode(body).decode("ascii")
    out = (
        f'<p class="download"><a download="{text(facts["name"])}-report.json" '
        f'href="data:application/json;base64,{data}">Download everything as JSON</a> '
        f"<small>({number(len(body) / 1000)} kB)</small></p>"
    )
    if facts["left_out"]:
        parts = " and ".join(facts["left_out"])
        out += f"<p><small>Too large for it, and in the pool alone: {parts}.</small></p>"
    return out
