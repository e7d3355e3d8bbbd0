"""A pool in one line and in a small table, for whoever prints one or looks at it in a notebook."""

from __future__ import annotations

from typing import Any

from genepool.messages import children, one_line, percent

_TABLE = """\
<table><caption>{{ line }}</caption>
<thead><tr><th>model</th>{% for name in names %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in rows %}<tr><th>{{ row[0] }}</th>\
{% for score in row[1:] %}<td>{{ score }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table>"""


def line(status: dict[str, Any]) -> str:
    """How far a pool is, its champion and its best seed.

    Args:
        status: of `Pool.status`.
    """
    parts = [f"{status['evaluations']:,} of {children(status['budget'])}"]
    if (champion := status["champion"]) is not None:
        if (told := unbeaten(status)) is not None:
            parts.append(f"{told}: {_scores(champion)}")
        else:
            parts.append(f"champion member {champion['member']}: {_scores(champion)}")
            if (best := _best_seed(status)) is not None:
                parts.append(f"best seed {one_line(best['name'])}: {_scores(best)}")
    return "; ".join(parts)


def unbeaten(status: dict[str, Any]) -> str | None:
    """That the champion is a seed, where that is so, and whether it is the best of the seeds.

    Not of children that were turned away: by a guard, or because others solve their examples too.
    """
    champion, seeds, best = status["champion"], status["seeds"], _best_seed(status)
    if champion is None or best is None or champion["member"] >= len(seeds):
        return None
    of = f"of the {status['accepted']:,} accepted " if status["evaluations"] else ""
    seed = seeds[champion["member"]]
    if seed["train"] == best["train"]:
        return f"no child {of}has beaten the best seed, {one_line(seed['name'])}"
    return (
        f"the best seed, {one_line(best['name'])} ({percent(best['train'])}), is not the champion, "
        f"and no child {of}has beaten the one that is, {one_line(seed['name'])}"
    )


def _best_seed(status: dict[str, Any]) -> dict[str, Any] | None:
    """By selection score; the first of equals."""
    seeds = [seed for seed in status["seeds"] if seed["train"] is not None]
    return max(seeds, key=lambda seed: float(seed["train"]), default=None)


def html(status: dict[str, Any]) -> str:
    """The same as a table of the seeds and the champion.

    Args:
        status: of `Pool.status`.
    """
    from jinja2 import Environment

    rows = [
        (one_line(seed["name"]), percent(seed["train"]), percent(seed["held_out"]))
        for seed in status["seeds"]
    ]
    if (champion := status["champion"]) is not None and champion["member"] >= len(rows):
        name = f"champion, member {champion['member']}"
        rows.append((name, percent(champion["train"]), percent(champion["held_out"])))
    made = Environment(autoescape=True).from_string(_TABLE)
    return made.render(line=line(status), names=("selection", "held-out"), rows=rows)


def _scores(model: dict[str, Any]) -> str:
    held_out = model["held_out"]
    more = "" if held_out is None else f" (held-out {percent(held_out)})"
    return percent(model["train"]) + more
