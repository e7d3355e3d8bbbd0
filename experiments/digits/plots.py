"""The paper's figures 2, 3 and 4 from results.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from results import name

from genepool.checkpoints.files.atomic import write_bytes
from genepool.ui.figures import canvas, encoded

# Okabe and Ito's palette, which colour-blind readers can tell apart.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#999999", "#000000")
TITLES = {"pre_trained": "Pre-trained", "from_scratch": "From scratch"}


def plot_accuracy(results: dict[str, Any], file: Path, order: list[str]) -> None:
    """Figure 2: test accuracy over evaluations; the reference dashed, the paper crossed."""
    starts = [start for start, rows in results["runs"].items() if rows]
    with canvas(6.2 * len(starts), 4.6) as figure:
        for index, start in enumerate(starts):
            axes = panel(figure, 1, len(starts), index, results, start, "test", order)
            known, published = results["reference"].get(start, {}), results["published"].get(start)
            for label, colour in colours(order).items():
                if label in known:
                    points = known[label]["test"]
                    xs = [int(at) for at in points]
                    ys = [100 * mean for mean, _ in points.values()]
                    axes.plot(xs, ys, color=colour, ls="--", lw=1)
                if published and name(label) in published:
                    at = [int(count) for count in published["evaluations"]]
                    axes.plot(at, published[name(label)], "x", color=colour, ms=5)
            axes.set_ylabel("test accuracy of the best on training data (%)")
            axes.legend(loc="best")
        if results["published"]:
            figure.suptitle(
                "Mean and standard error over seeds; dashed: the reference implementation; "
                "crosses: the paper",
                fontsize=10,
                x=0.01,
                ha="left",
            )
        write_bytes(file, encoded(figure, "png"))


def plot_diversity(results: dict[str, Any], file: Path, order: list[str]) -> None:
    """Figure 3: coverage and entropy of the archive over evaluations."""
    starts = [start for start, rows in results["runs"].items() if rows]
    with canvas(6.2 * len(starts), 7.6) as figure:
        for column, start in enumerate(starts):
            for row, kind in enumerate(("coverage", "entropy")):
                place = row * len(starts) + column
                axes = panel(figure, 2, len(starts), place, results, start, kind, order)
                axes.set_ylabel(
                    "training images that some member gets right (%)"
                    if kind == "coverage"
                    else "entropy (100 x bits)"
                )
                if not row:
                    axes.legend(loc="best")
        write_bytes(file, encoded(figure, "png"))


def plot_sweeps(results: dict[str, Any], file: Path) -> None:
    """Figure 4: test accuracy over evaluations for sizes of the archive and values of alpha."""
    sweeps = (
        (
            "archive",
            {f"m2n2-archive-{n}": str(n) for n in (5, 10)}
            | {"m2n2": "20"}
            | {f"m2n2-archive-{n}": str(n) for n in (50, 100)},
        ),
        (
            "alpha",
            {f"m2n2-alpha-{a}": str(a) for a in (0.0, 0.5)}
            | {"m2n2": "1.0"}
            | {f"m2n2-alpha-{a}": str(a) for a in (1.5, 2.0)},
        ),
    )
    starts = [s for s, rows in results["runs"].items() if any(k.startswith("m2n2-a") for k in rows)]
    with canvas(6.2 * len(starts), 7.6) as figure:
        for column, start in enumerate(starts):
            for row, (title, names) in enumerate(sweeps):
                place = row * len(starts) + column
                order = list(names)
                axes = panel(figure, 2, len(starts), place, results, start, "test", order, names)
                axes.set_ylabel("test accuracy (%)")
                axes.legend(loc="lower right", title=title)
                budgets = [r["budget"] for k, r in results["runs"][start].items() if k in names]
                axes.set_xlim(right=min(budgets))
        write_bytes(file, encoded(figure, "png"))


def colours(order: list[str]) -> dict[str, str]:
    """A colour for each label; the pre-trained start's second CMA-ES has what is left."""
    out = dict(zip(order, PALETTE, strict=False))
    if "m2n2-without-crossover" in out:
        out["cma-es-by-tensor"] = out["m2n2-without-crossover"]
    return out


def panel(
    figure: Any,
    rows: int,
    columns: int,
    place: int,
    results: dict[str, Any],
    start: str,
    kind: str,
    order: list[str],
    names: dict[str, str] | None = None,
) -> Any:
    """Curves with bands of one standard error."""
    axes = figure.add_subplot(rows, columns, place + 1)
    for label, colour in colours(order).items():
        row = results["runs"][start].get(label)
        if row is None:
            continue
        at = np.array(row["evaluations"])[1:]
        mean = 100 * np.array(row[kind]["mean"])[1:]
        axes.plot(at, mean, color=colour, lw=1.5, label=(names or {}).get(label, name(label)))
        if row[kind]["sd"] is not None:
            error = 100 * np.array(row[kind]["sd"])[1:] / len(row["seeds"]) ** 0.5
            axes.fill_between(at, mean - error, mean + error, color=colour, alpha=0.18, lw=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("evaluations")
    axes.set_title(TITLES[start])
    axes.grid(color="#E5E5E5", lw=0.6)
    axes.set_axisbelow(True)
    return axes
