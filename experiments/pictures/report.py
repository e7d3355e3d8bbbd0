"""What came of the runs: table.md, results.json and pictures.png, from `finals` alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from runs import SEEDS

Scores = NDArray[np.float64]
TITLES = {
    "m2n2": "M2N2",
    "no-split": "M2N2 without split point",
    "no-attraction": "M2N2 without attraction",
    "ga": "genetic algorithm",
    "map-elites": "MAP-Elites",
    "cma-es": "CMA-ES over ratios per layer",
    "slerp": "best single ratio of two",
    "mean": "mean of the four",
    "task arithmetic": "task arithmetic, best scale",
}
PLAIN = ("mean", "task arithmetic")


@dataclass(frozen=True, eq=False)
class Row:
    """A model, or the champions of several runs of a strategy.

    Attributes:
        name: of the row.
        japanese: float64[R, M], the likeness of each run's champion on each held-out caption.
        measures: name to the mean over runs.
        children: how many each run had; 0 for what was not searched for.
        selection: mean selection score.
    """

    name: str
    japanese: Scores
    measures: Mapping[str, float]
    children: int
    selection: float


def write_report(work: Path, out: Path, settings: tuple[str, ...]) -> None:
    """Write OUT/table.md, OUT/results.json and OUT/pictures-SETTING.png."""
    halves = np.array(
        [
            json.loads(line)["half"]
            for line in (work / "captions/held-out.jsonl").read_text("utf-8").splitlines()
        ]
    )
    out.mkdir(parents=True, exist_ok=True)
    parts: list[str] = []
    results: dict[str, Any] = {}
    for setting in settings:
        folder = work / setting / "finals"
        seeds = [_row([file], file.stem) for file in _files(folder, SEEDS)]
        if len(seeds) < len(SEEDS):
            continue
        rows = [_row(files, label) for label, files in _others(folder)]
        parts.append(f"**Setting {setting}**\n\n{table(seeds, rows, halves)}")
        results[setting] = details(seeds, rows, halves)
        draw(folder, out / f"pictures-{setting}.png")
    (out / "table.md").write_text("\n".join(parts), "utf-8")
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")


def _files(folder: Path, names: Iterable[str]) -> list[Path]:
    return [file for name in names if (file := folder / f"{name}.json").is_file()]


def _others(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    """What is not a seed, with its files: one, or one for each run."""
    for label in TITLES:
        files = _files(folder, [label]) + sorted(folder.glob(f"{label}-[0-9]*.json"))
        if files:
            yield label, files


def _row(files: Sequence[Path], label: str) -> Row:
    found = [json.loads(file.read_text()) for file in files]
    name = TITLES.get(label, label)
    if len(found[0].get("of", ())) > 1:
        name += f" ({found[0]['best']})"
    return Row(
        name,
        np.array([run["held_out"] for run in found]),
        {n: float(np.mean([run["measures"][n] for run in found])) for n in found[0]["measures"]},
        max(run.get("children", 0) for run in found),
        float(np.mean([run["selection"] for run in found])),
    )


def error(differences: Scores) -> float:
    """The standard error of the mean of float64[R, M] over runs and captions, both drawn."""
    runs, captions = differences.shape
    over_captions = float(differences.mean(axis=0).var(ddof=1)) / captions
    over_runs = float(differences.mean(axis=1).var(ddof=1)) / runs if runs > 1 else 0.0
    return float(np.sqrt(over_captions + over_runs))


def rivals(seeds: list[Row], rows: list[Row]) -> tuple[Row, Row]:
    """The best seed and the best merge that was not evolved, by their selection scores."""
    plain = [row for row in rows if row.children == 0 or row.name == TITLES["slerp"]]
    return max(seeds, key=lambda row: row.selection), max(
        plain or seeds, key=lambda row: row.selection
    )


def table(seeds: list[Row], rows: list[Row], halves: NDArray[Any]) -> str:
    """Markdown: likeness in per cent with standard errors, and paired differences."""
    best, plain = rivals(seeds, rows)
    names = [name for name in seeds[0].measures if name != "japanese"]
    heads = ["model", "runs", "Japanese", "living", "things", *names]
    heads += [f"against {best.name}", f"against {plain.name}"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in (*seeds, *rows):
        cells = [row.name, str(len(row.japanese)) if row.children and row not in seeds else "–"]
        cells.append(f"{100 * row.japanese.mean():.1f} ± {100 * error(row.japanese):.1f}")
        cells += [f"{100 * row.japanese[:, halves == h].mean():.1f}" for h in ("living", "things")]
        cells += [f"{100 * row.measures[name]:.1f}" for name in names]
        for other in (best, plain):
            gap = row.japanese - other.japanese
            same = row is other
            cells.append("" if same else f"{100 * gap.mean():+.1f} ± {100 * error(gap):.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def details(seeds: list[Row], rows: list[Row], halves: NDArray[Any]) -> dict[str, Any]:
    """The same as numbers."""
    best, plain = rivals(seeds, rows)
    return {
        "best_seed": best.name,
        "best_plain": plain.name,
        "models": [
            {
                "name": row.name,
                "runs": len(row.japanese),
                "children": 0 if row in seeds else row.children,
                "selection": row.selection,
                "japanese": [float(run.mean()) for run in row.japanese],
                "error": error(row.japanese),
                **{h: float(row.japanese[:, halves == h].mean()) for h in ("living", "things")},
                "measures": dict(row.measures),
                "against_best_seed": _gap(row, best),
                "against_best_plain": _gap(row, plain),
            }
            for row in (*seeds, *rows)
        ],
    }


def _gap(row: Row, other: Row) -> list[float]:
    gap = row.japanese - other.japanese
    return [float(gap.mean()), error(gap)]


def draw(folder: Path, file: Path) -> None:
    """Held-out captions, drawn by the seeds and by each strategy's first champion."""
    from matplotlib.figure import Figure

    names = {"real": "real", **{name: name for name in SEEDS}}
    names |= {label if label in PLAIN else f"{label}-0": TITLES[label] for label in TITLES}
    shown = [(title, folder / f"{name}.npy") for name, title in names.items()]
    rows = [(title, np.load(place)) for title, place in shown if place.is_file()]
    columns = len(rows[0][1])
    figure = Figure(figsize=(1.1 * columns + 2.4, 1.1 * len(rows)), layout="tight")
    for down, (title, pictures) in enumerate(rows):
        for across, picture in enumerate(pictures):
            axes = figure.add_subplot(len(rows), columns, down * columns + across + 1)
            axes.set_axis_off()
            axes.imshow(picture)
            if across == 0:
                axes.text(-0.15, 0.5, title, transform=axes.transAxes, ha="right", va="center")
    figure.savefig(file, dpi=110)
