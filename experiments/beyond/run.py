"""Options of M2N2 against M2N2, on the same seeds; one line of JSON per run, so it goes on.

    python experiments/beyond/run.py --start pre --steps 5000 --seeds 20 --only "plain;risk 0.2"

The digits as in `experiments/digits`, in memory: the reference's two specialists that merge (`pre`,
which needs the folder shared/), or two untrained networks that also mutate (`scratch`).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool import M2N2, Evolution, Problem
from genepool.core.genome import Genome
from genepool.study.digits import untrained
from genepool.tasks.classifier.mlp import Mlp

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("GENEPOOL_SHARED") or HERE.parents[2] / "shared")
TRAIN, TEST = 1437, 360
SHAPES = {
    "hidden.weight": (64, 256),
    "hidden.bias": (256,),
    "output.weight": (256, 10),
    "output.bias": (10,),
}
SIZES = {name: int(np.prod(shape)) for name, shape in SHAPES.items()}
EDGES = np.cumsum([0, *SIZES.values()])

Float32 = NDArray[np.float32]

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "risk 0.05": {"risk": 0.05},
    "risk 0.2": {"risk": 0.2},
    "(b) two splits": {"splits": 2},
    "(b) four splits": {"splits": 4},
    "(b) eight splits": {"splits": 8},
    "size 60": {"archive": 60},
    "alpha 2": {"alpha": 2.0},
}


@cache
def classifier() -> Mlp:
    """scikit-learn's 8x8 digits, 1,437 to evolve on and 360 held out."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    ids = [str(number) for number in range(len(labels))]
    return Mlp(images.astype(np.float32), labels.astype(np.int64), ids)


def seed_models(start: str, seed: int) -> list[Float32]:
    """The tensors of two networks, each laid end to end."""
    if start == "pre":
        with np.load(SHARED / "reference" / "digits_specialists.npz") as file:
            return [file[name].astype(np.float32) for name in sorted(file.files)]
    made = [untrained(seed, number) for number in range(2)]
    return [np.concatenate([arrays[name].ravel() for name in SHAPES]) for arrays in made]


def correct(weights: Float32, at: NDArray[np.int64], held_out: bool = False) -> Float32:
    """1 for each of these examples that a network gets right, else 0."""
    parts = zip(SHAPES.items(), EDGES, EDGES[1:], strict=False)
    model = {name: weights[low:high].reshape(shape) for (name, shape), low, high in parts}
    first, last = (TRAIN, TRAIN + TEST) if held_out else (0, TRAIN)
    return classifier().correct(model, at, first, last)


def run(start: str, seed: int, options: dict[str, Any], steps: int) -> dict[str, Any]:
    """One run: the champion's accuracies at some steps, and what was asked and accepted."""
    problem = Problem.of_vectors(seed_models(start, seed), TRAIN, seed=seed, tensors=SIZES)
    evolution = Evolution(problem, M2N2(mutation=0.01 if start == "scratch" else 0.0, **options))
    marks = {round(steps * part) for part in (0.05, 0.1, 0.2, 0.5, 1)}
    asked = accepted = 0
    curve: dict[int, tuple[float, float]] = {}

    def test(genome: Genome) -> float:
        return float(correct(problem.express(genome), np.arange(TEST), held_out=True).mean())

    while evolution.evaluations < steps:
        proposal = evolution.ask()
        weights, plan = problem.express(proposal.genome), evolution.plan_for(proposal)
        while not plan.done:
            block = plan.next()
            plan.record(block, correct(weights, block))
        outcome = evolution.tell(proposal.step, plan.scores)
        if proposal.step > 0:
            asked += int(np.count_nonzero(~np.isnan(plan.scores)))
            accepted += outcome.accepted
        champion = evolution.champion
        if evolution.evaluations in marks and champion is not None:
            curve[evolution.evaluations] = champion.train, test(champion.genome)
    return {"curve": curve, "asked": asked / (steps * TRAIN), "accepted": accepted / steps}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--start", choices=("pre", "scratch"), default="pre")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--only", default=";".join(VARIANTS))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    file = args.work / f"variants-digits-{args.start}-{args.steps}.jsonl"
    text = file.read_text() if file.exists() else ""
    done = {(row["variant"], row["seed"]) for row in map(json.loads, text.splitlines())}
    for seed in range(args.first, args.first + args.seeds):
        for name in args.only.split(";"):
            if (name, seed) in done:
                continue
            began = time.time()
            row = {
                "variant": name,
                "seed": seed,
                **run(args.start, seed, VARIANTS[name], args.steps),
            }
            row["seconds"] = round(time.time() - began, 1)
            with file.open("a") as out:
                out.write(json.dumps(row) + "\n")
            print(name, seed, row["curve"][args.steps], row["asked"], row["seconds"], flush=True)


if __name__ == "__main__":
    main()
