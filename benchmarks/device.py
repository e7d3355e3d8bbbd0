"""Children on a card: is genepool right there, and how fast is it? Everything in one go.

On a machine with a CUDA device it runs the tests that need one (`pytest -m cuda`), and then
measures, in turn with what each figure is a ratio to:

- a child of 0.5 and of 7 billion parameters from two bfloat16 seeds on the card, with 1, 100 and
  1,000 segments, against `torch.lerp` tensor by tensor on the same card; and of three and four
  seeds, by the bytes that they move;
- the same with seeds in the host's memory (`model.seeds: host`), against one pinned copy of as many
  bytes; and a child that is equal to the last one on half of the parameter axis;
- inner products of a pair of 7 billion parameters;
- what share of a step of a real run is the model's forward pass (a Llama of SmolLM2-135M's shape,
  and one of 1 billion parameters, with random weights).

    python benchmarks/device.py --json benchmarks/device.json

It takes less than eight minutes: what would begin after `--minutes` is left out, and said so. The
file is written anew after each part, so that what was measured is kept. `--smoke` is a tiny run on
the CPU, by torch's operations; with TRITON_INTERPRET=1, by the kernel in triton's interpreter.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genepool.checkpoints.files.checkpoint import Checkpoint, Tensor
from genepool.checkpoints.layout import Layout, build_layout
from genepool.core.genome import Recipe, recipe
from genepool.materialise.cpu import Materialiser
from genepool.materialise.device import DeviceMaterialiser, has_kernel
from genepool.materialise.device_gram import inner_products
from genepool.materialise.device_memory import free_bytes
from genepool.materialise.gram import load_or_build_gram
from genepool.materialise.torch import destination

ROOT = Path(__file__).resolve().parents[1]

# Layers, width and inner width: Qwen2.5-0.5B and Llama-2-7B, as far as parameters go.
SIZES = {"0.5B": (24, 896, 4864, 151_936), "7B": (32, 4096, 11_008, 32_000)}
SMOKE = {"0.5B": (2, 32, 48, 100), "7B": (2, 48, 64, 100)}

# Shapes of Llamas: SmolLM2-135M's and Llama 3.2's of 1 billion parameters.
_NAMES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
          "num_attention_heads", "num_key_value_heads")  # fmt: skip
SMOLLM2 = dict(zip(_NAMES, (49_152, 576, 1536, 30, 9, 3), strict=True))
LARGE = dict(zip(_NAMES, (128_256, 2048, 8192, 16, 32, 8), strict=True))
TINY = dict(zip(_NAMES, (100, 32, 48, 2, 2, 2), strict=True))

_FUNCTION = """
import time
import torch

spent = {"forward": 0.0, "calls": 0}
begun = []
known = []
examples = [{"id": str(number), "number": number} for number in range(64)]

def now():
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()

def before(module, given):
    begun.append(now())

def after(module, given, output):
    spent["forward"] += now() - begun.pop()
    spent["calls"] += 1

def score(model, tokenizer, asked):
    if not any(model is one for one in known):
        known.append(model)
        model.register_forward_pre_hook(before)
        model.register_forward_hook(after)
    ids = [[2 + (one["number"] * 7 + at) % 10 for at in range(LENGTH)] for one in asked]
    logits = model(torch.tensor(ids, device=model.device)).logits[:, -1].float()
    share = logits.softmax(-1)[:, :10].amax(-1)
    return [float(one) for one in share.clamp(0, 1).tolist()]
"""


def shapes(size: tuple[int, int, int, int]) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama, by name."""
    layers, width, inner, words = size
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, width)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        for name in "qkvo":
            found[f"{at}.self_attn.{name}_proj.weight"] = (width, width)
        for name in ("gate", "up"):
            found[f"{at}.mlp.{name}_proj.weight"] = (inner, width)
        found[f"{at}.mlp.down_proj.weight"] = (width, inner)
        for name in ("input", "post_attention"):
            found[f"{at}.{name}_layernorm.weight"] = (width,)
    return {**found, "model.norm.weight": (width,)}


