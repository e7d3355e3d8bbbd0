"""Merging two language models of 1.1 B parameters, bfloat16: into memory and onto disk.

The script makes the pair (a Llama-shaped base, and the base with 10 % noise, so that SLERP takes
its true path) and times in the same run: a child into tensors that exist, against `torch.lerp` over
the same tensors and, given an interpreter with mergekit, `merge_state_dicts` and what
mergekit-evolve does in memory; and the whole process `genepool merge`, against `mergekit-yaml` and
against copying one checkpoint. Inputs are in the page cache.

    python benchmarks/merge.py --mergekit PATH/bin/python --json benchmarks/merge.json

`--smoke` is a tiny run without rivals.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.checkpoints.layout import build_layout
from genepool.core.genome import recipe
from genepool.materialise.cpu import Materialiser
from genepool.materialise.torch import destination

SMALL = {"width": 64, "inner": 128, "layers": 2, "heads": 4, "groups": 2, "words": 256}
LARGE = {"width": 2048, "inner": 5632, "layers": 22, "heads": 32, "groups": 4, "words": 32000}

# Seconds for the disk to be done with what was removed (file systems with `discard` tell it late).
SETTLE = 2.0


def shapes(size: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama."""
    width, inner = size["width"], size["inner"]
    narrow = width // size["heads"] * size["groups"]
    out: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (size["words"], width),
        "model.norm.weight": (width,),
        "lm_head.weight": (size["words"], width),
    }
    for layer in range(size["layers"]):
        at = f"model.layers.{layer}"
        for name, shape in (
            ("self_attn.q_proj", (width, width)),
            ("self_attn.k_proj", (narrow, width)),
            ("self_attn.v_proj", (narrow, width)),
            ("self_attn.o_proj", (width, width)),
            ("mlp.gate_proj", (inner, width)),
            ("mlp.up_proj", (inner, width)),
            ("mlp.down_proj", (width, inner)),
            ("input_layernorm", (width,)),
            ("post_attention_layernorm", (width,)),
        ):
            out[f"{at}.{name}.weight"] = shape
    return out


