"""How far merges agree with dense computations in float64, and with mergekit on the same models.

Merges two models by SLERP with each rule for the angle and compares every element with the formula
written out densely in float64, in units in the last place of the output's bfloat16. With the
interpreter of mergekit (`--mergekit`) also its slerp, tensor by tensor, and its linear, task
arithmetic, TIES and DARE. Without models of your own it makes small ones.

    python benchmarks/agreement.py --base DIR --first DIR --second DIR --mergekit PYTHON
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.checkpoints.layout import Layout, build_layout
from genepool.output.by_hand import blend, merge

Tensors = dict[str, torch.Tensor]

RATIO, SPLIT, WEIGHTS, DENSITY = 0.3, 0.37, (0.7, 0.5), 0.5
# Above it mergekit interpolates linearly.
THRESHOLD = 0.9995


def make_small(folder: Path) -> tuple[Path, Path, Path]:
    """A base and two models that differ from it by 10 % noise, bfloat16, shaped like Llama."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=160, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    paths: list[Path] = []
    for number, name in enumerate(("base", "first", "second")):
        torch.manual_seed(0)
        model: Any = transformers.LlamaForCausalLM(config)
        _add_noise(dict(model.named_parameters()), 0.1 * (number > 0), number)
        model.to(torch.bfloat16).save_pretrained(folder / name)
        paths.append(folder / name)
    return paths[0], paths[1], paths[2]


