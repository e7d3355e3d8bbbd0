"""Order without waiting: how many children in flight keep workers busy, and what they cost.

Children are absorbed in the order in which they were proposed, and child t is proposed when child
t - in_flight was absorbed, so that a run depends on no clock. A slow child holds up the others once
as many are in flight as there may be. Two questions, one script:

1. How busy are 1 to 256 workers with 1 to 4 times as many in flight? Simulated with the times of
   recorded children: of the pools that --pools names, in seconds, and of a run of the digits demo
   with early stop, whose time is the number of examples that each child was asked. Once as if
   each worker had its own child, and once with idle workers that help with the oldest ones.
2. What do 1, 8, 64 and 256 in flight cost in quality at equal evaluations? Runs of the digits demo,
   from two specialists and from scratch, --runs of each.

    python benchmarks/order.py --pools DIR... --json FILE

`--smoke` is a tiny run for CI; `--no-quality` leaves out the second question.
"""

from __future__ import annotations

import argparse
import heapq
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from genepool.study.digits import prepare

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TIMES = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
IN_FLIGHT = (1, 8, 64, 256)
# Parts of a child's question that several workers can share, and workers where it is simulated.
PARTS, HELPED = (4, 20), (16, 64)


def efficiency(seconds: NDArray[np.float64], workers: int, in_flight: int) -> float:
    """Share of the workers' time that is work, in (0, 1], after a first round that fills them.

    Args:
        seconds: float64[n] that each child takes, in the order of proposal.
        workers: their number.
        in_flight: children that are proposed before the oldest is absorbed, at least 1.
    """
    free = [0.0] * min(workers, in_flight)
    absorbed: list[float] = []
    last = 0.0
    for child, takes in enumerate(seconds.tolist()):
        proposed = absorbed[child - in_flight] if child >= in_flight else 0.0
        start = max(proposed, heapq.heappop(free))
        heapq.heappush(free, start + takes)
        last = max(last, start + takes)
        absorbed.append(last)
    # The end is left out: a run has its last children once.
    begin, end = in_flight, len(absorbed) - in_flight
    work = float(seconds[begin:end].sum())
    return min(1.0, work / (workers * (absorbed[end - 1] - absorbed[begin - 1])))


def helped(seconds: NDArray[np.float64], workers: int, in_flight: int, parts: int) -> float:
    """`efficiency` where idle workers help with the oldest children, as executors have it.

    A child that takes half the mean or longer is shared out among up to `parts` workers, each of
    which loses a twentieth of the mean over it; they leave it when there is a new child.
    """
    mean, left = float(seconds.mean()), seconds.tolist()
    crew: dict[int, int] = {}
    begun: dict[int, float] = {}
    absorbed: list[float] = []
    idle, proposed, now = workers, 0, 0.0
    while len(absorbed) < len(left):
        allowed = min(len(left), len(absorbed) + in_flight)
        for child in sorted(crew, key=lambda child: -crew[child]):
            while idle < allowed - proposed and crew[child] > 1:
                crew[child], idle = crew[child] - 1, idle + 1
        while idle and proposed < allowed:
            crew[proposed], begun[proposed] = 1, now
            proposed, idle = proposed + 1, idle - 1
        wake = float("inf")
        for child in sorted(crew) if idle else ():
            late = begun[child] + mean / 2
            if now < late - 1e-9:
                wake = min(wake, late)
            elif left[child] > mean / 10 and (more := min(idle, parts - crew[child])) > 0:
                left[child] += more * mean / 20
                crew[child], idle = crew[child] + more, idle - more
        passed = min(wake - now, *(left[child] / many for child, many in crew.items()))
        now += passed
        for child, many in list(crew.items()):
            left[child] -= passed * many
            if left[child] <= 1e-9:
                idle += crew.pop(child)
        while len(absorbed) < proposed and len(absorbed) not in crew:
            absorbed.append(now)
    begin, end = in_flight, len(absorbed) - in_flight
    work = float(seconds[begin:end].sum())
    return min(1.0, work / (workers * (absorbed[end - 1] - absorbed[begin - 1])))


def simulated(
    seconds: NDArray[np.float64], workers: int, times: float, rounds: int, parts: int = 1
) -> float:
    """`efficiency` over so many rounds of all workers, with times drawn from recorded ones; with
    `helped` where a child has several parts."""
    in_flight = max(1, round(times * workers))
    draws = np.random.default_rng(0)
    size = 2 * in_flight + rounds * workers
    drawn = draws.choice(seconds, size)
    if parts == 1:
        return efficiency(drawn, workers, in_flight)
    return helped(drawn, workers, in_flight, parts)


def recorded(pool: Path) -> NDArray[np.float64]:
    """Seconds of each child, float64[n]."""
    with Pool(pool) as opened:
        seeds = len(opened.header.seeds)
        return np.array([record.seconds for record in opened.records() if record.id >= seeds])


def digits(directory: Path, *, from_scratch: bool, budget: int, seed: int, in_flight: int) -> Path:
    """A pool of the digits demo."""
    run = prepare(directory / "seeds", from_scratch=from_scratch, budget=budget, seed=seed)
    pool = directory / f"pool-{in_flight}"
    seeds = [str(run.resolve(path)) for path in run.given.data["seeds"]]
    changes = {"pool": str(pool), "seeds": seeds, "in_flight": in_flight, "track_held_out": False}
    evolve({**run.given.data, **changes})
    return pool