def make_seeds(wanted: Mapping[str, tuple[int, ...]], count: int) -> list[Checkpoint]:
    """Seeds of random bfloat16 values that share one piece of memory, from which each of their
    tensors is another window: no disk is read, and what lies on the card is all their own."""
    longest = max(int(np.prod(shape)) for shape in wanted.values())
    chance = np.random.default_rng(0)
    block = chance.standard_normal(min(longest, 2**22) + 4099, dtype=np.float32) * 0.02
    bits = np.resize((block.view(np.uint32) >> 16).astype(np.uint16), longest + 2**16)
    seeds: list[Checkpoint] = []
    for number in range(count):
        tensors: dict[str, Tensor] = {}
        for place, (name, shape) in enumerate(wanted.items()):
            start = (place * 977 + number * 7919) % 2**16
            raw = bits[start : start + int(np.prod(shape))]
            raw.flags.writeable = False
            tensors[name] = Tensor(name, "BF16", shape, raw)
        held = MappingProxyType(tensors)
        seeds.append(Checkpoint(Path(f"seed{number}"), f"seed{number}", held, {}, ()))
    return seeds


def genomes(size: int, seeds: int, segments: int) -> tuple[Recipe, Recipe]:
    """Two recipes that differ everywhere."""
    chance = np.random.default_rng(segments)
    cuts = np.sort(chance.choice(np.arange(1, size), segments - 1, replace=False))
    bounds = np.array([0, *cuts, size])
    first, second = (chance.dirichlet(np.ones(seeds), segments) for _ in range(2))
    return recipe(bounds, first), recipe(bounds, second)


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """How long a call takes until the device is done."""
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(
    calls: Mapping[str, Callable[[int], object]], device: torch.device, repeats: int
) -> dict[str, float]:
    """The median seconds of each call, one after the other, over again; each once beforehand."""
    for call in calls.values():
        call(0)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(1, repeats + 1):
        for name, call in calls.items():
            times[name].append(seconds(lambda call=call, turn=turn: call(turn), device))
    return {name: statistics.median(found) for name, found in times.items()}


def room(device: torch.device) -> float:
    """Free bytes of the device."""
    found = free_bytes(device)
    return float("inf") if found is None else found[0]


def children(
    wanted: Mapping[str, tuple[int, ...]],
    device: torch.device,
    seeds: Sequence[int],
    segments: Sequence[int],
    repeats: int,
) -> list[dict[str, Any]]:
    """A child from seeds on the card, against torch.lerp over tensors of the same bytes."""
    rows: list[dict[str, Any]] = []
    one = sum(int(np.prod(shape)) for shape in wanted.values()) * 2
    for count in seeds:
        # Seeds, the child, and for two seeds the pair that torch.lerp reads.
        if room(device) < 1.05 * one * (count + 1 + (2 if count == 2 else 0)):
            rows.append({"seeds": count, "left out": "too large for this device"})
            continue
        checkpoints = make_seeds(wanted, count)
        layout = build_layout(checkpoints)
        out = outputs(wanted, device)
        writer = DeviceMaterialiser(checkpoints, layout, out, seeds="device")
        pair: list[list[torch.Tensor]] = []
        if count == 2:
            pair = [[torch.randn_like(t) * 0.02 for t in out.values()] for _ in range(2)]
        for number in segments:
            both = genomes(layout.axis.size, count, number)
            took = in_turn(_against_lerp(writer, both, pair, list(out.values())), device, repeats)
            row: dict[str, Any] = {
                "seeds": count,
                "segments": number,
                "seconds": took["child"],
                "gb_per_s": one * (count + 1) / took["child"] / 1e9,
            }
            if count == 2:
                row |= {"lerp_seconds": took["lerp"], "ratio": took["lerp"] / took["child"]}
            rows.append(row)
        del writer, pair, out
        release(device)
    return rows


def _against_lerp(
    writer: DeviceMaterialiser,
    both: Sequence[Recipe],
    pair: Sequence[Sequence[torch.Tensor]],
    out: Sequence[torch.Tensor],
) -> dict[str, Callable[[int], object]]:
    def lerp(_turn: int) -> None:
        for a, b, target in zip(*pair, out, strict=True):
            torch.lerp(a, b, 0.3, out=target)

    child = {"child": lambda turn: writer.write(both[turn % 2])}
    return {**child, "lerp": lerp} if pair else {**child}


