"""Variants of M2N2 against M2N2, on the same seeds; one line of JSON per run, so it goes on.

python experiments/beyond/run.py --start pre --steps 5000 --seeds 20 --only "plain;risk 0.2"
"""

from __future__ import annotations

import time
from dataclasses import replace

import lab
from variants import Variant

from genepool.strategies import Niches


def variants(steps: int) -> dict[str, Niches]:
    """By name."""
    return {
        "plain": Variant(),
        "risk 0.05": Variant(risk=0.05),
        "risk 0.2": Variant(risk=0.2),
        "(a) kin 4": Variant(kinship=4),
        "(a) strangers 1": Variant(kinship=-1),
        "(a) learnt": Variant(learnt=1.0),
        "(b) two splits": Niches(splits=2),
        "(b) four splits": Niches(splits=4),
        "(b) eight splits": Niches(splits=8),
        "(b) boundaries 0.5": Variant(boundary=0.5),
        "(c) size 5 to 20": Variant(first_size=5, over=steps // 2),
        "(c) size 5 to 60": Variant(first_size=5, size=60, over=steps),
        "size 60": Variant(size=60),
        "(c) alpha 0.5 to 1": Variant(first_alpha=0.5, over=steps // 2),
        "(c) alpha 1 to 2": Variant(first_alpha=1.0, alpha=2.0, over=steps),
        "alpha 2": Niches(alpha=2.0),
        "(b+c) four splits, alpha 1 to 2": Variant(
            first_alpha=1.0, alpha=2.0, over=steps, splits=4
        ),
        "(d) third parent": Variant(third=1.0),
        "(d) third parent 0.3": Variant(third=0.3),
        "(a+b) kin 4, two splits": Variant(kinship=4, splits=2),
        "(d) third parent, other draws": Variant(third=2.0),
        "(b+d) four splits, third parent": Variant(splits=4, third=2.0),
    }


def main() -> None:
    """Run what is missing."""
    parser = lab.arguments()
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    file = args.work / f"variants-{args.data}-{args.start}-{args.steps}.jsonl"
    done = {(row["variant"], row["seed"]) for row in lab.rows(file)}
    marks = tuple(round(args.steps * part) for part in (0.05, 0.1, 0.2, 0.5))
    for seed in range(args.first, args.first + args.seeds):
        for name, strategy in variants(args.steps).items():
            wanted = not args.only or name in args.only.split(";")
            if (name, seed) in done or not wanted:
                continue
            lab.wait(args.pause)
            began = time.time()
            place = lab.world(args.data, args.start, seed)
            strategy = replace(strategy, mutation=0.01 if args.start == "scratch" else 0.0)
            found = lab.run(place, strategy, args.steps, marks=marks)
            row = {
                "variant": name,
                "seed": seed,
                "curve": found.curve,
                "asked": sum(found.asked) / (args.steps * place.data.train),
                "accepted": found.accepted / args.steps,
                "seconds": round(time.time() - began, 1),
            }
            lab.append(file, row)
            print(name, seed, found.curve[args.steps], row["asked"], row["seconds"], flush=True)


if __name__ == "__main__":
    main()
