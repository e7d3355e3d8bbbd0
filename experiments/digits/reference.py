"""More runs of the reference implementation: its own spread needs more than three seeds.

    JAX_PLATFORMS=cpu PYTHON_WITH_JAX experiments/digits/reference.py CHECKOUT FILE --seeds 23
    ... --strategy m2n2-without-attraction --seeds 13
    ... --strategy map-elites --seeds 13

From scratch, as published; the reference draws from PRNGKey(42 + seed): seeds 0 to 2 are those of
shared/reference/digits.json. Goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

_BUDGETS = {"m2n2": 20000, "m2n2-without-attraction": 10000, "map-elites": 5000}


def main() -> None:
    """Run the seeds that FILE lacks, one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--strategy", choices=list(_BUDGETS), default="m2n2")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    sys.path.insert(0, str(args.checkout))
    import map_elites_fn
    import natural_niches_fn

    done: set[tuple[str, int]] = set()
    if args.file.exists():
        rows = map(json.loads, args.file.read_text().splitlines())
        done = {(row["strategy"], row["seed"]) for row in rows}
    budget = _BUDGETS[args.strategy]
    common = {
        "runs": 1,
        "total_forward_passes": budget,
        "store_train_results": True,
        "use_pre_trained": False,
    }
    for module in (map_elites_fn, natural_niches_fn):
        module.tqdm = lambda items, **_: items
    key = natural_niches_fn.jax.random.PRNGKey
    for seed in range(args.first, args.first + args.seeds):
        if (args.strategy, seed) in done:
            continue
        natural_niches_fn.jax.random.PRNGKey = lambda *_, run=seed, **__: key(42 + run)
        found: dict[str, Any]
        if args.strategy == "map-elites":
            found = map_elites_fn.run_map_elites(**common)[0]
        else:
            found = natural_niches_fn.run_natural_niches(
                **common,
                pop_size=20,
                no_matchmaker=args.strategy != "m2n2",
                no_crossover=False,
                no_splitpoint=False,
            )[0]
        row = {
            "strategy": args.strategy,
            "seed": seed,
            "evaluations": budget,
            "train": float(found["train_values"][-1]),
            "test": float(found["test_values"][-1]),
        }
        with args.file.open("a") as out:
            out.write(json.dumps(row) + "\n")
        print(row, flush=True)


if __name__ == "__main__":
    main()
