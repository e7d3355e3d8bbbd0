"""What came of the runs: table.md, results.json and champions.png, from `finals` alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from runs import KINDS, TASKS, Kind

Scores = NDArray[np.float64]
SEEDS = {
    "base": "base",
    "maths": "specialist maths",
    "agent": "specialist agent",
    "maths-twice": "maths, twice as far",
    "agent-twice": "agent, twice as far",
}
# Who is the specialist in a task.
LEADERS = {"maths": "maths", "games": "agent", "shop": "agent"}
PLAIN = {"task-arithmetic": "task arithmetic", "ties": "TIES"}
BRED = {
    "slerp": "best single SLERP",
    "ga": "genetic algorithm",
    "map-elites": "MAP-Elites",
    "cma-es": "CMA-ES over ratios per layer",
    "no-attraction": "M2N2 without attraction",
    "no-split": "M2N2 without split point",
    "m2n2": "M2N2",
}
NAMES = {**SEEDS, **PLAIN, **BRED}


@dataclass(frozen=True, eq=False)
class Row:
    """A model, or the champions of several runs of a strategy.

    Attributes:
        label: of the row.
        seeds: the random seeds of the runs; [0] for what is no run.
        scores: task -> float64[R, M], of each run's champion on each held-out example.
        selection: float64[R], the weighted mean of what it was selected by.
        rescored: the same, scored once more with games that are really played.
        about: what else is known of the first.
        seconds: of a child's evaluation, the median; 0 for what is no run.
    """

    label: str
    seeds: list[int]
    scores: Mapping[str, Scores]
    selection: Scores
    rescored: Scores
    about: Mapping[str, Any]
    seconds: float

    @property
    def title(self) -> str:
        best = self.about.get("best")
        return NAMES[self.label] + (f" ({best})" if best else "")


def write_report(work: Path, out: Path) -> None:
    """Write OUT/table.md, OUT/results.json and OUT/champions.png."""
    out.mkdir(parents=True, exist_ok=True)
    found = {name: rows_of(work / name / "finals") for name in KINDS}
    found = {name: rows for name, rows in found.items() if rows}
    tables = [f"**{name}**\n\n{table(rows, KINDS[name])}" for name, rows in found.items()]
    (out / "table.md").write_text("\n".join(tables))
    results = {name: details(rows, KINDS[name]) for name, rows in found.items()}
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    plot(found, out / "champions.png")
    print("\n".join(tables))


def rows_of(folder: Path) -> list[Row]:
    return [row(label, files) for label, files in _files(folder)]


def _files(folder: Path) -> Iterator[tuple[str, list[tuple[int, Path]]]]:
    for label in NAMES:
        files = [(0, folder / f"{label}.json")] if label not in BRED else []
        runs = folder.glob(f"{label}-[0-9]*.json")
        files += [(int(file.stem.rpartition("-")[2]), file) for file in runs]
        if files := sorted(one for one in files if one[1].is_file()):
            yield label, files


def row(label: str, files: Sequence[tuple[int, Path]]) -> Row:
    found = [json.loads(file.read_text()) for _, file in files]
    return Row(
        label,
        [seed for seed, _ in files],
        {task: np.array([one["held_out"][task] for one in found]) for task in found[0]["held_out"]},
        np.array([one["selection"] for one in found]),
        np.array([one.get("rescored", one["selection"]) for one in found]),
        {key: value for key, value in found[0].items() if key in ("best", "of", "children")},
        float(np.mean([one.get("seconds", 0.0) for one in found])),
    )


def error(scores: Scores) -> float:
    """The standard error of the mean of float64[R, M] over runs and examples, both drawn."""
    runs, examples = scores.shape
    over_examples = float(scores.mean(axis=0).var(ddof=1)) / examples
    over_runs = float(scores.mean(axis=1).var(ddof=1)) / runs if runs > 1 else 0.0
    return float(np.sqrt(over_examples + over_runs))


def average(scores: Mapping[str, Scores], weights: Mapping[str, float]) -> list[float]:
    """Weighted mean over tasks and its standard error; of the runs, tasks are taken together."""
    total = sum(weights.values())
    shares = {task: weight / total for task, weight in weights.items()}
    runs = sum(shares[task] * scores[task].mean(axis=1) for task in shares)
    variance = sum(
        share**2 * float(scores[task].mean(axis=0).var(ddof=1)) / scores[task].shape[1]
        for task, share in shares.items()
    )
    if runs.size > 1:
        variance += float(runs.var(ddof=1)) / runs.size
    return [float(runs.mean()), variance**0.5]


def gap(one: Row, other: Row) -> list[float]:
    """The difference of the averages, paired by random seed and example."""
    seeds = sorted(set(one.seeds) & set(other.seeds))
    if len(one.seeds) == 1 or len(other.seeds) == 1:
        # A model that is no run, or is bred but once, is compared with every run of the other.
        pairs = {task: one.scores[task] - other.scores[task] for task in TASKS}
    else:
        mine, theirs = ([of.seeds.index(s) for s in seeds] for of in (one, other))
        pairs = {task: one.scores[task][mine] - other.scores[task][theirs] for task in TASKS}
    return average(pairs, TASKS)


def table(rows: list[Row], kind: Kind) -> str:
    """Markdown, in per cent with standard errors; differences are paired."""
    others = [*kind.guards, "battery"]
    heads = [
        "model",
        "runs",
        "children",
        *TASKS,
        "average",
        "less M2N2",
        *others,
        "selection",
        "s a child",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    m2n2 = next((row for row in rows if row.label == "m2n2"), None)
    for row in rows:
        cells = [row.title, *("–", "–")]
        if row.label in BRED:
            cells[1:] = [str(len(row.seeds)), str(row.about["children"])]
        cells += [_cell(float(row.scores[t].mean()), error(row.scores[t])) for t in TASKS]
        cells.append(_cell(*average(row.scores, TASKS)))
        lead = "" if m2n2 is None or row is m2n2 else "{:+.1f} ± {:.1f}"
        cells.append(lead.format(*(100 * x for x in gap(row, m2n2))) if m2n2 and lead else "")
        cells += [f"{100 * row.scores[name].mean():.1f}" for name in kind.guards]
        cells.append(_cell(*average(row.scores, dict.fromkeys(kind.battery, 1.0))))
        cells.append(f"{100 * row.selection.mean():.1f}")
        cells.append(f"{row.seconds:.2f}" if row.seconds else "–")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: float, spread: float) -> str:
    return f"{100 * value:.1f} ± {100 * spread:.1f}"


def details(rows: list[Row], kind: Kind) -> dict[str, Any]:
    """The same as numbers, and how much of each specialist's lead over the base is kept."""
    m2n2 = next((row for row in rows if row.label == "m2n2"), None)
    means = {row.label: {t: float(row.scores[t].mean()) for t in row.scores} for row in rows}
    return {
        row.label: {
            "title": row.title,
            "random seeds": row.seeds,
            "children": row.about.get("children", 0),
            "seconds a child, median": row.seconds,
            "selection of each run": row.selection.tolist(),
            "selection rescored": row.rescored.tolist(),
            **{
                task: {
                    "mean": means[row.label][task],
                    "error": error(row.scores[task]),
                    "of each run": row.scores[task].mean(axis=1).tolist(),
                }
                for task in (*TASKS, *kind.guards, *kind.battery)
            },
            "average": average(row.scores, TASKS),
            "battery": average(row.scores, dict.fromkeys(kind.battery, 1.0)),
            "kept of the lead over base": {
                task: (means[row.label][task] - means["base"][task])
                / (means[LEADERS[task]][task] - means["base"][task] or 1.0)
                for task in TASKS
            },
            "less M2N2": gap(row, m2n2) if m2n2 is not None and row is not m2n2 else None,
            "selection of the sweep": row.about.get("of"),
        }
        for row in rows
    }


