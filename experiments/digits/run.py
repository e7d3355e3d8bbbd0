"""The paper's first experiment: all variants, both starts, several seeds, beside the reference.

    python experiments/digits/run.py            # all of it; resumable
    python experiments/digits/run.py --smoke    # a tiny one, for CI

Pools go to --work, so that an interrupted experiment goes on. Writes results.json, table.md and
curves.png beside this file: mean and standard deviation over seeds of the training and test
accuracy of the best-on-train member, at the evaluation counts of shared/reference/digits.json.

The pre-trained start uses the reference's own two specialists (shared/reference/
digits_specialists.npz), since another pair has another ceiling.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
COUNTS = (100, 500, 1000, 2000, 5000, 10000, 20000)
M2N2: dict[str, Any] = {"name": "m2n2", "archive": 20}
VARIANTS: dict[str, dict[str, Any]] = {
    "m2n2": M2N2,
    "m2n2 without attraction": {**M2N2, "attraction": False},
    "m2n2 without split point": {**M2N2, "split_point": False},
    "m2n2 without crossover": {**M2N2, "crossover": False},
    "ga": {"name": "ga", "archive": 20},
}
BUDGETS = {"pre_trained": 5000, "from_scratch": 20000}


def main() -> None:
    """Run what is missing, then write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--start", choices=list(BUDGETS), help="only this start")
    parser.add_argument("--variant", choices=list(VARIANTS), help="only this variant")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--shared", type=Path, default=HERE.parents[2] / "shared")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--smoke", action="store_true", help="30 evaluations, one seed")
    args = parser.parse_args()
    specialists = args.shared / "reference" / "digits_specialists.npz"
    if not specialists.exists():
        sys.exit(f"{specialists} is missing: this experiment needs the reference's specialists")
    budgets = dict.fromkeys(BUDGETS, 30) if args.smoke else BUDGETS
    seeds = 1 if args.smoke else args.seeds
    jobs = [
        (args.work, specialists, start, variant, seed, budgets[start])
        for seed in range(seeds)
        for start in ([args.start] if args.start else BUDGETS)
        for variant in ([args.variant] if args.variant else VARIANTS)
        if not (start == "pre_trained" and variant == "m2n2 without crossover")
    ]
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    found: dict[str, dict[str, dict[int, dict[str, list[float]]]]] = {}
    with ProcessPoolExecutor(args.jobs) as workers:
        for number, (job, curve) in enumerate(zip(jobs, workers.map(one, jobs), strict=True), 1):
            _, _, start, variant, _, _ = job
            at = found.setdefault(start, {}).setdefault(variant, {})
            for count, (train, test) in curve.items():
                entry = at.setdefault(count, {"train": [], "test": []})
                entry["train"].append(train)
                entry["test"].append(test)
            print(f"\r{number}/{len(jobs)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    args.out.mkdir(parents=True, exist_ok=True)
    reference = json.loads((args.shared / "reference" / "digits.json").read_text())
    results = {"seeds": seeds, "runs": found, "checks": checks(found, reference)}
    (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (args.out / "table.md").write_text(table(found, reference, results["checks"]))
    if len(found) == len(BUDGETS):
        plot(found, reference, args.out / "curves.png")
    print((args.out / "table.md").read_text())


def one(job: tuple[Path, Path, str, str, int, int]) -> dict[int, tuple[float, float]]:
    """One run: evaluation count -> (train, test) accuracy of the best-on-train member."""
    work, specialists, start, variant, seed, budget = job
    import genepool

    folder = work / start / variant.replace(" ", "-") / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    strategy = dict(VARIANTS[variant])
    if start == "from_scratch":
        strategy["mutation"] = 0.01
    seeds = write_seeds(folder, specialists, start, seed)
    genepool.evolve(
        {
            "pool": str(folder / "pool"),
            "seeds": [str(path) for path in seeds],
            "tasks": [{"name": "digits", "evaluator": "classifier", "data": "digits"}],
            "strategy": strategy,
            "budget": budget,
            "seed": seed,
            "track_held_out": True,
        }
    )
    with genepool.Pool(folder / "pool") as pool:
        held_out = pool.held_out()
        best, curve, train = 0, {}, -1.0
        for record in pool.records():
            if record.verdict == "accepted" and record.train is not None and record.train > train:
                best, train = record.id, record.train
            if record.step in COUNTS or record.step == budget:
                curve[record.step] = (train, held_out[best])
    return curve


def write_seeds(folder: Path, specialists: Path, start: str, seed: int) -> list[Path]:
    """The two checkpoints that a run starts from."""
    from safetensors.numpy import save_file

    from genepool.run.demo import untrained

    if start == "from_scratch":
        networks = [untrained(seed, number) for number in range(2)]
    else:
        with np.load(specialists) as data:
            networks = [split(data[name]) for name in sorted(data.files)]
    files = [folder / f"seed-{number}.safetensors" for number in range(2)]
    for file, arrays in zip(files, networks, strict=True):
        if not file.exists():
            save_file(arrays, file)
    return files


def split(flat: np.ndarray) -> dict[str, np.ndarray]:
    """The reference's flat order W1 (64x256), b1, W2 (256x10), b2 as named tensors."""
    ends = np.cumsum([64 * 256, 256, 256 * 10])
    first, bias1, second, bias2 = np.split(flat.astype(np.float32), ends)
    return {
        "hidden.weight": first.reshape(64, 256).copy(),
        "hidden.bias": bias1.copy(),
        "output.weight": second.reshape(256, 10).copy(),
        "output.bias": bias2.copy(),
    }


def checks(found: dict[str, Any], reference: dict[str, Any]) -> list[dict[str, Any]]:
    """Each variant's end point against the reference's mean less two standard errors."""
    out: list[dict[str, Any]] = []
    for start, variants in found.items():
        for variant, curve in variants.items():
            known = reference[start].get(variant)
            if known is None:
                continue
            counts = [count for count in curve if str(count) in known["train"]]
            if not counts:
                continue
            count = max(counts)
            row: dict[str, Any] = {"start": start, "variant": variant, "evaluations": count}
            for kind in ("train", "test"):
                there = known[kind][str(count)]
                number = len(there["per_seed"])
                error = float(np.std(there["per_seed"], ddof=1)) / number**0.5
                mine = float(np.mean(curve[count][kind]))
                row[kind] = {
                    "genepool": round(mine, 4),
                    "std": round(float(np.std(curve[count][kind], ddof=0)), 4),
                    "reference": there["mean"],
                    "reference_seeds": number,
                    "at_least": round(there["mean"] - 2 * error, 4),
                    "ok": mine >= there["mean"] - 2 * error,
                }
            out.append(row)
    return out


def table(found: dict[str, Any], reference: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "| start | variant | evaluations | train | reference | test | reference | no worse |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        train, test = row["train"], row["test"]
        lines.append(
            f"| {row['start'].replace('_', ' ')} | {row['variant']} | {row['evaluations']:,} "
            f"| {100 * train['genepool']:.1f} +- {100 * train['std']:.1f} "
            f"| {100 * train['reference']:.1f} ({train['reference_seeds']} seeds) "
            f"| {100 * test['genepool']:.1f} +- {100 * test['std']:.1f} "
            f"| {100 * test['reference']:.1f} "
            f"| {'yes' if train['ok'] and test['ok'] else 'NO'} |"
        )
    return "\n".join(lines) + "\n"


def plot(found: dict[str, Any], reference: dict[str, Any], file: Path) -> None:
    """Test accuracy over evaluations, mean and standard error, the reference dashed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Okabe and Ito's palette, which colour-blind readers can tell apart.
    colours = dict(
        zip(VARIANTS, ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"), strict=True)
    )
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), constrained_layout=True)
    for panel, (start, variants) in zip(axes, found.items(), strict=True):
        for variant, curve in variants.items():
            counts = sorted(curve)
            values = [100 * np.array(curve[count]["test"]) for count in counts]
            means = np.array([value.mean() for value in values])
            errors = np.array([value.std() / max(1, value.size - 1) ** 0.5 for value in values])
            panel.plot(counts, means, color=colours[variant], label=variant)
            panel.fill_between(
                counts, means - errors, means + errors, color=colours[variant], alpha=0.2, lw=0
            )
            known = reference[start].get(variant, {}).get("test", {})
            if known:
                panel.plot(
                    [int(count) for count in known],
                    [100 * entry["mean"] for entry in known.values()],
                    color=colours[variant],
                    ls="--",
                    lw=1,
                )
        panel.set_xscale("log")
        panel.set_xlabel("evaluations")
        panel.set_ylabel("test accuracy of the best on training data (%)")
        panel.set_title(
            start.replace("_", " ") + " (dashed: reference implementation)", fontsize=10
        )
        panel.grid(alpha=0.3)
    axes[1].legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=130)


if __name__ == "__main__":
    main()
