"""A block of pictures from a live pipeline against plain diffusers, and materialising beside it.

    python benchmarks/pictures.py --seeds DIR DIR ... --json benchmarks/pictures.json

The seeds are pipelines of one family. In turn the live pipeline, which holds the first of them, and
diffusers' own draw the same pictures. Seconds are the processor's, on one thread, so that what else
the machine does is left out. With --smoke tiny pipelines of random weights are made.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=Path, default=[])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--smoke", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seeds = chosen.seeds
        if chosen.smoke or not seeds:
            sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
            from tests.pipelines import tiny_pipeline

            seeds = [tiny_pipeline(Path(folder) / f"{n}", seed=n, like=0) for n in range(2)]
        repeats = 1 if chosen.smoke else chosen.repeats
        found = measure(seeds, chosen.steps, chosen.batch, repeats)
    for key, value in found.items():
        print(f"{key:>34} {value}")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(seeds: list[Path], steps: int, batch: int, repeats: int) -> dict[str, Any]:
    """Seconds of the processor, in turn."""
    import diffusers
    import torch

    from genepool.checkpoints.family import Source, make_family, open_source
    from genepool.core.genome import Recipe, seed_recipe
    from genepool.models.build import ModelOptions, build_model
    from genepool.models.diffusers import noise_seed, quiet

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    family = make_family([open_source(Source(str(seed.resolve()))) for seed in seeds])
    options = ModelOptions(steps=steps, guidance=3.0)
    live = build_model(options, family.layout, family.checkpoints, Path())
    writer = live.writer(family.checkpoints, family.layout, 1)
    size, count = family.layout.axis.size, len(seeds)
    with quiet():
        plain: Any = diffusers.DiffusionPipeline.from_pretrained(
            str(seeds[0]), torch_dtype=torch.float32
        )
    plain.set_progress_bar_config(disable=True)
    prompts, ids = [f"a face number {n}" for n in range(batch)], [str(n) for n in range(batch)]

    def by_diffusers() -> Any:
        noise = [torch.Generator().manual_seed(noise_seed(name)) for name in ids]
        with quiet(), torch.inference_mode():
            return plain(
                prompt=prompts,
                num_inference_steps=steps,
                guidance_scale=3.0,
                generator=noise,
                output_type="np",
            ).images

    shares = np.random.default_rng(0).dirichlet(np.ones(count), (repeats + 1, 3))
    bounds = np.array([0, size // 3, size // 2, size], dtype=np.int64)
    children = [Recipe(bounds, each) for each in shares]
    writer.write(children[0])
    writing = [seconds(lambda child=child: writer.write(child))[0] for child in children[1:]]
    writer.write(seed_recipe(size, 0, count))
    ours, theirs = [], []
    for turn in range(repeats + 1):
        mine, drawn = seconds(lambda: live.value.pictures(prompts, ids))
        other, expected = seconds(by_diffusers)
        if (drawn != np.rint(expected * 255).astype(np.uint8)).any():
            raise SystemExit("the live pipeline draws other pictures than diffusers")
        if turn:  # the first one loads and plans
            ours.append(mine)
            theirs.append(other)
    block = statistics.median(ours)
    names = " ".join(seed.name for seed in seeds)
    return {
        "command": f"python benchmarks/pictures.py --seeds {names} --steps {steps} --batch {batch}",
        "parameters that evolve": size,
        "seeds": count,
        "pictures in a block": batch,
        "steps": steps,
        "seconds of a block": round(block, 4),
        "by diffusers": round(statistics.median(theirs), 4),
        "ratio": round(block / statistics.median(theirs), 4),
        "ratio of each turn": [round(a / b, 3) for a, b in zip(ours, theirs, strict=True)],
        "seconds to write a child": round(statistics.median(writing), 5),
        "of a block": round(statistics.median(writing) / block, 5),
    }


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long the processor worked for it, and what it gave."""
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


if __name__ == "__main__":
    main()