def asked(pool: Path) -> NDArray[np.float64]:
    """Examples that each child was asked, float64[n]: what its time is proportional to."""
    with Pool(pool) as opened:
        seeds = len(opened.header.seeds)
        counts = [record.asked for record in opened.records() if record.id >= seeds]
    return np.array(counts, dtype=np.float64)


def simulate(sources: dict[str, NDArray[np.float64]], rounds: int) -> dict[str, Any]:
    """Efficiency by source, workers and times, and the least times with 0.95 for all at 64."""
    table: dict[str, Any] = {}
    for name, seconds in sources.items():
        rows = {
            str(workers): [round(simulated(seconds, workers, times, rounds), 3) for times in TIMES]
            for workers in WORKERS
        }
        spread = float(seconds.std() / seconds.mean())
        table[name] = {
            "children": int(seconds.size),
            "deviation_over_mean": round(spread, 2),
            "longest_over_mean": round(float(seconds.max() / seconds.mean()), 1),
            "efficiency_by_workers": rows,
            "with_help_by_parts_and_workers": {
                str(parts): {
                    str(workers): [
                        round(simulated(seconds, workers, times, rounds, parts), 3)
                        for times in TIMES
                    ]
                    for workers in HELPED
                }
                for parts in PARTS
            },
        }
    return {"in_flight_over_workers": TIMES, "sources": table}


def quality(directory: Path, runs: int, budgets: dict[bool, int]) -> dict[str, Any]:
    """Best selection score by start and children in flight, at equal evaluations."""
    out: dict[str, Any] = {}
    for from_scratch, budget in budgets.items():
        rows: dict[str, list[float]] = {str(width): [] for width in IN_FLIGHT}
        for seed in range(runs):
            for width in IN_FLIGHT:
                folder = directory / f"{from_scratch}-{seed}"
                settings = {"budget": budget, "seed": seed, "in_flight": width}
                pool = digits(folder, from_scratch=from_scratch, **settings)
                with Pool(pool) as opened:
                    rows[str(width)].append(float(opened.status()["champion"]["train"]))
        first = rows["1"]
        out["from scratch" if from_scratch else "two specialists"] = {
            "evaluations": budget,
            "runs": runs,
            "by_in_flight": {
                width: {
                    "mean": round(statistics.mean(scores), 4),
                    "median": round(statistics.median(scores), 4),
                    "least": round(min(scores), 4),
                    "mean_less_than_1_in_flight": round(
                        statistics.mean(first) - statistics.mean(scores), 4
                    ),
                    "all": [round(score, 4) for score in scores],
                }
                for width, scores in rows.items()
            },
        }
    return out


def main() -> None:
    """Simulate, run, print tables, and write them as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pools", type=Path, nargs="*", default=[], help="recorded pools")
    parser.add_argument("--runs", type=int, default=10, help="runs of each start and number")
    parser.add_argument("--children", type=int, default=1000, help="from two specialists")
    parser.add_argument("--children-from-scratch", type=int, default=3000, help="from scratch")
    parser.add_argument("--no-quality", action="store_true", help="simulate alone")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--smoke", action="store_true", help="a tiny run")
    args = parser.parse_args()
    runs, rounds = (1, 3) if args.smoke else (args.runs, 50)
    budgets = {False: args.children, True: args.children_from_scratch}
    if args.smoke:
        budgets = {False: 20, True: 20}
    named = [Path(word).name if Path(word).is_dir() else word for word in sys.argv]
    out: dict[str, Any] = {"command": " ".join(["python", *named])}
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        sources = {pool.name: recorded(pool) for pool in args.pools}
        for from_scratch, budget in budgets.items():
            place = Path(folder, f"stop-{from_scratch}")
            settings = {"budget": budget, "seed": 0, "in_flight": 1}
            name = f"digits, early stop, {'from scratch' if from_scratch else 'two specialists'}"
            sources[name] = asked(digits(place, from_scratch=from_scratch, **settings))
        out["simulation"] = simulate(sources, rounds)
        if not args.no_quality:
            out["quality"] = quality(Path(folder), runs, budgets)
    out["processor_seconds"] = round(time.process_time() - began, 1)
    _show(out)
    if args.json:
        args.json.write_text(json.dumps(out, indent=1) + "\n")


def _show(out: dict[str, Any]) -> None:
    print("share of the workers' time that is work, with in_flight =", *TIMES, "times the workers")
    for name, source in out["simulation"]["sources"].items():
        print(f"{name}: {source['children']} children, the longest {source['longest_over_mean']}")
        for workers, row in source["efficiency_by_workers"].items():
            print(f"  {workers:>4} workers ", *(f"{share:6.3f}" for share in row))
        for parts, rows in source["with_help_by_parts_and_workers"].items():
            for workers, row in rows.items():
                shares = " ".join(f"{share:6.3f}" for share in row)
                print(f"  {workers:>4} workers, helped, {parts:>2} parts {shares}")
    for start, found in out.get("quality", {}).items():
        print(f"{start}, {found['evaluations']} evaluations, {found['runs']} runs: mean score")
        for width, row in found["by_in_flight"].items():
            print(f"  {width:>4} in flight {row['mean']:.4f}, least {row['least']:.4f}")
    print(f"{out['processor_seconds']} seconds of the processor")


if __name__ == "__main__":
    main()
