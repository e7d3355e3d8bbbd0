"""What a pool of a thousand recipes costs, in memory and on disk, beyond its seeds.

Two bfloat16 seeds of 256 M parameters (random values) and a run of M2N2 whose archive holds 1,000
members, bred, recorded and absorbed by the same code as in any run; only the scores are drawn
instead of measured, since they need no model. Memory is what the process holds anonymously
(mapped seeds are not), over what it held before the pool and its seeds were opened.

    python benchmarks/pool_size.py --json benchmarks/pool_size.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--params", type=int, default=256_000_000, help="parameters of each seed")
    parser.add_argument("--members", type=int, default=1000, help="size of the archive")
    parser.add_argument("--examples", type=int, default=1000, help="scored examples")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--smoke", action="store_true", help="a tiny run")
    args = parser.parse_args()
    params, members = (100_000, 20) if args.smoke else (args.params, args.members)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), params, members, args.examples)
    print(f"{members} recipes over two bfloat16 seeds of {params:,} parameters")
    for name, value in rows.items():
        print(f"  {name:28} {value}")
    if args.json:
        args.json.write_text(json.dumps({"command": " ".join(sys.argv), **rows}, indent=1) + "\n")


def measure(folder: Path, params: int, members: int, examples: int) -> dict[str, float]:
    """Breed until the archive is full, and weigh it."""
    seeds = [write_seed(folder / f"seed{number}.safetensors", params, number) for number in (0, 1)]

    from genepool.checkpoints.files.checkpoint import open_checkpoint
    from genepool.checkpoints.layout import build_layout
    from genepool.core.archive import Member, Verdict
    from genepool.core.examples import examples_of
    from genepool.core.genome import digest, encode, seed_recipe
    from genepool.materialise.gram import load_or_build_gram
    from genepool.pool.pool_header import Seed, TaskEntry
    from genepool.pool.records import Record
    from genepool.pool.writer import PoolWriter
    from genepool.strategies.m2n2 import M2N2
    from genepool.strategies.problem import Problem

    warm_up()
    before = anonymous()
    checkpoints = [open_checkpoint(path) for path in seeds]
    layout = build_layout(checkpoints)
    writer = PoolWriter(folder / "pool")
    gram = load_or_build_gram(checkpoints, layout, folder / "pool")
    given = examples_of(examples, binary=True)
    problem = Problem(
        layout.axis,
        gram,
        given,
        tuple(seed_recipe(layout.axis.size, k, 2) for k in range(2)),
        0,
    )
    writer.set_up(
        {"pins": {}, "kind": "recipe", "axis_size": layout.axis.size, "seed": 0, "budget": 0},
        [Seed(f"s{k}", str(seeds[k]), checkpoints[k].digest()) for k in range(2)],
        [TaskEntry("drawn", "", 1.0, examples, 0, True)],
    )
    strategy = M2N2(archive=members)
    archive = strategy.begin(problem, 1)
    draws = np.random.default_rng(0)
    number = 0
    while number < 2 or not archive.occupied.all():
        proposal = None if number < 2 else strategy.propose(problem, archive, number - 1)
        genome = problem.seeds[number] if proposal is None else proposal.genome
        scores = (draws.random(examples) < 0.6).astype(np.float32)
        parents = () if proposal is None else proposal.plan.parents
        member = Member(number, genome, parents, given.mean(scores))
        archive, outcome = strategy.absorb(archive, member, max(0, number - 1), scores)
        writer.add(
            Record(
                id=number,
                step=max(0, number - 1),
                parents=parents,
                plan="" if proposal is None else proposal.plan.as_json(),
                merge=None if proposal is None else encode(proposal.merge),
                mutation=0.0,
                digest=digest(genome),
                genome=encode(genome),
                verdict=Verdict.ACCEPTED if outcome.accepted else Verdict.REJECTED,
                scores=scores,
                train=member.train,
                fitness=outcome.fitness,
                slot=outcome.slot,
                evicted=outcome.evicted,
                asked=examples,
                error=None,
                seconds=0.0,
            )
        )
        number += 1
    memory = anonymous() - before
    writer.close()
    disk = sum(file.stat().st_size for file in (folder / "pool").iterdir())
    recipes = [member.genome for member in archive.members if member is not None]
    return {
        "members": len(recipes),
        "segments_of_the_largest": max(len(recipe.coefs) for recipe in recipes),
        "seeds_mb": round(sum(path.stat().st_size for path in seeds) / 1e6, 1),
        "memory_mb": round(memory / 1e6, 1),
        "disk_mb": round(disk / 1e6, 1),
    }


def warm_up() -> None:
    """Compile and import what any run uses, so that it is not counted as the pool's."""
    with tempfile.TemporaryDirectory() as folder:
        from genepool.checkpoints.files.checkpoint import open_checkpoint
        from genepool.checkpoints.layout import build_layout
        from genepool.materialise.gram import load_or_build_gram

        paths = [write_seed(Path(folder) / f"{n}.safetensors", 4_000_000, n) for n in (0, 1)]
        checkpoints = [open_checkpoint(path) for path in paths]
        layout = build_layout(checkpoints)
        edges = np.array([0, 10, layout.axis.size])
        load_or_build_gram(checkpoints, layout, None).between(edges)


def write_seed(file: Path, params: int, number: int) -> Path:
    """A checkpoint of eight bfloat16 tensors with values around +-1."""
    draws = np.random.default_rng(number)
    sizes = [params // 8] * 8
    header: dict[str, object] = {}
    for index, size in enumerate(sizes):
        header[f"layers.{index}.weight"] = {
            "dtype": "BF16",
            "shape": [size],
            "data_offsets": [2 * size * index, 2 * size * (index + 1)],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for size in sizes:
            for start in range(0, size, 1 << 22):
                count = min(1 << 22, size - start)
                values = draws.standard_normal(count, dtype=np.float32)
                stream.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    return file


def anonymous() -> int:
    """Bytes that this process holds in memory and that no file stands behind."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this benchmark needs Linux's /proc/self/smaps_rollup")


if __name__ == "__main__":
    main()