def _add_noise(tensors: Tensors, share: float, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in tensors.values():
            size = tensor.float().norm() / math.sqrt(tensor.numel())
            tensor += (share * size * torch.randn(tensor.shape, generator=draws)).to(tensor.dtype)


def with_noise(model: Path, folder: Path) -> Path:
    """A copy of a model with 10 % noise, so that no tensor is nearly parallel to its like."""
    out = folder / "noisy"
    out.mkdir()
    tensors = read(model)
    _add_noise(tensors, 0.1, 9)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    for file in model.iterdir():
        if file.suffix in (".json", ".jinja") and "index" not in file.name:
            (out / file.name).write_bytes(file.read_bytes())
    return out


def read(directory: Path) -> Tensors:
    """All tensors of a checkpoint directory."""
    out: Tensors = {}
    for file in sorted(directory.glob("*.safetensors")):
        out |= load_file(file)
    return out


def dense_slerp(a: Tensors, b: Tensors, layout: Layout, split: int, angle: str) -> Tensors:
    """The paper's eq. 2 in float64: RATIO left of the split, 1 - RATIO right of it."""
    size = layout.axis.size

    def products(low: int, high: int) -> tuple[float, float, float]:
        sums = [[0.0], [0.0], [0.0]]
        for slot in layout.slots:
            start, stop = max(low, slot.start) - slot.start, min(high, slot.stop) - slot.start
            if start < stop:
                x, y = (side[slot.name].flatten()[start:stop].double() for side in (a, b))
                for out, one, other in zip(sums, (x, x, y), (x, y, y), strict=True):
                    out.append(float(one @ other))
        return math.fsum(sums[0]), math.fsum(sums[1]), math.fsum(sums[2])

    def weights(ratio: float, low: int, high: int) -> tuple[float, float]:
        aa, ab, bb = products(low, high)
        omega = math.acos(max(-1.0, min(1.0, ab / math.sqrt(aa * bb)))) if aa * bb else 0.0
        if math.sin(omega) < 1e-6:
            return 1 - ratio, ratio
        return (
            math.sin((1 - ratio) * omega) / math.sin(omega),
            math.sin(ratio * omega) / math.sin(omega),
        )

    sides = ((RATIO, 0, split), (1 - RATIO, split, size))
    if angle == "global":
        found = [weights(ratio, 0, size) for ratio, _, _ in sides]
    elif angle == "side":
        found = [weights(*side) for side in sides]
    else:
        found = []
    out: Tensors = {}
    for slot in layout.slots:
        x, y = (side[slot.name].flatten().double() for side in (a, b))
        made = torch.empty_like(x)
        for number, (ratio, low, high) in enumerate(sides):
            start, stop = max(low, slot.start) - slot.start, min(high, slot.stop) - slot.start
            if start < stop:
                of = found[number] if found else weights(ratio, slot.start, slot.stop)
                made[start:stop] = of[0] * x[start:stop] + of[1] * y[start:stop]
        out[slot.name] = made.reshape(a[slot.name].shape)
    return out


def against_exact(found: Tensors, exact: Tensors, a: Tensors, b: Tensors) -> dict[str, Any]:
    """Errors of bfloat16 tensors in units in the last place; the best possible is 0.5.

    Where the weights of both models nearly cancel, what float32 arithmetic loses is small beside
    them and large beside the result; so the errors beyond 0.5 are given beside the weights too.
    """
    worst = beyond = 0.0
    late = wrong = elements = 0
    for name, value in exact.items():
        # The exponent of frexp is one more than that of 1.x; bfloat16 keeps 7 bits after the point.
        place = torch.exp2((torch.frexp(value).exponent - 8).clamp(min=-133).double())
        error = (found[name].double() - value).abs() / place
        size = torch.maximum(a[name].double().abs(), b[name].double().abs()).clamp(min=1e-300)
        worst = max(worst, float(error.max()))
        beyond = max(beyond, float((((error - 0.5).clamp(min=0) * place) / size).max()))
        late += int((error > 0.5).sum())
        wrong += int((error > 1).sum())
        elements += value.numel()
    return {
        "tensors": len(exact),
        "elements": elements,
        "not rounded to nearest": late,
        "more than one ulp away": wrong,
        "largest error in ulps": round(worst, 4),
        "largest error beyond 0.5 ulps, beside the larger weight": beyond,
    }


def against_other(
    ours: Tensors, theirs: Tensors, names: list[str], only: Tensors | None = None
) -> dict[str, Any]:
    """Differences of bfloat16 tensors in units in the last place, where `only` is true."""
    elements = one = more = worst = 0
    for name in names:
        gap = (_steps(ours[name]) - _steps(theirs[name])).abs()
        if only is not None:
            gap = gap[only[name]]
        elements += gap.numel()
        one += int((gap == 1).sum())
        more += int((gap > 1).sum())
        worst = max(worst, int(gap.max()) if gap.numel() else 0)
    return {
        "tensors": len(names),
        "elements": elements,
        "differ by one ulp": one,
        "differ by more": more,
        "largest difference in ulps": worst,
    }


def _steps(values: torch.Tensor) -> torch.Tensor:
    """Numbers of bfloat16 counted from zero, so that neighbours differ by one."""
    bits = values.to(torch.bfloat16).contiguous().view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


def run_mergekit(tool: Path, text: str, folder: Path) -> Tensors:
    """What mergekit makes of a configuration, computed in float32 and written as bfloat16."""
    config, out = folder / "config.yaml", folder / "mergekit"
    config.write_text(text + "dtype: float32\nout_dtype: bfloat16\n")
    command = [str(tool.parent / "mergekit-yaml"), str(config), str(out), "--no-copy-tokenizer"]
    subprocess.run(command, check=True, capture_output=True)
    return read(out)


def compare_slerp(tool: Path, a: Path, b: Path, folder: Path) -> dict[str, Any]:
    """Per tensor, apart for the tensors that mergekit interpolates linearly."""
    merge(str(a), str(b), folder / "ours", ratio=RATIO, split=1.0, angle="tensor")
    text = (
        f"merge_method: slerp\nbase_model: {a}\nmodels: [{{model: {a}}}, {{model: {b}}}]\n"
        f"parameters: {{t: {RATIO}}}\n"
    )
    ours, theirs = read(folder / "ours"), run_mergekit(tool, text, folder)
    one, other = read(a), read(b)
    parts: dict[str, list[str]] = {"slerp": [], "linear": []}
    for name in ours:
        x, y = one[name].flatten().double(), other[name].flatten().double()
        cosine = float(x @ y) / max(float(x.norm() * y.norm()), 1e-300)
        parts["linear" if abs(cosine) > THRESHOLD else "slerp"].append(name)
    layout = build_layout([open_checkpoint(a), open_checkpoint(b)])
    exact = dense_slerp(one, other, layout, layout.axis.size, "tensor")
    exact = {name: exact[name] for name in parts["slerp"]}
    return {
        "where mergekit's threshold does not apply": {
            **against_other(ours, theirs, parts["slerp"]),
            **far_apart(ours, theirs, exact, one, other),
            "genepool against float64": against_exact(ours, exact, one, other),
            "mergekit against float64": against_exact(theirs, exact, one, other),
        },
        "where it interpolates linearly": against_other(ours, theirs, parts["linear"]),
    }


def far_apart(
    ours: Tensors, theirs: Tensors, exact: Tensors, a: Tensors, b: Tensors
) -> dict[str, Any]:
    """Of elements that differ by more than one ulp: how nearly they cancel, and who is nearer."""
    largest = 0.0
    nearer = [0, 0]
    for name, value in exact.items():
        far = (_steps(ours[name]) - _steps(theirs[name])).abs() > 1
        true = value[far]
        size = torch.maximum(a[name].double().abs(), b[name].double().abs())[far]
        errors = [(side[name][far].double() - true).abs() for side in (ours, theirs)]
        nearer[0] += int((errors[0] < errors[1]).sum())
        nearer[1] += int((errors[1] < errors[0]).sum())
        largest = max(
            largest, float((true.abs() / size.clamp(min=1e-300)).max()) if far.any() else 0
        )
    return {
        "of those that differ by more, the largest result beside the larger weight": largest,
        "genepool is nearer to float64": nearer[0],
        "mergekit is nearer to float64": nearer[1],
    }


def compare_blends(
    tool: Path, base: Path, first: Path, second: Path, folder: Callable[[], Path]
) -> dict[str, Any]:
    """Linear, task arithmetic and TIES, element by element; DARE by what it keeps on average."""
    out: dict[str, Any] = {}
    changes: dict[str, list[Tensors]] = {}
    origin = read(base)
    models = [str(first), str(second)]
    for method, named, normalise, density in (
        ("linear", "linear", True, None),
        ("task-arithmetic", "task_arithmetic", False, None),
        ("ties", "ties", True, DENSITY),
        ("dare-linear", "dare_linear", False, DENSITY),
    ):
        place = folder()
        root = None if method == "linear" else str(base)
        made = place / "ours"
        blend(models, made, method=method, base=root, weights=WEIGHTS, density=density)
        text = f"merge_method: {named}\nparameters: {{normalize: {str(normalise).lower()}}}\n"
        text += "models:\n"
        for model, weight in zip(models, WEIGHTS, strict=True):
            more = "" if density is None else f", density: {density}"
            text += f"- {{model: {model}, parameters: {{weight: {weight}{more}}}}}\n"
        if root is not None:
            text += f"base_model: {root}\n"
        ours, theirs = read(made), run_mergekit(tool, text, place)
        changes[method] = [
            {n: side[n].float() - origin[n].float() for n in origin} for side in (ours, theirs)
        ]
        if method == "dare-linear":
            expected = changes["task-arithmetic"][0]
            out[method] = {
                who: _on_average(side, expected)
                for who, side in zip(("genepool", "mergekit"), changes[method], strict=True)
            }
        else:
            out[method] = against_other(ours, theirs, list(origin))
        if method == "ties":
            both = [read(first), read(second)]
            sure = _decided(origin, both)
            out["ties, but for elements as large as the smallest that is kept"] = against_other(
                ours, theirs, list(origin), sure
            )
            signed = {n: sure[n] & _signed(origin[n], [model[n] for model in both]) for n in sure}
            out["ties, but for those and for weighted changes that cancel"] = against_other(
                ours, theirs, list(origin), signed
            )
    return out


def _decided(base: Tensors, models: list[Tensors]) -> Tensors:
    """Where no change is as large as the smallest kept one: which of equals are kept is open."""
    out: Tensors = {}
    for name, origin in base.items():
        out[name] = torch.ones(origin.shape, dtype=torch.bool)
        for model in models:
            size = (model[name].float() - origin.float()).abs()
            dropped = size.numel() - max(1, int(DENSITY * size.numel()))
            out[name] &= size != size.flatten().kthvalue(dropped + 1).values
    return out


def _signed(base: torch.Tensor, models: list[torch.Tensor]) -> torch.Tensor:
    """Where rounding has no say in the sign of the sum of weighted, trimmed changes."""
    total = torch.zeros(base.shape, dtype=torch.float64)
    size = torch.zeros(base.shape, dtype=torch.float64)
    for model, weight in zip(models, WEIGHTS, strict=True):
        change = model.float() - base.float()
        dropped = change.numel() - max(1, int(DENSITY * change.numel()))
        threshold = change.abs().flatten().kthvalue(dropped).values if dropped else -1.0
        term = torch.where(change.abs() > threshold, weight * change.double(), 0.0)
        total, size = total + term, size + term.abs()
    return (total.abs() > 1e-6 * size) | (size == 0)


def _on_average(change: Tensors, expected: Tensors) -> dict[str, float]:
    """How much of the expected change there is (DARE keeps its mean), and how much is kept."""
    along = math.fsum(float((change[n].double() * expected[n].double()).sum()) for n in expected)
    whole = math.fsum(float((expected[n].double() ** 2).sum()) for n in expected)
    kept = sum(int((change[n] != 0).sum()) for n in expected)
    there = sum(int((expected[n] != 0).sum()) for n in expected)
    return {"share of the expected change": along / whole, "elements changed": kept / there}


def main() -> None:
    """Compare, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description="Agreement of merges with float64 and mergekit.")
    for name in ("base", "first", "second"):
        parser.add_argument(f"--{name}", type=Path, help="a model's directory, in bfloat16")
    parser.add_argument("--mergekit", type=Path, help="interpreter that has mergekit")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--smoke", action="store_true", help="the small models that it makes")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = (args.base, args.first, args.second)
        base, first, second = make_small(folder) if args.smoke or None in own else own
        count = iter(range(100))

        def fresh() -> Path:
            place = folder / f"work{next(count)}"
            place.mkdir()
            return place

        pair = [open_checkpoint(first), open_checkpoint(second)]
        layout = build_layout(pair)
        split = layout.position(SPLIT)
        a, b = read(first), read(second)
        result: dict[str, Any] = {
            "command": " ".join(["python", *(Path(part).name for part in sys.argv)]),
            "settings": {
                "ratio": RATIO, "split": SPLIT, "weights": WEIGHTS, "density": DENSITY,
            },
            "against float64": {},
        }  # fmt: skip
        for angle in ("global", "side", "tensor"):
            out = fresh() / "ours"
            merge(str(first), str(second), out, ratio=RATIO, split=split, angle=angle)
            exact = dense_slerp(a, b, layout, split, angle)
            result["against float64"][angle] = against_exact(read(out), exact, a, b)
        if args.mergekit is not None:
            noisy = with_noise(second, folder)
            result["against mergekit"] = {
                "slerp per tensor": compare_slerp(args.mergekit, first, second, fresh()),
                "slerp per tensor, second with 10 % noise": compare_slerp(
                    args.mergekit, first, noisy, fresh()
                ),
                **compare_blends(args.mergekit, base, first, second, fresh),
            }
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