def make_pair(directory: Path, size: dict[str, int]) -> tuple[Path, Path]:
    """Write the base and the base with 10 % noise, with a configuration that transformers reads."""
    made = torch.Generator().manual_seed(0)
    pool = torch.randn(2**24 + 1, generator=made)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": size["width"],
        "intermediate_size": size["inner"],
        "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"],
        "num_key_value_heads": size["groups"],
        "vocab_size": size["words"],
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }

    def draw(shape: tuple[int, ...], offset: int) -> torch.Tensor:
        # Stretches of one long list of random numbers: quick, and different in every tensor.
        count = int(np.prod(shape))
        start = (offset * 7_654_321) % (pool.numel() // 2)
        piece = pool[start : start + count]
        return piece.repeat(-(-count // piece.numel()))[:count].reshape(shape) * 0.02

    paths = directory / "base", directory / "tuned"
    for path, noise in zip(paths, (0.0, 0.1), strict=True):
        path.mkdir()
        (path / "config.json").write_text(json.dumps(config))
        tensors = {
            name: (draw(shape, i) + noise * draw(shape, i + 5000)).bfloat16()
            for i, (name, shape) in enumerate(shapes(size).items())
        }
        save_file(tensors, path / "model.safetensors", {"format": "pt"})
    return paths


def timed(program: Callable[[], None], repeats: int) -> list[float]:
    """Seconds of each run, after one that is not counted."""
    out: list[float] = []
    for turn in range(repeats + 1):
        start = time.perf_counter()
        program()
        if turn:
            out.append(time.perf_counter() - start)
    return out


def in_memory(pair: tuple[Path, Path], repeats: int) -> dict[str, list[float]]:
    """A child into tensors that exist, in turn with torch.lerp over the same tensors."""
    checkpoints = [open_checkpoint(path) for path in pair]
    layout = build_layout(checkpoints)
    live = {slot.name: torch.zeros(slot.shape, dtype=torch.bfloat16) for slot in layout.slots}
    writer = Materialiser(checkpoints, layout, {n: destination(t) for n, t in live.items()})
    genome = recipe([0, layout.axis.size], np.array([[0.71, 0.31]]))
    sides = [
        [
            torch.frombuffer(bytearray(c.tensors[s.name].raw.tobytes()), dtype=torch.bfloat16)
            for s in layout.slots
        ]
        for c in checkpoints
    ]
    flat = [live[slot.name].reshape(-1) for slot in layout.slots]

    def lerp() -> None:
        for a, b, out in zip(*sides, flat, strict=True):
            torch.lerp(a, b, 0.3, out=out)

    found: dict[str, list[float]] = {"genepool_into_memory": [], "torch_lerp": []}
    for turn in range(repeats + 1):
        for name, program in (
            ("genepool_into_memory", lambda: writer.write(genome)),
            ("torch_lerp", lerp),
        ):
            start = time.perf_counter()
            program()
            if turn:
                found[name].append(time.perf_counter() - start)
    return found


def peak(command: list[str]) -> tuple[float, int]:
    """Seconds, and peak anonymous memory of a process in bytes (0 where the system hides it)."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    highest = 0
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            highest = max(highest, *(int(x.split()[1]) for x in lines if x.startswith("RssAnon")))
        except (OSError, TypeError):
            pass
        time.sleep(0.01)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError((process.stderr.read() if process.stderr else b"").decode()[-2000:])
    return seconds, highest * 1024


def onto_disk(
    folder: Path, pair: tuple[Path, Path], repeats: int, mergekit: Path | None, settle: float
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Whole processes, in turn."""
    out = folder / "out"
    yaml = folder / "slerp.yaml"
    yaml.write_text(
        f"merge_method: slerp\nbase_model: {pair[0]}\nmodels:\n- model: {pair[0]}\n"
        f"- model: {pair[1]}\nparameters: {{t: 0.3}}\ndtype: bfloat16\n"
    )
    # As a user starts it.
    script = str(Path(sys.executable).with_name("genepool"))
    command = [script, "merge", *map(str, pair), "--ratio", "0.3"]
    programs: dict[str, list[str]] = {
        "genepool_merge": [*command, "-o", str(out)],
        "cp": ["cp", "-r", str(pair[0]), str(out)],
        "cp_and_sync": ["sh", "-c", f"cp -r {pair[0]} {out} && sync {out}/*"],
    }
    if mergekit is not None:
        tool = [str(mergekit.parent / "mergekit-yaml"), str(yaml), str(out)]
        programs["mergekit_yaml"] = tool
        best = ["--no-copy-tokenizer", "--lazy-unpickle", "--no-write-model-card", "--async-write"]
        programs["mergekit_yaml_best"] = [*tool, *best]
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    memory = dict.fromkeys(programs, 0)
    for turn in range(repeats + 1):
        for name, program in programs.items():
            # The slow ones are measured once (defaults) and twice (best options).
            if turn > {"mergekit_yaml": 1, "mergekit_yaml_best": 2}.get(name, turn):
                continue
            shutil.rmtree(out, ignore_errors=True)
            os.sync()
            time.sleep(settle)
            taken, used = peak(program)
            print(f"{name} {taken:.2f} s, {used / 1e6:.0f} MB", flush=True)
            memory[name] = max(memory[name], used)
            if turn:
                seconds[name].append(taken)
    shutil.rmtree(out, ignore_errors=True)
    return seconds, memory


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="measured runs of each program")
    parser.add_argument("--mergekit", type=Path, help="interpreter that has mergekit")
    parser.add_argument("--directory", type=Path, help="where the pair is written (default: tmp)")
    parser.add_argument("--pair", type=Path, help="folder where an earlier run left its pair")
    parser.add_argument("--no-disk", action="store_true", help="only what happens in memory")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--smoke", action="store_true", help="a tiny run without rivals")
    args = parser.parse_args()
    repeats = 1 if args.smoke else args.repeats
    mergekit = None if args.smoke else args.mergekit
    with tempfile.TemporaryDirectory(dir=args.directory) as name:
        folder = Path(name)
        if args.pair is not None:
            pair = args.pair / "base", args.pair / "tuned"
        else:
            pair = make_pair(folder, SMALL if args.smoke else LARGE)
        seconds = in_memory(pair, repeats)
        print(json.dumps(seconds), flush=True)
        if mergekit is not None:
            rival = Path(__file__).parent / "rivals" / "mergekit_memory.py"
            done = subprocess.run(
                [str(mergekit), str(rival), *map(str, pair), str(repeats)],
                capture_output=True,
                text=True,
            )
            if done.returncode:
                print(f"mergekit_memory.py failed: {done.stderr[-1500:]}", file=sys.stderr)
            else:
                seconds |= json.loads(done.stdout.strip().splitlines()[-1])
        memory: dict[str, int] = {}
        if not args.no_disk:
            disk, memory = onto_disk(folder, pair, repeats, mergekit, 0 if args.smoke else SETTLE)
            seconds |= disk
    medians = {name: statistics.median(runs) for name, runs in seconds.items() if runs}
    result: dict[str, Any] = {
        "command": " ".join(["python", *(Path(a).name for a in sys.argv)]),
        "parameters": sum(int(np.prod(s)) for s in shapes(SMALL if args.smoke else LARGE).values()),
        "median_seconds": medians,
        "seconds": seconds,
        "peak_anonymous_bytes": memory,
        "ratios": {
            f"{rival} / {ours}": medians[rival] / medians[ours]
            for rival, ours in (
                ("torch_lerp", "genepool_into_memory"),
                ("merge_state_dicts", "genepool_into_memory"),
                ("mergekit_evolve", "genepool_into_memory"),
                ("cp", "genepool_merge"),
                ("cp_and_sync", "genepool_merge"),
                ("mergekit_yaml", "genepool_merge"),
                ("mergekit_yaml_best", "genepool_merge"),
            )
            if rival in medians and ours in medians
        },
        "load_average_at_end": os.getloadavg()[0],
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
    }
    for name, taken in medians.items():
        print(f"{name:>22}  {taken:8.3f} s")
    for name, ratio in result["ratios"].items():
        print(f"{name:>44}  {ratio:6.2f}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
