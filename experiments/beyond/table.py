"""Tables of `results/`: means, paired differences, sign-flip tests.

python experiments/beyond/table.py experiments/beyond/results/*.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

# What ways to spend fewer examples are compared with.
AGAINST = ("random", "irt")
# What is compared over all data sets together.
PAIRS = (
    ("rounds", "random"),
    ("rounds", "irt"),
    ("rounds", "irtpaid"),
    ("rounds+4", "random+4"),
    ("rounds+4", "irt+4"),
    ("irt+4", "random+4"),
    ("random+4", "random"),
)


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


def over_shares(rows: list[dict[str, Any]]) -> None:
    """The mean over the shares below 1/2 that all methods have, seed by seed, in points."""
    divisors = sorted({entry["divisor"] for entry in rows} - {2})
    means: dict[str, dict[int, float]] = {}
    for method in dict.fromkeys(entry["method"] for entry in rows):
        tests = {(e["seed"], e["divisor"]): e["test"] for e in rows if e["method"] == method}
        seeds = sorted({seed for seed, _ in tests})
        full = [s for s in seeds if all((s, d) in tests for d in divisors)]
        if full:
            means[method] = {s: float(np.mean([tests[s, d] for d in divisors])) for s in full}
    print(f"\nMean over the shares {', '.join(f'1/{d}' for d in divisors)}:\n")
    print("| method | mean | " + " | ".join(f"against {base}" for base in AGAINST) + " |")
    print("|---|---|" + "---|" * len(AGAINST))
    gaps: dict[tuple[str, str], np.ndarray] = {}
    for base in AGAINST:
        for method in means:
            shared = sorted(means[method].keys() & means.get(base, {}).keys())
            if method not in AGAINST and shared:
                gaps[method, base] = np.array([means[method][s] - means[base][s] for s in shared])
    chances = [sign_flip(gap) for gap in gaps.values()]
    corrected = dict(zip(gaps, zip(chances, holm(chances), strict=True), strict=True))
    for method, values in means.items():
        cells: list[str] = []
        for base in AGAINST:
            gap = gaps.get((method, base))
            if gap is None:
                cells.append("")
                continue
            p, better = corrected[method, base]
            cells.append(
                f"{100 * gap.mean():+.1f} ± {100 * error(gap):.1f} (p {p:.2g}; {better:.2g})"
            )
        mean = 100 * np.array(list(values.values()))
        print(f"| {method} | {mean.mean():.1f} ± {error(mean):.1f} | {' | '.join(cells)} |")


def together(files: list[list[dict[str, Any]]]) -> None:
    """Differences of the mean over shares below 1/2 that both methods have, over all data sets."""
    print("\nOver all data sets together (p not corrected):\n")
    print("| | pairs | points | p |")
    print("|---|---|---|---|")
    for ours, other in PAIRS:
        gaps: list[float] = []
        for rows in files:
            tests = {(e["method"], e["divisor"], e["seed"]): e["test"] for e in rows}
            shares = {
                method: {d for m, d, _ in tests if m == method and d > 2}
                for method in (ours, other)
            }
            divisors = sorted(shares[ours] & shares[other])
            for seed in sorted({e["seed"] for e in rows}):
                found = [
                    tests[ours, d, seed] - tests[other, d, seed]
                    for d in divisors
                    if (ours, d, seed) in tests and (other, d, seed) in tests
                ]
                if found and len(found) == len(divisors):
                    gaps.append(float(np.mean(found)))
        if gaps:
            values = np.array(gaps)
            points = f"{100 * values.mean():+.1f} ± {100 * error(values):.1f}"
            print(
                f"| `{ours}` against `{other}` | {len(gaps)} | {points} | {sign_flip(values):.2g} |"
            )


def main() -> None:
    """A table per file."""
    shares: list[list[dict[str, Any]]] = []
    for name in sys.argv[1:]:
        rows = [json.loads(line) for line in Path(name).read_text().splitlines()]
        print(f"\n{Path(name).stem}\n")
        if "method" in rows[0]:
            fewer(rows)
            over_shares(rows)
            shares.append(rows)
        else:
            variants(rows)
    if len(shares) > 1:
        together(shares)


if __name__ == "__main__":
    main()
