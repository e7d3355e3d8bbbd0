"""Breed one image generator out of four, on Japanese captions alone, by several strategies.

    python experiments/pictures/run.py prepare --data ../shared/data/emoji --work WORK
    python experiments/pictures/run.py evolve --work WORK       # twice at once: --part 0/2, 1/2
    python experiments/pictures/run.py finals --work WORK       # plain merges; held-out captions
    python experiments/pictures/run.py report --work WORK --out experiments/pictures
    python experiments/pictures/run.py smoke --data ../shared/data/emoji --work WORK --out OUT

All of it can be interrupted and goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from runs import BUDGETS, DRAWING, SETTINGS, STRATEGIES, jobs, prepare, run_file

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("prepare", "evolve", "finals", "report", "smoke"))
    parser.add_argument("--data", type=Path, help="the folder shared/data/emoji")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--budget", type=int, help="children of each run")
    parser.add_argument("--runs", type=int, default=3, help="of each strategy")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, choices=SETTINGS)
    parser.add_argument("--only", nargs="+", choices=STRATEGIES, help="only these strategies")
    parser.add_argument("--part", default="0/1", help="K/N: the K-th of N equal parts of the runs")
    args = parser.parse_args()
    work = args.work.absolute()
    settings, labels = tuple(args.settings), args.only or list(STRATEGIES)
    if args.step == "prepare":
        prepare(args.data, work)
    elif args.step == "evolve":
        part, parts = map(int, args.part.split("/"))
        chosen = jobs(settings, labels, args.runs)[part::parts]
        evolve_all(work, chosen, args.budget)
    elif args.step == "finals":
        from finals import score_finals

        for setting in settings:
            score_finals(work, setting)
    elif args.step == "report":
        from report import write_report

        write_report(work, args.out, settings)
    else:
        smoke(args.data, work, args.out)


def evolve_all(work: Path, chosen: list[tuple[str, str, int]], budget: int | None) -> None:
    """WORK/SETTING/pools/LABEL-SEED for every run."""
    import torch

    import genepool

    torch.set_num_threads(1)
    for setting, label, seed in chosen:
        print(f"== {setting} {label} {seed}", flush=True)
        children = BUDGETS[setting] if budget is None else budget
        genepool.evolve(run_file(work, setting, label, seed, children), threads=1)


def smoke(data: Path, work: Path, out: Path) -> None:
    """Every part at a tiny size."""
    from finals import score_finals
    from report import write_report

    DRAWING["steps"] = 2
    prepare(data, work, sizes=(2, 2), settings=("B",))
    evolve_all(work, jobs(("B",), ["m2n2", "slerp"], 2), 2)
    score_finals(work, "B")
    write_report(work, out, ("B",))


if __name__ == "__main__":
    main()
