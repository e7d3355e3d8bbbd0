"""Evolve the two specialists into one model, by five strategies; score, export, report.

    python experiments/llm/run.py evolve --work WORK      # SmolLM2: one run of each strategy
    python experiments/llm/run.py compare --work WORK     # the miniature: twenty seeds of each
    python experiments/llm/run.py report --work WORK --out experiments/llm
    python experiments/llm/run.py smoke --work WORK --out OUT    # all of it, tiny, to see it work

WORK is where specialists.py put SmolLM2's models and examples; the miniature's are in
WORK/miniature. The first two commands can be interrupted and go on where they were.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from runs import MINIATURE, SMOLLM2, STRATEGIES, loaded, run_file

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("evolve", "compare", "report", "smoke"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--budget", type=int, default=150, help="children of each run on SmolLM2")
    parser.add_argument("--small-budget", type=int, default=150, help="and on the miniature")
    parser.add_argument("--seeds", type=int, default=20, help="runs per strategy on the miniature")
    parser.add_argument("--only", nargs="+", choices=STRATEGIES, help="only these strategies")
    args = parser.parse_args()
    args.work = args.work.absolute()
    if args.step == "evolve":
        evolve_all(args.work, args.budget, args.only or list(STRATEGIES))
    elif args.step == "compare":
        compare_all(args.work / "miniature", args.small_budget, args.seeds)
    elif args.step == "report":
        from report import write_report

        write_report(args.work, args.out)
    else:
        smoke(args.work, args.out)


def evolve_all(work: Path, budget: int, labels: list[str]) -> None:
    """WORK/pools/STRATEGY for every strategy of those labels."""
    import genepool

    shared = run_file(work, SMOLLM2, batch=8)
    for label in labels:
        pool = work / "pools" / label
        config = {**shared, "pool": str(pool), "strategy": STRATEGIES[label], "budget": budget}
        genepool.evolve(loaded({**config, "early_stop": False}), threads=1)


def compare_all(work: Path, budget: int, seeds: int) -> None:
    """WORK/compare: every strategy with every seed."""
    from genepool.study.compare import compare

    run = {**run_file(work, MINIATURE, batch=100), "pool": "unused", "early_stop": False}
    compare(
        loaded(run),
        work / "compare",
        variants=list(STRATEGIES.items()),
        runs=seeds,
        budget=budget,
        workers=1,
    )


def smoke(work: Path, out: Path) -> None:
    """Every part at a tiny size; the miniature stands in for SmolLM2."""
    from miniature import make
    from report import write_report
    from verify import breakdown, champion

    make(work, smoke=True)
    shutil.copytree(work, work / "miniature")
    evolve_all(work, 6, ["m2n2", "slerp"])
    compare_all(work / "miniature", 2, 2)
    pool = work / "pools/m2n2"
    found = {
        "verify": champion(work, pool, 8),
        "breakdown": breakdown(work, pool, "m2n2", 8, 3),
    }
    for name, part in found.items():
        (work / f"{name}.json").write_text(json.dumps(part))
    write_report(work, out)


if __name__ == "__main__":
    main()
