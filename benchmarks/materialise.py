"""Materialising against `torch.lerp`: one pass over the seeds into tensors that exist.

Seeds of random bfloat16 values lie in mapped safetensors files that have been read once. torch
interpolates the same mapped tensors into the same outputs, tensor by tensor, on the same number of
threads, in turn with genepool: `torch.lerp(a, b, t, out=o)` moves 6 bytes per parameter, and so
does genepool with two seeds; with K seeds it moves 2 (K + 1). A rate is bytes moved per second, a
ratio is genepool's rate over torch.lerp's, from the medians of the repeats.

    python benchmarks/materialise.py --json benchmarks/materialise.json

`--float16` compares float16 seeds with bfloat16 ones instead, of the same number and size, in turn:
their inner products and a child in memory (seconds of the processor, which others on the machine
hardly disturb), and a child on the disk (seconds by the clock).

`--smoke` is a tiny run for CI. Other work on the machine spoils the figures: see "cores used by
others" in the output (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from genepool.checkpoints.files.checkpoint import Checkpoint, open_checkpoint
from genepool.checkpoints.layout import Layout, build_layout
from genepool.core.genome import recipe
from genepool.materialise.cpu import Materialiser
from genepool.materialise.gram import load_or_build_gram
from genepool.materialise.torch import destination
from genepool.output.write.weights import genome_tensors, write_tensors

SEEDS = 4
HALVES = (torch.float16, torch.bfloat16)


def shapes(params: int) -> dict[str, tuple[int, ...]]:
    """Tensors like a small language model's, of about `params` parameters in all."""
    width = max(8, int((params / 40) ** 0.5) // 8 * 8)
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (8 * width, width)}
    layers = max(1, (params - 8 * width * width) // (4 * width * width + 2 * width))
    for layer in range(layers):
        found[f"model.layers.{layer}.attn.weight"] = (width, width)
        found[f"model.layers.{layer}.mlp.weight"] = (3 * width, width)
        found[f"model.layers.{layer}.mlp.bias"] = (width,)
        found[f"model.layers.{layer}.norm.weight"] = (width,)
    return found


def make_seeds(
    directory: Path, params: int, dtype: torch.dtype = torch.bfloat16
) -> list[Checkpoint]:
    """Write the seeds, map them, and read every page once."""
    checkpoints: list[Checkpoint] = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        path = directory / f"seed{seed}.{str(dtype).removeprefix('torch.')}.safetensors"
        save_file({n: torch.randn(s).to(dtype) for n, s in shapes(params).items()}, path)
        checkpoint = open_checkpoint(path)
        for tensor in checkpoint.tensors.values():
            np.bitwise_xor.reduce(tensor.raw.view(np.uint16))
        checkpoints.append(checkpoint)
    return checkpoints


def as_torch(checkpoint: Checkpoint, layout: Layout) -> list[torch.Tensor]:
    """The mapped tensors, in axis order, as torch sees them; nothing is copied."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # read-only memory: nobody writes to it
        return [
            torch.frombuffer(checkpoint.tensors[slot.name].raw, dtype=torch.bfloat16)
            for slot in layout.slots
        ]


def take_turns(
    programs: Sequence[Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Median seconds of each program; they run in turn, after one round that is not counted."""
    seconds: list[list[float]] = [[] for _ in programs]
    for turn in range(repeats + 1):
        for program, times in zip(programs, seconds, strict=True):
            start = clock()
            program()
            if turn:
                times.append(clock() - start)
    return [statistics.median(times) for times in seconds]


def against_lerp(
    checkpoints: list[Checkpoint], layout: Layout, threads: int, repeats: int
) -> list[dict[str, Any]]:
    """One row for each number of seeds, and one for two seeds in 1,000 segments."""
    size = layout.axis.size
    outputs = {slot.name: torch.zeros(slot.shape, dtype=torch.bfloat16) for slot in layout.slots}
    places = {name: destination(tensor) for name, tensor in outputs.items()}
    first, second = as_torch(checkpoints[0], layout), as_torch(checkpoints[1], layout)
    flat = [outputs[slot.name].reshape(-1) for slot in layout.slots]

    def lerp() -> None:
        for a, b, out in zip(first, second, flat, strict=True):
            torch.lerp(a, b, 0.3, out=out)

    rng = np.random.default_rng(0)
    cuts = [0, *np.unique(rng.integers(1, size, 999)).tolist(), size]
    many = rng.normal(size=(len(cuts) - 1, 2))
    cases = [(k, recipe([0, size], np.full((1, k), 1 / k))) for k in range(2, SEEDS + 1)]
    cases.append((2, recipe(cuts, many)))
    torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    for seeds, genome in cases:
        writer = Materialiser(checkpoints[:seeds], layout, places, threads)
        reference, ours = take_turns([lerp, lambda: writer.write(genome)], repeats)  # noqa: B023
        bytes_lerp, bytes_ours = 6 * size, 2 * (seeds + 1) * size
        rows.append(
            {
                "seeds": seeds,
                "segments": int(genome.bounds.size) - 1,
                "threads": threads,
                "lerp_seconds": reference,
                "seconds": ours,
                "lerp_gb_per_s": bytes_lerp / reference / 1e9,
                "gb_per_s": bytes_ours / ours / 1e9,
                "ratio": (bytes_ours / ours) / (bytes_lerp / reference),
            }
        )
    return rows


def reading(
    checkpoints: list[Checkpoint], layout: Layout, threads: int, repeats: int
) -> list[dict[str, Any]]:
    """Rates of what reads every seed once: the inner products and the digest."""
    pair = checkpoints[:2]
    total = 2 * 2 * layout.axis.size

    def digest() -> None:
        for checkpoint in pair:
            open_checkpoint(checkpoint.path).digest(threads)

    def gram() -> None:
        load_or_build_gram(pair, layout, None, threads)

    seconds = take_turns([gram, digest], repeats)
    return [
        {"what": what, "threads": threads, "seconds": taken, "gb_per_s": total / taken / 1e9}
        for what, taken in zip(("gram", "digest"), seconds, strict=True)
    ]


def float16(directory: Path, params: int, threads: int, repeats: int) -> list[dict[str, Any]]:
    """What 2 and all seeds of float16 take, over what those of bfloat16 take."""
    rows: list[dict[str, Any]] = []
    kinds = [(dtype, make_seeds(directory, params, dtype)) for dtype in HALVES]
    for count in (2, SEEDS):
        programs: dict[str, list[Callable[[], object]]] = {"gram": [], "memory": [], "disk": []}
        for dtype, made in kinds:
            seeds, layout = made[:count], build_layout(made[:count])
            child = recipe([0, layout.axis.size], np.full((1, count), 1 / count))
            live = {s.name: destination(torch.zeros(s.shape, dtype=dtype)) for s in layout.slots}
            writer = Materialiser(seeds, layout, live, threads)

            def write(seeds: list[Checkpoint] = seeds, layout: Layout = layout) -> None:
                out = directory / "out"
                produce = genome_tensors(child, seeds, layout)  # noqa: B023
                write_tensors(produce, seeds[0], layout, out, threads=threads)
                shutil.rmtree(out)

            programs["gram"].append(partial(load_or_build_gram, seeds, layout, None, threads))
            programs["memory"].append(partial(writer.write, child))
            programs["disk"].append(write)
        for what, pair in programs.items():
            clock = time.perf_counter if what == "disk" else time.process_time
            own, other = take_turns(pair, repeats, clock)
            rows.append({"what": what, "seeds": count, "threads": threads, "float16_seconds": own})
            rows[-1] |= {"bfloat16_seconds": other, "ratio": own / other}
    return rows


def small_model(directory: Path) -> dict[str, float]:
    """Microseconds per write of the paper's 19,210-parameter network, two seeds, 30 segments."""
    shape = {
        "fc1.weight": (256, 64),
        "fc1.bias": (256,),
        "fc2.weight": (10, 256),
        "fc2.bias": (10,),
    }
    checkpoints: list[Checkpoint] = []
    for seed in range(2):
        path = directory / f"mlp{seed}.safetensors"
        save_file({name: torch.randn(size) for name, size in shape.items()}, path)
        checkpoints.append(open_checkpoint(path))
    layout = build_layout(checkpoints)
    outputs = {slot.name: torch.zeros(slot.shape) for slot in layout.slots}
    writer = Materialiser(
        checkpoints, layout, {name: destination(tensor) for name, tensor in outputs.items()}
    )
    bounds = np.linspace(0, layout.axis.size, 31).astype(np.int64)
    genome = recipe(bounds, np.random.default_rng(0).normal(size=(30, 2)))

    def thousand() -> None:
        for _ in range(1000):
            writer.write(genome)

    (seconds,) = take_turns([thousand], 7)
    return {"parameters": layout.axis.size, "microseconds": seconds / 1000 * 1e6}


def busy_seconds() -> tuple[float, float]:
    """Processor seconds that all processes have used, and that this one has; Linux, else zeros."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0, 0.0
    idle = int(fields[3]) + int(fields[4])
    used = (sum(map(int, fields[:8])) - idle) / os.sysconf("SC_CLK_TCK")
    return used, time.process_time()


def processor() -> str:
    """The processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")


def main() -> None:
    """Measure, print tables, and write them as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=int, default=256_000_000, help="parameters of a seed")
    parser.add_argument("--repeats", type=int, default=9, help="measured runs of each program")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads")
    parser.add_argument("--directory", type=Path, help="where the seeds are written (default: tmp)")
    parser.add_argument("--float16", action="store_true", help="float16 against bfloat16, alone")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--smoke", action="store_true", help="a tiny run")
    args = parser.parse_args()
    params, repeats = (200_000, 2) if args.smoke else (args.params, args.repeats)
    if args.float16 or args.smoke:
        with tempfile.TemporaryDirectory(dir=args.directory) as folder:
            halves = [r for n in args.threads for r in float16(Path(folder), params, n, repeats)]
        for row in halves:
            print(
                f"{row['what']:>6}, {row['seeds']} seeds, {row['threads']} threads: float16 "
                f"{row['float16_seconds']:.3f} s, bfloat16 {row['bfloat16_seconds']:.3f} s, "
                f"ratio {row['ratio']:.2f}"
            )
        if args.json and args.float16:
            command = " ".join(["python", *sys.argv])
            args.json.write_text(json.dumps({"command": command, "rows": halves}, indent=2) + "\n")
    if args.float16:
        return
    with tempfile.TemporaryDirectory(dir=args.directory) as folder:
        checkpoints = make_seeds(Path(folder), params)
        layout = build_layout(checkpoints)
        began, before = time.perf_counter(), busy_seconds()
        merges: list[dict[str, Any]] = []
        reads: list[dict[str, Any]] = []
        for threads in args.threads:
            merges += against_lerp(checkpoints, layout, threads, repeats)
            reads += reading(checkpoints, layout, threads, repeats)
        small = small_model(Path(folder))
        all_used, own = (b - a for a, b in zip(before, busy_seconds(), strict=True))
        others = max(0.0, (all_used - own) / (time.perf_counter() - began))
    result = {
        "command": " ".join(["python", *sys.argv]),
        "parameters": layout.axis.size,
        "tensors": len(layout.slots),
        "repeats": repeats,
        "materialise": merges,
        "read": reads,
        "small_model": small,
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "cores_used_by_others": round(others, 2),
        },
    }
    print(f"{layout.axis.size:,} parameters in {len(layout.slots)} tensors, bfloat16")
    print("threads  seeds  segments  torch.lerp GB/s  genepool GB/s  ratio")
    for row in merges:
        print(
            f"{row['threads']:>7}  {row['seeds']:>5}  {row['segments']:>8}  "
            f"{row['lerp_gb_per_s']:>15.2f}  {row['gb_per_s']:>13.2f}  {row['ratio']:>5.2f}"
        )
    for row in reads:
        print(f"{row['what']}, {row['threads']} threads: {row['gb_per_s']:.2f} GB/s of seeds")
    print(f"{small['parameters']:,} parameters: {small['microseconds']:.1f} us per write")
    print(f"cores used by others meanwhile: {others:.2f}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
