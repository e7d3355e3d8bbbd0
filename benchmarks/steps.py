"""Evolution steps per second against the reference implementation, in one run.

The paper's first experiment from scratch: 64-256-10 network, scikit-learn digits, archive 20,
mutation, test accuracy of the champion tracked at every step. Each program runs in a process of its
own, pinned to one core, in turn: reference, genepool without early stop, genepool with it. genepool
is measured as its users run it, with every child written to its pool.

    python benchmarks/steps.py --reference PATH_OF_CHECKOUT --python PYTHON_WITH_JAX --json FILE

The reference is SakanaAI/natural_niches (jax 0.4.31, optax, scikit-learn, tqdm). Without
--reference only genepool is measured. `--smoke` is a tiny run for CI.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_REFERENCE = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
os.environ["JAX_PLATFORMS"] = "cpu"
import natural_niches_fn as reference
reference.tqdm = lambda items, **_: items
settings = dict(runs=1, pop_size=20, store_train_results=True, no_matchmaker=False,
                no_crossover=False, no_splitpoint=False, use_pre_trained=False)
reference.run_natural_niches(total_forward_passes=30, **settings)  # compiles
start = time.perf_counter()
found = reference.run_natural_niches(total_forward_passes=int(sys.argv[2]), **settings)[0]
seconds = time.perf_counter() - start
print("RESULT", int(sys.argv[2]) / seconds, float(found["train_values"][-1]))
"""

_GENEPOOL = """
import os, sys, tempfile
from pathlib import Path
from genepool.run.evolve import evolve
from genepool.study.digits import prepare
with tempfile.TemporaryDirectory() as folder:
    steps, early_stop = int(sys.argv[1]), sys.argv[2] == "on"
    evolve(prepare(Path(folder, "warm-up"), from_scratch=True, budget=30, seed=0))  # compiles
    run = prepare(Path(folder, "run"), from_scratch=True, budget=steps, seed=0)
    os.chdir(run.directory)
    result = evolve({**run.given.data, "early_stop": early_stop})
    status = result.status
    print("RESULT", result.session / result.seconds, status["champion"]["train"],
          status["examples_evaluated"] / status["examples_total"])
"""


def main() -> None:
    """Measure, print a table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, help="checkout of the reference implementation")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has jax")
    parser.add_argument("--steps", type=int, default=4000, help="steps of each run")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each program")
    parser.add_argument("--core", type=int, default=0, help="core that all are pinned to")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--smoke", action="store_true", help="a tiny run")
    args = parser.parse_args()
    steps, repeats = (60, 1) if args.smoke else (args.steps, args.repeats)
    programs = {
        "genepool, early stop off": [sys.executable, "-c", _GENEPOOL, str(steps), "off"],
        "genepool, early stop on": [sys.executable, "-c", _GENEPOOL, str(steps), "on"],
    }
    if args.reference:
        checkout = str(args.reference.resolve())
        programs = {
            "reference": [args.python, "-c", _REFERENCE, checkout, str(steps)],
            **programs,
        }
    measured: dict[str, list[list[float]]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, command in programs.items():
            measured[name].append(_run(command, args.core))
    rates = {name: statistics.median(run[0] for run in runs) for name, runs in measured.items()}
    rows: dict[str, dict[str, Any]] = {}
    for name, runs in measured.items():
        rows[name] = {
            "steps_per_second": round(rates[name], 1),
            "all": [round(run[0], 1) for run in runs],
            "best_train": round(runs[-1][1], 4),
        }
        if len(runs[-1]) > 2:
            rows[name]["share_of_examples"] = round(runs[-1][2], 3)
        if "reference" in rates:
            rows[name]["ratio_to_reference"] = round(rates[name] / rates["reference"], 2)
    print(f"{steps} steps, one core, median of {repeats}")
    for name, row in rows.items():
        print(f"  {name:26}", ", ".join(f"{key} {value}" for key, value in row.items()))
    if args.json:
        out = {"command": " ".join(sys.argv), "steps": steps, "repeats": repeats, "rows": rows}
        args.json.write_text(json.dumps(out, indent=1) + "\n")


def _run(command: list[str], core: int) -> list[float]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    }

    def pin() -> None:
        os.sched_setaffinity(0, {core})

    with tempfile.TemporaryFile("w+") as log:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True, preexec_fn=pin
        )
        if done.returncode:
            log.seek(0)
            sys.exit(f"{command[0]} failed:\n{log.read()[-2000:]}")
    line = next(text for text in done.stdout.splitlines() if text.startswith("RESULT"))
    return [float(part) for part in line.split()[1:]]


if __name__ == "__main__":
    main()
