"""The experiment in miniature: a language model of 0.86 M parameters and two specialists of it.

    python experiments/llm/miniature.py --work WORK

Small enough for many runs with many random seeds. A word-level tokenizer and a Llama are made from
nothing. Like a real base model, this one has read careful and careless writers: first correct
answers to both tasks, then answers of which three in five forget something. So it can do both
tasks, but mostly does not, and a specialist learns in a few steps to be careful in one of them.

- maths: "tom has 7 apples , gets 5 and loses 3 . how many ?": 9; the careless forget what was lost.
  No operands occur in two sets.
- shopping: "anna wants books , silk not blue huge red . search": "red huge silk"; the careless miss
  the "not". No three attributes occur in two sets.
"""

from __future__ import annotations

import argparse
import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import data
import torch
from specialists import measured, opened, save
from tuning import Schedule, fine_tune

COLOURS = ["red", "blue", "green", "black", "white", "pink", "grey", "brown"]
SIZES = ["tiny", "small", "medium", "large", "huge"]
STUFFS = ["cotton", "wool", "silk", "leather", "linen", "denim"]
ATTRIBUTES = (COLOURS, SIZES, STUFFS)
COUNTS = {"tune": 6000, "train": 200, "test": 500}
CARELESS = 0.6
# What each model is trained on, one after the other.
SCHEDULES = {
    "base": {
        "careful": Schedule(steps=1500, batch=64, rate=2e-3, warmup=20, embeddings=True),
        "mixed": Schedule(steps=500, batch=64, rate=5e-4, warmup=20, embeddings=True),
    },
    "maths": {"maths": Schedule(steps=60, batch=64, rate=3e-4, embeddings=True)},
    "shopping": {"shopping": Schedule(steps=200, batch=64, rate=3e-4, embeddings=True)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true", help="hardly any training")
    args = parser.parse_args()
    torch.set_num_threads(1)
    make(args.work, smoke=args.smoke)


def make(work: Path, *, smoke: bool = False) -> None:
    """WORK/examples, WORK/models/{base,maths,shopping} and WORK/specialists.json."""
    counts = {"tune": 200, "train": 24, "test": 24} if smoke else COUNTS
    sets = {"maths": maths(counts), "shopping": shopping(counts)}
    for task, examples in sets.items():
        data.write(work / "examples", task, examples)
    tuned = {name: examples["tune"] for name, examples in sets.items()}
    tuned["careful"] = [*tuned["maths"], *tuned["shopping"]]
    draw = random.Random("miniature base")
    tuned["mixed"] = [
        careless(example) if draw.random() < CARELESS else example
        for example in tuned["careful"]
        for _ in range(4)
    ]
    models = work / "models"
    for name, schedules in SCHEDULES.items():
        if not (models / name).exists():
            model, tokenizer = untrained() if name == "base" else opened(models / "base")
            model.float()
            for part, schedule in schedules.items():
                if smoke:
                    schedule = replace(schedule, steps=40, batch=16)
                fine_tune(model, tokenizer, tuned[part], schedule, work / "state" / name / part)
            save(model, tokenizer, models / name)
        measured(work, name)


def untrained() -> tuple[Any, Any]:
    """A Llama of 0.86 M parameters and a tokenizer that knows all words that occur."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    texts = [
        f"{name} has gets and loses . , how many ? answer wants not search" for name in data.NAMES
    ]
    words = " ".join([*texts, *data.THINGS, *itertools.chain(*ATTRIBUTES)]).lower().split()
    words = ["<end>", *map(str, range(20)), *sorted(set(words))]
    words = list(dict.fromkeys(words))
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<end>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<end>", pad_token="<end>", unk_token="<end>"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config), tokenizer


def careless(example: data.Example) -> data.Example:
    """The same example as a careless writer answers it."""
    words, answer = example["prompt"].split(), example["answer"].split()
    if "not" in words:
        unwanted = words[words.index("not") + 1]
        place = next(i for i, known in enumerate(ATTRIBUTES) if unwanted in known)
        answer[place] = unwanted
    else:
        numbers = [int(word) for word in words if word.isdigit()]
        answer = [str(numbers[0] + numbers[1])]
    return {**example, "answer": " ".join(answer)}


def maths(counts: dict[str, int]) -> dict[str, Any]:
    """a + b - c with digits a, b, c; the operands decide the set."""
    draw = random.Random("miniature maths")
    operands: dict[str, list[tuple[int, ...]]] = {name: [] for name in data.SETS}
    for abc in itertools.product(range(10), repeat=3):
        if abc[0] + abc[1] >= abc[2]:
            key = "miniature {} {} {}".format(*abc)
            operands[data.set_of(key, {"tune": 60, "train": 15, "test": 25})].append(abc)
    out: dict[str, Any] = {}
    for name in data.SETS:
        examples: list[data.Example] = []
        for _ in range(counts[name]):
            a, b, c = draw.choice(operands[name])
            who, what = draw.choice(data.NAMES).lower(), draw.choice(data.THINGS)
            examples.append(
                {
                    "prompt": f"{who} has {a} {what} , gets {b} and loses {c} . how many ? answer",
                    "answer": str(a + b - c),
                    "kind": "two steps",
                }
            )
        out[name] = data.mixed("maths", name, examples)
    return out


def shopping(counts: dict[str, int]) -> dict[str, Any]:
    """The search for what is wanted, in a fixed order; the wanted attributes decide the set."""
    draw = random.Random("miniature shopping")
    wanted: dict[str, list[tuple[str, ...]]] = {name: [] for name in data.SETS}
    for product in itertools.product(*ATTRIBUTES):
        name = data.set_of(" ".join(product), {"tune": 60, "train": 15, "test": 25})
        wanted[name].append(product)
    out: dict[str, Any] = {}
    for name in data.SETS:
        examples: list[data.Example] = []
        for _ in range(counts[name]):
            right = draw.choice(wanted[name])
            place = draw.randrange(3)
            other = draw.choice([word for word in ATTRIBUTES[place] if word != right[place]])
            said = draw.sample(right, 3)
            said.insert(draw.randrange(4), f"not {other}")
            who, what = draw.choice(data.NAMES).lower(), draw.choice(data.THINGS)
            examples.append(
                {
                    "prompt": f"{who} wants {what} , {' '.join(said)} . search",
                    "answer": " ".join(right),
                    "kind": "search",
                }
            )
        out[name] = data.mixed("shopping", name, examples)
    return out


if __name__ == "__main__":
    main()