def plot(found: Mapping[str, list[Row]], file: Path) -> None:
    """Held-out maths against held-out agent: a point for each champion, seed and plain merge."""
    from matplotlib.figure import Figure

    # Okabe and Ito's palette, which colour-blind readers can tell apart.
    colours = ["#999999", "#E69F00", "#56B4E9", "#CC79A7", "#F0E442", "#009E73", "#D55E00"]
    figure = Figure(figsize=(6.4 * max(1, len(found)), 5), layout="constrained")
    for place, (name, rows) in enumerate(found.items(), 1):
        panel = figure.add_subplot(1, len(found), place)
        right = max(80 * row.scores["maths"].mean() for row in rows)
        for row in rows:
            x = 100 * row.scores["maths"].mean(axis=1)
            y = 50 * (row.scores["games"].mean(axis=1) + row.scores["shop"].mean(axis=1))
            if row.label in BRED:
                colour = colours[list(BRED).index(row.label)]
                panel.scatter(x, y, c=colour, edgecolors="black", lw=0.5, label=NAMES[row.label])
            else:
                marker = "*" if row.label in SEEDS else "^"
                panel.scatter(x, y, c="black", marker=marker, s=80)
                # Names of what lies on the right, or beside many points, stand on the left.
                left = row.label in PLAIN or x[0] > right
                panel.annotate(
                    NAMES[row.label],
                    (x[0], y[0]),
                    (-7 if left else 5, -12 if row.label == "ties" else 5),
                    textcoords="offset points",
                    ha="right" if left else "left",
                    fontsize=8,
                )
        panel.set_title(f"{name}: a point is a model", fontsize=10)
        panel.set_xlabel("maths, held-out problems (%)")
        panel.set_ylabel("agent: mean of held-out games and purchases (%)")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    figure.savefig(file, dpi=130)
