"""Held-out accuracy against the share of examples asked: a panel per file of results.

python experiments/beyond/plot.py results/fewer-*.jsonl -o fewer.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from table import error

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LABELS = {
    "random": "fixed random subset",
    "irt": "subset chosen by IRT, its fitting not counted",
    "irtpaid": "subset chosen by IRT",
    "all": "all examples, fewer children",
    "risk": "all examples, risk 0.2",
    "rounds": "rounds",
    "random+4": "random subset, four split points",
    "irt+4": "IRT (not counted), four split points",
    "rounds+4": "rounds, four split points",
}

COLOURS = {
    "random": "tab:blue",
    "irt": "tab:orange",
    "irtpaid": "tab:brown",
    "all": "tab:grey",
    "risk": "tab:purple",
    "rounds": "tab:green",
}


def main() -> None:
    """Draw means with bars of one standard error, and save the picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, default=Path("fewer.png"))
    args = parser.parse_args()
    count = len(args.files)
    figure, panels = plt.subplots(1, count, figsize=(6 * count, 4.8), squeeze=False)
    for file, axes in zip(args.files, panels[0], strict=True):
        draw([json.loads(line) for line in file.read_text().splitlines()], axes)
        axes.set_title(file.stem.removeprefix("fewer-"))
    panels[0][0].set_ylabel("held-out accuracy of the best, %")
    lines, labels = panels[0][-1].get_legend_handles_labels()
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    figure.legend(lines, labels, fontsize=8, ncols=3, loc="lower center")
    figure.savefig(args.output, dpi=130)


def draw(rows: list[dict[str, Any]], axes: Any) -> None:
    """A line per method: dashed with four split points, dotted where not all is counted."""
    divisors = sorted({row["divisor"] for row in rows}, reverse=True)
    for turn, (method, label) in enumerate(LABELS.items()):
        points: list[tuple[float, float, float]] = []
        for divisor in divisors:
            mine = [r for r in rows if r["method"] == method and r["divisor"] == divisor]
            if mine:
                tests = 100 * np.array([row["test"] for row in mine])
                points.append((1 / divisor * 1.02 ** (turn - 4), tests.mean(), error(tests)))
        if points:
            x, y, bars = np.array(points).T
            style = "--" if method.endswith("+4") else ":" if method == "irt" else "-"
            colour = COLOURS[method.partition("+")[0]]
            axes.errorbar(
                x, y, yerr=bars, marker="o", ms=4, capsize=2, label=label, ls=style, color=colour
            )
    axes.set_xscale("log")
    axes.set_xticks([1 / d for d in divisors], [f"1/{d}" for d in divisors])
    axes.minorticks_off()
    axes.set_xlabel("share of children x examples that may be asked")
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    main()
