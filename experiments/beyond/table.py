"""Tables of what `run.py` and `fewer.py` left: means, paired differences, sign-flip tests.

python experiments/beyond/table.py experiments/beyond/results/*.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def sign_flip(differences: np.ndarray) -> float:
    """Two-sided p-value of the mean under flips of signs; exact up to 14 pairs."""
    count = differences.size
    observed = abs(differences.mean()) - 1e-12
    if count <= 14:
        signs = 1 - 2 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)
    else:
        signs = np.random.default_rng(0).choice([-1, 1], size=(100_000, count))
    return float((np.abs(signs @ differences) / count >= observed).mean())


def row(values: dict[int, float], base: dict[int, float]) -> str:
    """Mean, and the paired difference with its p-value."""
    common = sorted(set(values) & set(base))
    mean = 100 * float(np.mean([values[seed] for seed in values]))
    gap = np.array([values[seed] - base[seed] for seed in common])
    if not np.any(gap):
        return f"{mean:.1f} |  "
    return f"{mean:.1f} | {100 * gap.mean():+.1f} (p {sign_flip(gap):.2g})"


def variants(rows: list[dict[str, Any]]) -> None:
    """One line per variant."""
    names = list(dict.fromkeys(entry["variant"] for entry in rows))
    print("| variant | seeds | train | against plain | test | against plain | asked |")
    print("|---|---|---|---|---|---|---|")
    last = max(int(key) for entry in rows for key in entry["curve"])
    final: dict[str, dict[int, tuple[float, float]]] = {
        name: {e["seed"]: e["curve"][str(last)] for e in rows if e["variant"] == name}
        for name in names
    }
    for name in names:
        seeds = final[name]
        train, test = (
            row({k: v[at] for k, v in seeds.items()}, {k: v[at] for k, v in final["plain"].items()})
            for at in (0, 1)
        )
        asked = float(np.mean([e["asked"] for e in rows if e["variant"] == name]))
        print(f"| {name} | {len(seeds)} | {train} | {test} | {100 * asked:.0f} % |")


def fewer(rows: list[dict[str, Any]]) -> None:
    """One line per share."""
    methods = list(dict.fromkeys(entry["method"] for entry in rows))
    print("| share | " + " | ".join(methods) + " |")
    print("|---|" + "---|" * len(methods))
    for divisor in sorted({entry["divisor"] for entry in rows}):
        cells: list[str] = []
        for method in methods:
            mine = [e for e in rows if e["method"] == method and e["divisor"] == divisor]
            tests = np.array([e["test"] for e in mine])
            if not mine:
                cells.append("")
                continue
            error = tests.std(ddof=1) / tests.size**0.5 if tests.size > 1 else 0.0
            share = np.mean([e["share"] for e in mine])
            cells.append(f"{100 * tests.mean():.1f} +- {100 * error:.1f} ({100 * share:.1f} %)")
        print(f"| 1/{divisor} | " + " | ".join(cells) + " |")


def main() -> None:
    """A table per file."""
    for name in sys.argv[1:]:
        rows = [json.loads(line) for line in Path(name).read_text().splitlines()]
        print(f"\n{Path(name).stem}\n")
        (fewer if "method" in rows[0] else variants)(rows)


if __name__ == "__main__":
    main()
