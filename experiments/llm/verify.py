"""Two checks on the real runs: an exported champion is what was recorded; where time goes.

    python experiments/llm/verify.py champion --work WORK [--strategy m2n2]
    python experiments/llm/verify.py breakdown --work WORK [--children 8]

The first writes WORK/champion, WORK/rebuilt and WORK/verify.json, the second WORK/breakdown.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from runs import SMOLLM2, STRATEGIES, loaded, run_file

from genepool.run.progress import Silence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("check", choices=("champion", "breakdown"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--strategy", choices=STRATEGIES, default="m2n2")
    parser.add_argument("--batch", type=int, default=8, help="as in the run")
    parser.add_argument("--children", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    work = args.work.absolute()
    pool = work / "pools" / args.strategy
    if args.check == "champion":
        found = champion(work, pool, args.batch)
        (work / "verify.json").write_text(json.dumps(found, indent=1) + "\n")
    else:
        found = breakdown(work, pool, args.strategy, args.batch, args.children)
        (work / "breakdown.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def champion(work: Path, path: Path, batch: int) -> dict[str, Any]:
    """Export the champion, load the directory alone, score it; rebuild it and compare digests."""
    import genepool

    target, again = work / "champion", work / "rebuilt"
    for folder in (target, again):
        shutil.rmtree(folder, ignore_errors=True)
    with genepool.Pool(path) as pool:
        number = pool.champion()
        if number is None:
            raise SystemExit(f"{path}: no champion yet")
        genepool.export(pool, number, target)
        record = pool.record(number)
        recorded = {"train": record.scores, "test": pool.held_out_scores(number)}
        seeds = [f"{seed.name}={seed.path}" for seed in pool.seeds()]
    found: dict[str, Any] = {"member": number, "files": sorted(p.name for p in target.iterdir())}
    # A fresh process that knows nothing but the directory and the examples.
    script = (
        "import sys, json, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path; import data; from scoring import in_blocks\n"
        "from specialists import opened\n"
        f"model, tokenizer = opened(Path({str(target)!r}))\n"
        f"read = lambda task, name: data.read(Path({str(work / 'evolve')!r}), task, name)\n"
        "print(json.dumps({name: [score for task in ('maths', 'shopping') for score in "
        f"in_blocks(model, tokenizer, read(task, name), {batch})] for name in ('train', 'test')}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    scored = json.loads(done.stdout.splitlines()[-1])
    for name, values in recorded.items():
        if values is not None:
            same = np.array(scored[name], dtype=np.float32) == values
            found[f"{name} examples"] = len(values)
            found[f"{name} scores that differ"] = int((~same).sum())
    subprocess.run(
        [sys.executable, "-m", "genepool", "rebuild", str(target), *seeds, "-o", str(again)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    first, second = digests(target), digests(again)
    found["tensors"] = len(first)
    found["rebuilt tensors that differ"] = sum(first[name] != second.get(name) for name in first)
    return found


def digests(folder: Path) -> dict[str, str]:
    """A digest of every tensor's bytes in a checkpoint directory."""
    import hashlib

    from safetensors.torch import load_file

    return {
        name: hashlib.sha256(tensor.view(torch.uint8).numpy().tobytes()).hexdigest()
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


class Clock:
    """Adds up the time spent in the model's two parts: the decoder and the head."""

    def __init__(self, vocabulary: int) -> None:
        self.seconds, self.calls, self._since, self._vocabulary = 0.0, 0, 0.0, vocabulary

    def _counts(self, module: Any) -> bool:
        name = type(module).__name__
        return name.endswith("Model") or getattr(module, "out_features", 0) == self._vocabulary

    def before(self, module: Any, _: Any) -> None:
        if self._counts(module):
            self._since = time.perf_counter()

    def after(self, module: Any, _: Any, __: Any) -> None:
        if self._counts(module):
            self.seconds += time.perf_counter() - self._since
            self.calls += 1


class Watch(Silence):
    """When the first and the last child were absorbed, and the clock's count then."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.marks = clock, []

    def step(self, report: Any) -> None:
        self.marks.append((time.perf_counter(), self.clock.seconds))


def breakdown(work: Path, path: Path, strategy: str, batch: int, children: int) -> dict[str, Any]:
    """Breed on in a copy of a pool and say which share of a step is the forward pass."""
    import genepool
    from genepool.run.executors.scorer import Scorer
    from genepool.run.inputs import open_inputs

    copy = work / "breakdown-pool"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path, copy)
    with genepool.Pool(copy) as pool:
        done, genomes = pool.evaluations, [pool.genome(slot) for slot in pool.slots().values()]
    base = run_file(work, SMOLLM2, batch)
    config = loaded(
        {**base, "pool": str(copy), "strategy": STRATEGIES[strategy], "early_stop": False}
    )
    clock = Clock(json.loads((work / "models/base/config.json").read_text())["vocab_size"])
    watch = Watch(clock)
    hooks = torch.nn.modules.module
    handles = [
        hooks.register_module_forward_pre_hook(clock.before),
        hooks.register_module_forward_hook(clock.after),
    ]
    genepool.evolve(config, budget=done + children + 1, progress=watch, threads=1)
    for handle in handles:
        handle.remove()
    (start, before), (end, after) = watch.marks[0], watch.marks[-1]
    scorer = Scorer(open_inputs(config), threads=1)
    loads: list[float] = []
    for genome in (*genomes, *genomes[:3]):
        since = time.perf_counter()
        scorer.load(genome)
        loads.append(time.perf_counter() - since)
    shutil.rmtree(copy)
    steps = len(watch.marks) - 1
    return {
        "children": steps,
        "seconds per step": round((end - start) / steps, 4),
        "of these in the forward pass": round((after - before) / steps, 4),
        "share of the forward pass": round((after - before) / (end - start), 4),
        "seconds to materialise a child, median": round(float(np.median(loads[3:])), 4),
        "threads": 1,
        "processors of the machine": os.cpu_count(),
    }


if __name__ == "__main__":
    main()