def outputs(wanted: Mapping[str, tuple[int, ...]], device: torch.device) -> dict[str, torch.Tensor]:
    """Tensors for a child."""
    return {n: torch.zeros(s, dtype=torch.bfloat16, device=device) for n, s in wanted.items()}


def release(device: torch.device) -> None:
    """Give memory back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def streamed(
    wanted: Mapping[str, tuple[int, ...]], device: torch.device, repeats: int
) -> dict[str, Any]:
    """A child from two seeds of the host's memory, against a pinned copy of as many bytes."""
    checkpoints = make_seeds(wanted, 2)
    layout = build_layout(checkpoints)
    out = outputs(wanted, device)
    start = time.perf_counter()
    writer = DeviceMaterialiser(checkpoints, layout, out, seeds="host")
    pinning = time.perf_counter() - start
    given = 4 * layout.axis.size
    cuda = device.type == "cuda"
    sample = torch.ones(min(given, 2**30), dtype=torch.uint8, pin_memory=cuda)
    there = torch.empty_like(sample, device=device)
    both = genomes(layout.axis.size, 2, 100)
    half = layout.axis.size // 2
    halves = [recipe([0, half, layout.axis.size], np.array([[0.5, 0.5], row]))
              for row in ([0.2, 0.8], [0.7, 0.3])]  # fmt: skip
    took = in_turn(
        {
            "child": lambda turn: writer.write(both[turn % 2]),
            "copy": lambda _turn: there.copy_(sample, non_blocking=True),
        },
        device,
        repeats,
    )
    same = in_turn({"half": lambda turn: writer.write(halves[turn % 2])}, device, repeats)["half"]
    copied = sample.numel() / took["copy"]
    return {
        "seconds_to_pin": pinning,
        "seconds": took["child"],
        "gb_per_s": given / took["child"] / 1e9,
        "pinned_copy_gb_per_s": copied / 1e9,
        "ratio": given / took["child"] / copied,
        "seconds_with_half_unchanged": same,
        "ratio_with_half_unchanged": same / took["child"],
    }


def same_bits(wanted: Mapping[str, tuple[int, ...]], device: torch.device) -> dict[str, bool]:
    """Whether children of the device are those of the CPU, every element."""
    checkpoints = make_seeds(wanted, 3)
    layout = build_layout(checkpoints)
    genome = genomes(layout.axis.size, 3, 100)[0]
    expected = outputs(wanted, torch.device("cpu"))
    places = {name: destination(tensor) for name, tensor in expected.items()}
    Materialiser(checkpoints, layout, places).write(genome)
    found: dict[str, bool] = {}
    for seeds in ("device", "host"):
        out = outputs(wanted, device)
        DeviceMaterialiser(checkpoints, layout, out, seeds=seeds).write(genome)
        found[seeds] = all(
            torch.equal(out[n].cpu().view(torch.int16), expected[n].view(torch.int16)) for n in out
        )
    return found


def gram(wanted: Mapping[str, tuple[int, ...]], device: torch.device, cpu: bool) -> dict[str, Any]:
    """Inner products of a pair by the device, and by the CPU if asked."""
    checkpoints = make_seeds(wanted, 2)
    layout = build_layout(checkpoints)
    edges = _edges(layout)
    took = seconds(lambda: inner_products(checkpoints, layout, edges, str(device)), device)
    found: dict[str, Any] = {"parameters": layout.axis.size, "seconds": took}
    if cpu:
        found["cpu_seconds"] = seconds(lambda: load_or_build_gram(checkpoints, layout), device)
    return found


def _edges(layout: Layout) -> NDArray[np.int64]:
    block = 2**18
    parts = [np.arange(s.start, s.stop, block, dtype=np.int64) for s in layout.slots]
    return np.concatenate([*parts, np.array([layout.axis.size])])


