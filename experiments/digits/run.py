"""The paper's first experiment: all strategies, both starts, on 8x8 digits or on MNIST.

    python experiments/digits/run.py                  # digits, all of it; resumable
    python experiments/digits/run.py --data mnist     # the same on 28x28, into experiments/mnist
    python experiments/digits/run.py --collect        # only write anew what has been run
    python experiments/digits/run.py --add FILE       # the recorded results and FILE's, together
    python experiments/digits/run.py --smoke          # a tiny one, for CI

Pools go to --work, so that an interrupted experiment goes on. Writes results.json, table.md and
plots: for each strategy the mean and standard deviation over seeds of the best-on-train member's
training and test accuracy and of the archive's coverage and entropy, over the evaluations; beside
them what the reference implementation (shared/reference/digits.json) and the paper have.

The digits' pre-trained start uses the reference's own two specialists, since another pair has
another ceiling; MNIST's are trained here, by the paper's recipe. From scratch every seed of the
randomness has two untrained networks of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from plots import plot_accuracy, plot_diversity, plot_sweeps
from results import add_runs, curve_file, pool_rows, summarise, tables

from genepool.checkpoints.files.atomic import write_bytes
from genepool.run.progress import StepReport
from genepool.run.run_file import load_run
from genepool.study.compare import plan_jobs
from genepool.study.digits import train, untrained
from genepool.study.grid import Job, run_grid
from genepool.tasks.datasets import read_array

HERE = Path(__file__).parent
STARTS = ("pre_trained", "from_scratch")
ODD_EVEN = [
    {"task": "digits", "labels": ["1", "3", "5", "7", "9"]},
    {"task": "digits", "labels": ["0", "2", "4", "6", "8"]},
]
# The reference's sizes: 20 members, a grid of 10 x 10, generations of 20.
M2N2: dict[str, Any] = {"name": "m2n2", "archive": 20}
SHARED: dict[str, dict[str, Any]] = {
    "m2n2": M2N2,
    "m2n2-without-attraction": {**M2N2, "attraction": False},
    "m2n2-without-split-point": {**M2N2, "split_point": False},
    "ga": {"name": "ga", "archive": 20},
    "map-elites": {"name": "map-elites", "measures": ODD_EVEN},
}
MAIN: dict[str, dict[str, dict[str, Any]]] = {
    "pre_trained": {
        **SHARED,
        "cma-es": {"name": "cma-es"},
        "cma-es-by-tensor": {
            "name": "cma-es",
            "groups": ["hidden.weight", "hidden.bias", "output.weight", "output.bias"],
        },
    },
    "from_scratch": {
        **SHARED,
        "m2n2-without-crossover": {**M2N2, "crossover": False},
        "ga-without-crossover": {"name": "ga", "archive": 20, "crossover": False},
        "cma-es": {"name": "cma-es", "weights": True, "sigma": 0.01},
    },
}
SWEEPS: dict[str, dict[str, Any]] = {
    **{f"m2n2-archive-{size}": {**M2N2, "archive": size} for size in (5, 10, 50, 100)},
    **{f"m2n2-alpha-{alpha}": {**M2N2, "alpha": alpha} for alpha in (0.0, 0.5, 1.5, 2.0)},
}
# Children of each run, where the reference's runs end or its counts are: 5,000, 10,000, 20,000.
BUDGETS: dict[str, dict[str, dict[str, int]]] = {
    "digits": {
        "pre_trained": dict.fromkeys((*MAIN["pre_trained"], *SWEEPS), 5000),
        "from_scratch": {
            **dict.fromkeys((*MAIN["from_scratch"], *SWEEPS), 10000),
            "m2n2": 20000,
            # The reference has no more of it; the others take longer than it is worth.
            "map-elites": 5000,
            "ga-without-crossover": 5000,
            "cma-es": 5000,
        },
    },
    "mnist": {
        "pre_trained": dict.fromkeys((*MAIN["pre_trained"], *SWEEPS), 3000),
        "from_scratch": dict.fromkeys((*MAIN["from_scratch"], *SWEEPS), 10000),
    },
}
MUTATION = 0.01


def main() -> None:
    """Run what is missing, then write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=list(BUDGETS), default="digits")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=int, help="at most so many children of each run")
    parser.add_argument("--start", choices=STARTS, help="run only this start")
    parser.add_argument("--variants", help="run only these, such as m2n2,ga")
    parser.add_argument("--work", type=Path, help="where the pools go (default: OUT/work)")
    parser.add_argument("--out", type=Path, help="where results go (default: experiments/DATA)")
    parser.add_argument("--shared", type=Path, default=HERE.parents[2] / "shared")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--first-seed", type=int, default=0, help="run none before this one")
    parser.add_argument("--add", type=Path, help="a results.json of other seeds; run nothing")
    parser.add_argument("--collect", action="store_true", help="run nothing")
    parser.add_argument("--smoke", action="store_true", help="30 evaluations, one seed")
    args = parser.parse_args()
    if not (args.shared / "reference").is_dir():
        sys.exit(f"{args.shared}: not the shared folder; name it with --shared")
    out = args.out or HERE.parent / args.data
    work = args.work or out / "work"
    most = 30 if args.smoke else args.budget or 10**9
    budgets = {
        start: {label: min(budget, most) for label, budget in labels.items()}
        for start, labels in BUDGETS[args.data].items()
    }
    if args.add is not None:
        results = json.loads((out / "results.json").read_text())
        pool_rows(results, json.loads(args.add.read_text()))
        write(results, out)
        return
    wanted = args.variants.split(",") if args.variants else None
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    if not args.collect:
        for start in [args.start] if args.start else STARTS:
            labels = variants(start, budgets)
            chosen = {k: v for k, v in labels.items() if wanted is None or k in wanted}
            seeds = 1 if args.smoke else args.seeds
            jobs = plan(args.data, args.shared, work, start, chosen, args.first_seed, seeds)
            if jobs:
                run_grid(jobs, min(args.jobs, len(jobs)), Counter(start))
                print(file=sys.stderr)
    reference: dict[str, Any] = {}
    if args.data == "digits":
        reference = json.loads((args.shared / "reference" / "digits.json").read_text())
        add_runs(reference, HERE / "reference.jsonl")
    found = {
        start: {
            label: {
                seed: curve
                for seed in range(args.seeds)
                if (curve := curve_file(work / start / "runs" / label / str(seed), budget))
            }
            for label, (_, budget) in variants(start, budgets).items()
        }
        for start in STARTS
    }
    write(summarise(found, reference), out)


