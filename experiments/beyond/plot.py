"""The picture of what `fewer.py` left: held-out accuracy against the share of examples asked.

python experiments/beyond/plot.py results/fewer-digits-pre-2000.jsonl -o fewer.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
from table import error

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LABELS = {
    "random": "fixed random subset",
    "irt": "subset chosen by IRT (its fitting not counted)",
    "all": "all examples, fewer children",
    "risk": "all examples, risk 0.2",
    "rounds": "rounds",
    "large": "rounds of at least a tenth",
    "large+4": "the same with four split points",
}


def main() -> None:
    """Draw means with bars of one standard error."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("fewer.png"))
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.file.read_text().splitlines()]
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    divisors = sorted({row["divisor"] for row in rows}, reverse=True)
    for turn, (method, label) in enumerate(LABELS.items()):
        points: list[tuple[float, float, float]] = []
        for divisor in divisors:
            mine = [r for r in rows if r["method"] == method and r["divisor"] == divisor]
            if mine:
                tests = 100 * np.array([row["test"] for row in mine])
                points.append((1 / divisor * 1.02 ** (turn - 2.5), tests.mean(), error(tests)))
        if points:
            x, y, bars = np.array(points).T
            axes.errorbar(x, y, yerr=bars, marker="o", ms=4, capsize=2, label=label)
    axes.set_xscale("log")
    axes.set_xticks([1 / d for d in divisors], [f"1/{d}" for d in divisors])
    axes.minorticks_off()
    axes.set_xlabel("share of children x examples that may be asked")
    axes.set_ylabel("held-out accuracy of the best, %")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(args.output, dpi=130)


if __name__ == "__main__":
    main()