def step(
    shape: Mapping[str, int], device: torch.device, children: int, length: int
) -> dict[str, Any]:
    """What share of a run's steps is the model's forward pass: batches of 16 texts of `length`."""
    import importlib

    import transformers

    import genepool

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        module = f"device_step_{shape['hidden_size']}_{length}"
        (folder / f"{module}.py").write_text(_FUNCTION.replace("LENGTH", str(length)))
        config = transformers.LlamaConfig(tie_word_embeddings=True, **shape)
        model: Any = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
        for number, seed in enumerate("ab"):
            torch.manual_seed(number)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.01)
            model.save_pretrained(str(folder / seed))
        del model
        run: dict[str, Any] = {
            "pool": str(folder / "pool"),
            "seeds": [str(folder / "a"), str(folder / "b")],
            "tasks": [{"name": "texts", "evaluator": "function", "function": f"{module}:score",
                       "batch": 16}],
            "strategy": {"name": "m2n2", "archive": 8, "warmup": 2},
            "model": {"device": str(device)},
            "early_stop": False,
            "budget": 3,
        }  # fmt: skip
        sys.path.insert(0, str(folder))
        genepool.evolve(run)
        task = importlib.import_module(module)
        task.spent.update(forward=0.0, calls=0)
        result = genepool.evolve({**run, "budget": 3 + children})
        return {
            "children": result.session,
            "seconds_per_child": result.seconds / result.session,
            "forward_passes": task.spent["calls"],
            "forward_share": task.spent["forward"] / result.seconds,
        }


def main() -> None:
    """Check, measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the result to, part by part")
    parser.add_argument("--minutes", type=float, default=6.5, help="no part begins after these")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--without-tests", action="store_true", help="measure only")
    parser.add_argument("--smoke", action="store_true", help="a tiny run on the CPU")
    args = parser.parse_args()
    if not args.smoke and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here; --smoke is a tiny run on the CPU")
    if args.smoke:
        torch.set_num_threads(1)
    began = time.perf_counter()
    device = torch.device("cpu" if args.smoke else "cuda:0")
    sizes, repeats = (SMOKE, 2) if args.smoke else (SIZES, args.repeats)
    half, seven = (shapes(sizes[name]) for name in ("0.5B", "7B"))
    found: dict[str, Any] = {
        "command": " ".join(["python", *(Path(a).name for a in sys.argv)]),
        "device": "cpu" if args.smoke else torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "kernel of triton": has_kernel(device),
        "processors": os.cpu_count(),
    }

    def tests() -> dict[str, Any]:
        words = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "cuda",
            "tests",
            "-p",
            "no:cacheprovider",
        ]
        start = time.perf_counter()
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=240)
        took = time.perf_counter() - start
        return {"code": done.returncode, "seconds": took, "end": done.stdout[-1500:]}

    small, large = (TINY, TINY) if args.smoke else (SMOLLM2, LARGE)
    segments = (1, 100, 1000)
    parts: dict[str, Callable[[], Any]] = {
        "same bits, 0.5B, 3 seeds, 100 segments": lambda: same_bits(half, device),
        "children of 0.5B": lambda: children(half, device, (2,), segments, repeats),
        "children of 7B": lambda: children(seven, device, (2,), segments, repeats),
        "of 3 and 4 seeds, 0.5B": lambda: children(half, device, (3, 4), (100,), repeats),
        "streamed, 0.5B": lambda: streamed(half, device, repeats),
        "inner products, 0.5B": lambda: gram(half, device, True),
        "inner products, 7B": lambda: gram(seven, device, False),
        "step, 135M": lambda: step(small, device, 12, 8 if args.smoke else 256),
        "tests": tests,
        "streamed, 7B": lambda: streamed(seven, device, min(repeats, 5)),
        "step, 1B": lambda: step(large, device, 8, 8 if args.smoke else 256),
    }
    if args.smoke or args.without_tests:
        del parts["tests"]
    for name, measure in parts.items():
        start = time.perf_counter()
        if start - began > 60 * args.minutes:
            found[name] = "left out: no time"
        else:
            try:
                found[name] = measure()
            except Exception as error:  # What else there is shall be measured all the same.
                if args.smoke:
                    raise
                found[name] = f"failed: {type(error).__name__}: {error}"
        release(device)
        text = json.dumps(found[name])
        print(f"{time.perf_counter() - start:7.1f} s  {name}: {text}", flush=True)
        if args.json:
            args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