def write(results: dict[str, Any], out: Path) -> None:
    """Results, tables and plots."""
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / "results.json", (json.dumps(results) + "\n").encode())
    write_bytes(out / "table.md", tables(results).encode())
    plot_accuracy(results, out / "accuracy.png", list(MAIN["from_scratch"]))
    plot_diversity(results, out / "diversity.png", list(MAIN["from_scratch"]))
    if any(label in results["runs"][start] for start in STARTS for label in SWEEPS):
        plot_sweeps(results, out / "competition.png")
    print((out / "table.md").read_text())


def variants(
    start: str, budgets: dict[str, dict[str, int]]
) -> dict[str, tuple[dict[str, Any], int]]:
    """Label -> options and budget."""
    known = {**MAIN[start], **SWEEPS}
    return {label: (known[label], budget) for label, budget in budgets[start].items()}


class Counter:
    """Tells how far all runs together are."""

    def __init__(self, title: str) -> None:
        """Under a title."""
        self._title = title

    def stage(self, text: str) -> None:
        """Says nothing."""

    def step(self, report: StepReport) -> None:
        """Overwrite the line."""
        text = f"\r{self._title}: {report.evaluations:,} of {report.budget:,}"
        print(text, end="", file=sys.stderr, flush=True)


def plan(
    data: str,
    shared: Path,
    work: Path,
    start: str,
    chosen: dict[str, tuple[dict[str, Any], int]],
    first: int,
    seeds: int,
) -> list[Job]:
    """The runs of one start, from seed `first` on, that have not been done."""
    jobs: list[Job] = []
    for seed in range(first, seeds):
        folder = work / start
        networks = write_seeds(data, shared, folder, start, seed)
        run = load_run(
            {
                "pool": str(folder / "unused"),
                "seeds": [str(path) for path in networks],
                "tasks": [task(data, shared)],
                "seed": seed,
            }
        )
        for label, (options, budget) in chosen.items():
            if start == "from_scratch" and options["name"] != "cma-es":
                options = {**options, "mutation": MUTATION}
            (job,) = plan_jobs(run, folder, [], [(label, options)], 1, budget)
            if curve_file(job.pool, budget) is None:
                jobs.append(job)
    return jobs


def task(data: str, shared: Path) -> dict[str, Any]:
    """The first 80 % of the images to evolve on, the others held out, in stored order."""
    entry: dict[str, Any] = {"name": "digits", "evaluator": "classifier"}
    if data == "digits":
        return {**entry, "data": "digits"}
    images, labels = mnist_files(shared)
    scaled = {"held_out": 0.2, "scale": 1 / 255}
    return {**entry, "images": str(images), "labels": str(labels), **scaled}


def mnist_files(shared: Path) -> tuple[Path, Path]:
    """Images and labels."""
    folder = shared.absolute() / "data" / "mnist"
    return folder / "t10k-images-idx3-ubyte.gz", folder / "t10k-labels-idx1-ubyte.gz"


def write_seeds(data: str, shared: Path, folder: Path, start: str, seed: int) -> list[Path]:
    """The two checkpoints that a run starts from."""
    from safetensors.numpy import save

    number = f"-{seed}" if start == "from_scratch" else ""
    files = [folder / "seeds" / f"{which}{number}.safetensors" for which in ("first", "second")]
    if all(file.exists() for file in files):
        return files
    if start == "from_scratch":
        features = 64 if data == "digits" else 784
        networks = [untrained(seed, which, features) for which in range(2)]
    elif data == "digits":
        with np.load(shared / "reference" / "digits_specialists.npz") as arrays:
            networks = [split(arrays[name]) for name in sorted(arrays.files)]
    else:
        images, labels = (read_array(file) for file in mnist_files(shared))
        count = int(0.8 * len(images))
        x = images[:count].reshape(count, -1).astype(np.float32) / 255
        y = labels[:count].astype(np.int64)
        halves = [y // 5 == half for half in range(2)]
        networks = [train(untrained(0, k, 784), x[m], y[m]) for k, m in enumerate(halves)]
    (folder / "seeds").mkdir(parents=True, exist_ok=True)
    for file, arrays in zip(files, networks, strict=True):
        write_bytes(file, save(arrays))
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


if __name__ == "__main__":
    main()
