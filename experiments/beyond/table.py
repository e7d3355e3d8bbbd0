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


def holm(values: list[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979)."""
    out, worst = [0.0] * len(values), 0.0
    for rank, index in enumerate(np.argsort(values)):
        worst = max(worst, min(1.0, (len(values) - rank) * values[index]))
        out[index] = worst
    return out


def error(values: np.ndarray) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / values.size**0.5) if values.size > 1 else 0.0


def variants(rows: list[dict[str, Any]]) -> None:
    """One line per variant, against plain on the same seeds, in per cent and points."""
    names = list(dict.fromkeys(entry["variant"] for entry in rows))
    last = max(int(key) for entry in rows for key in entry["curve"])
    final = {
        name: {e["seed"]: e["curve"][str(last)] for e in rows if e["variant"] == name}
        for name in names
    }
    others = [name for name in names if name != "plain"]
    cells: dict[str, list[str]] = {name: [] for name in names}
    for at in (0, 1):
        gaps = [
            np.array(
                [final[n][k][at] - final["plain"][k][at] for k in final[n] if k in final["plain"]]
            )
            for n in others
        ]
        chances = [sign_flip(gap) for gap in gaps]
        for name in names:
            values = 100 * np.array([value[at] for value in final[name].values()])
            cells[name].append(f"{values.mean():.1f} ± {error(values):.1f}")
        cells["plain"].append("")
        for name, gap, p, corrected in zip(others, gaps, chances, holm(chances), strict=True):
            cells[name].append(
                f"{100 * gap.mean():+.1f} ± {100 * error(gap):.1f} (p {p:.2g}; {corrected:.2g})"
            )
    print("| variant | seeds | train | against plain | test | against plain | asked |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        asked = float(np.mean([e["asked"] for e in rows if e["variant"] == name and e["asked"]]))
        print(f"| {name} | {len(final[name])} | {' | '.join(cells[name])} | {100 * asked:.0f} % |")


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
            share = np.mean([e["share"] for e in mine])
            cells.append(
                f"{100 * tests.mean():.1f} ± {100 * error(tests):.1f} "
                f"({tests.size}; {100 * share:.1f} %)"
            )
        print(f"| 1/{divisor} | " + " | ".join(cells) + " |")


def main() -> None:
    """A table per file."""
    for name in sys.argv[1:]:
        rows = [json.loads(line) for line in Path(name).read_text().splitlines()]
        print(f"\n{Path(name).stem}\n")
        (fewer if "method" in rows[0] else variants)(rows)


if __name__ == "__main__":
    main()
