"""Breed one model that is good at maths and at acting out of two that are each good at one.

    python experiments/agents/run.py prepare --work WORK
    python experiments/agents/run.py evolve --work WORK       # twice at once: --part 0/2, 1/2
    python experiments/agents/run.py finals --work WORK       # plain merges; what is held out
    python experiments/agents/run.py rescore --work WORK      # the champion, exported, served shop
    python experiments/agents/run.py report --work WORK --out experiments/agents
    python experiments/agents/run.py smoke --work WORK --out OUT

With `--model smollm2 --data ../shared/data` the same for SmolLM2-135M-Instruct. What is made
lies in WORK/MODEL. All of it can be interrupted and goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / "llm"), str(Path(__file__).parents[2] / "examples")]

from games import shop
from runs import BUDGET, KINDS, STRATEGIES, Kind, jobs, loaded, run_file

HERE = Path(__file__).parent
# Strategies of a smoke test: one whose runs differ, and one that has a single run.
SMOKE = ("m2n2", "slerp")
STEPS = ("prepare", "evolve", "finals", "rescore", "report", "smoke")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "step", choices=("prepare", "evolve", "finals", "rescore", "report", "smoke")
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", choices=KINDS, default="miniature")
    parser.add_argument("--data", type=Path, help="the folder shared/data, for SmolLM2")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--budget", type=int, default=BUDGET, help="children of each run")
    parser.add_argument("--runs", type=int, default=5, help="of each strategy")
    parser.add_argument("--only", nargs="+", choices=STRATEGIES, help="only these strategies")
    parser.add_argument("--part", default="0/1", help="K/N: the K-th of N equal parts")
    args = parser.parse_args()
    kind, work = KINDS[args.model], args.work.absolute() / args.model
    part, parts = map(int, args.part.split("/"))
    work.mkdir(parents=True, exist_ok=True)
    if args.step == "prepare":
        from prepare import prepare

        prepare(work, kind, args.data)
    elif args.step == "evolve":
        chosen = jobs(args.only or list(STRATEGIES), args.runs)[part::parts]
        evolve_all(work, kind, chosen, args.budget)
    elif args.step == "finals":
        from finals import score_finals

        score_finals(work, kind, part, parts)
    elif args.step == "rescore":
        from finals import rescore

        rescore(work, kind)
    elif args.step == "report":
        from report import write_report

        write_report(args.work, args.out)
    else:
        smoke(args.work, args.out)


def evolve_all(work: Path, kind: Kind, chosen: list[tuple[str, int]], budget: int) -> None:
    """WORK/pools/LABEL-SEED for every run."""
    import torch

    import genepool

    torch.set_num_threads(1)
    with shop() as (_, settings):
        for label, seed in chosen:
            print(f"== {label} {seed}", flush=True)
            run = run_file(work, kind, settings, label, seed, budget)
            genepool.evolve(loaded(run), threads=1)


def smoke(work: Path, out: Path) -> None:
    """Every part at a tiny size."""
    from finals import rescore, score_finals
    from prepare import prepare, tiny
    from report import write_report

    kind, place = tiny(KINDS["miniature"]), work.absolute() / "miniature"
    place.mkdir(parents=True, exist_ok=True)
    prepare(place, kind, None, smoke=True)
    evolve_all(place, kind, [(label, 0) for label in SMOKE] + [("m2n2", 1)], 3)
    score_finals(place, kind)
    rescore(place, kind)
    write_report(work, out)


if __name__ == "__main__":
    main()
