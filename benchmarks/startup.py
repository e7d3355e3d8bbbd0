"""How long commands that only read take to start, against `mergekit-yaml --help`, in one run.

python benchmarks/startup.py --mergekit PATH_OF_MERGEKIT_YAML --json benchmarks/startup.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def main() -> None:
    """Measure in turn, print a table, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mergekit", help="path of mergekit-yaml")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--smoke", action="store_true", help="a tiny run")
    args = parser.parse_args()
    genepool = str(Path(sys.executable).with_name("genepool"))
    with tempfile.TemporaryDirectory() as folder:
        pool = make_pool(Path(folder))
        commands = {
            "genepool --help": [genepool, "--help"],
            "genepool status": [genepool, "status", str(pool)],
            "genepool show": [genepool, "show", str(pool), "best"],
        }
        if args.mergekit:
            commands["mergekit-yaml --help"] = [args.mergekit, "--help"]
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for command in commands.values():
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for _ in range(1 if args.smoke else args.repeats):
            for name, command in commands.items():
                start = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                seconds[name].append(time.perf_counter() - start)
    rows = {name: round(statistics.median(times), 3) for name, times in seconds.items()}
    slowest = max(value for name, value in rows.items() if name.startswith("genepool"))
    for name, value in rows.items():
        print(f"  {name:24} {value:.3f} s")
    out = {"command": " ".join(sys.argv), "seconds": rows}
    if args.mergekit:
        out["share_of_mergekit"] = round(slowest / rows["mergekit-yaml --help"], 3)
        print(f"  slowest of ours takes {out['share_of_mergekit']:.1%} of mergekit's time")
    if args.json:
        args.json.write_text(json.dumps(out, indent=1) + "\n")


def make_pool(folder: Path) -> Path:
    """A finished run of 200 children on a small network."""
    from safetensors.numpy import save_file

    import genepool

    draws = np.random.default_rng(0)
    y = np.arange(150) % 3
    x = (draws.normal(size=(3, 8))[y] + draws.normal(size=(150, 8))).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=y)
    for number in (1, 2):
        arrays = {
            "hidden.weight": draws.normal(size=(8, 16)).astype(np.float32),
            "hidden.bias": np.zeros(16, dtype=np.float32),
            "output.weight": draws.normal(size=(16, 3)).astype(np.float32),
            "output.bias": np.zeros(3, dtype=np.float32),
        }
        save_file(arrays, folder / f"{number}.safetensors")
    genepool.evolve(
        {
            "pool": str(folder / "pool"),
            "seeds": [str(folder / f"{number}.safetensors") for number in (1, 2)],
            "tasks": [{"name": "x", "evaluator": "classifier", "data": str(folder / "data.npz")}],
            "budget": 200,
        }
    )
    return folder / "pool"


if __name__ == "__main__":
    main()
