"""What came of the runs: table.md, results.json and pictures.png, from the pools alone."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from runs import SEEDS, STRATEGIES

from genepool.pool.reader import Pool
from genepool.pool.records import REFERENCE

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
        pools = finished(work / setting / "pools")
        if not pools:
            continue
        seeds, rows = seed_rows(pools), plain_rows(work / setting) + strategy_rows(pools)
        parts.append(f"**Setting {setting}**\n\n{table(seeds, rows, halves)}")
        results[setting] = details(seeds, rows, halves)
        draw(pools, out / f"pictures-{setting}.png")
    (out / "table.md").write_text("\n".join(parts), "utf-8")
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")


def finished(folder: Path) -> dict[str, list[Path]]:
    """The pools that have come to their end, by strategy."""
    found: dict[str, list[Path]] = {}
    for place in sorted(folder.glob("*-*")):
        if not (place / "pool.sqlite").exists():
            continue
        with Pool(place) as pool:
            if pool.meta().get("finished"):
                found.setdefault(place.name.rpartition("-")[0], []).append(place)
    return {label: found[label] for label in STRATEGIES if label in found}


def seed_rows(pools: Mapping[str, list[Path]]) -> list[Row]:
    """The seeds, which every pool has scored."""
    with Pool(next(iter(pools.values()))[0]) as pool:
        return [_row(pool, number, name) for number, name in enumerate(SEEDS)]


def plain_rows(folder: Path) -> list[Row]:
    """What `plain.py` has scored."""
    if not (folder / "plain.json").exists():
        return []
    found = json.loads((folder / "plain.json").read_text())
    return [
        Row(
            TITLES[kind] + (f" ({entry['best']})" if len(entry["selection"]) > 1 else ""),
            np.array([entry["held_out"]]),
            entry["measures"],
            0,
            entry["selection"][entry["best"]],
        )
        for kind, entry in found.items()
    ]


def strategy_rows(pools: Mapping[str, list[Path]]) -> list[Row]:
    """The champions of the runs of each strategy."""
    rows: list[Row] = []
    for label, places in pools.items():
        champions: list[Row] = []
        for place in places:
            with Pool(place) as pool:
                champion = pool.champion()
                if champion is not None:
                    champions.append(_row(pool, champion, label))
        names = champions[0].measures
        rows.append(
            Row(
                TITLES[label],
                np.concatenate([row.japanese for row in champions]),
                {n: float(np.mean([row.measures[n] for row in champions])) for n in names},
                max(row.children for row in champions),
                float(np.mean([row.selection for row in champions])),
            )
        )
    return rows


def _row(pool: Pool, member: int, name: str) -> Row:
    scores = pool.held_out_scores(member)
    if scores is None:
        raise RuntimeError(f"{pool.path}: member {member} has no held-out scores")
    measures = {measure.name: measure.value for measure in pool.measures().get(member, ())}
    japanese = scores.astype(np.float64)[None]
    return Row(name, japanese, measures, pool.evaluations, pool.record(member).train or 0.0)


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


def draw(pools: Mapping[str, list[Path]], file: Path) -> None:
    """Held-out captions, drawn by the seeds and by each strategy's first champion."""
    from matplotlib.figure import Figure
    from PIL import Image

    shown: dict[str, dict[int, bytes]] = {}
    captions: dict[int, str] = {}
    for label, places in pools.items():
        with Pool(places[0]) as pool:
            champion = pool.champion()
            for picture in pool.pictures():
                if picture.part != "held-out":
                    continue
                names = {REFERENCE: "real", champion: TITLES[label]}
                if picture.member < len(SEEDS) and picture.member != REFERENCE:
                    names[picture.member] = SEEDS[picture.member]
                shown.setdefault(names[picture.member], {})[picture.example] = picture.png
                captions[picture.example] = picture.caption
    order = ["real", *SEEDS, *TITLES.values()]
    rows = [name for name in order if name in shown]
    examples = sorted(captions)
    figure = Figure(figsize=(1.1 * len(examples) + 2.4, 1.1 * len(rows)), layout="tight")
    for down, name in enumerate(rows):
        for across, example in enumerate(examples):
            axes = figure.add_subplot(len(rows), len(examples), down * len(examples) + across + 1)
            axes.set_axis_off()
            if (png := shown[name].get(example)) is not None:
                axes.imshow(np.asarray(Image.open(io.BytesIO(png))))
            if across == 0:
                axes.text(-0.15, 0.5, name, transform=axes.transAxes, ha="right", va="center")
    figure.savefig(file, dpi=110)
