"""The examples of the language model experiment: word problems and shopping, as prompt and answer.

Every example is {"id", "prompt", "answer", "kind"}. There are three sets of each task, of disjoint
problems: `tune` (what the specialists are fine-tuned on), `train` (what evolution sees) and `test`
(held out from both).

- Maths: generated problems of one and of two steps, whose operands are shared by no two sets, and
  real GSM8K problems of at most two steps and 170 characters (tune and train from GSM8K's training
  file, test from its test file). The answer is a number.
- Shopping: WebShop's products that carry an instruction ("choice": which of four real products, as
  attributes, satisfies it) and WebShop's goals with the searches that people made for them
  ("search": which of four real searches suits the goal). The answer is a letter.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Example = dict[str, Any]
SETS = ("tune", "train", "test")

NAMES = [
    "Tom",
    "Anna",
    "Ben",
    "Maria",
    "Sam",
    "Lucy",
    "Omar",
    "Nina",
    "Jack",
    "Emma",
    "Leo",
    "Ruth",
    "Paul",
    "Ivy",
    "Carl",
    "Mona",
]
THINGS = [
    "apples",
    "books",
    "marbles",
    "coins",
    "cards",
    "pencils",
    "stamps",
    "shells",
    "stickers",
    "oranges",
    "eggs",
    "cookies",
    "flowers",
    "balloons",
    "stones",
    "tickets",
]
BOXES = ["bags", "boxes", "baskets", "jars", "rows", "packs", "shelves", "tables"]

ONE_STEP = {
    "+": (
        "{n} has {a} {t} and buys {b} more. How many {t} does {n} have now?",
        "{n} has {a} {t}. {m} has {b} {t}. How many {t} do they have together?",
        "There are {a} red and {b} blue {t}. How many {t} are there?",
    ),
    "-": (
        "{n} had {a} {t} and gave {b} to {m}. How many {t} are left?",
        "{n} has {a} {t} and {m} has {b}. How many more {t} does {n} have?",
        "Of {a} {t}, {b} were sold. How many {t} remain?",
    ),
    "*": (
        "{n} has {a} {x} with {b} {t} each. How many {t} are there?",
        "One of the {t} costs {b} dollars. What do {a} of them cost?",
    ),
    "/": (
        "{n} puts {c} {t} into {a} {x} equally. How many {t} are in each?",
        "{n} shares {c} {t} among {a} friends. How many does each get?",
    ),
}
TWO_STEP = {
    "+-": "{n} had {a} {t}, bought {b} more and gave {c} to {m}. How many {t} are left?",
    "--": "{n} had {a} {t}, lost {b} and sold {c}. How many {t} are left?",
    "*+": "{n} has {a} {x} of {b} {t} and {c} loose ones. How many {t} are there?",
    "*-": "{n} had {a} {x} of {b} {t} and ate {c}. How many {t} are left?",
}


def problem(draw: random.Random, steps: int) -> tuple[str, Example]:
    """A generated problem and the key (operation and operands) that decides which set has it."""
    n, m = draw.sample(NAMES, 2)
    words = {"n": n, "m": m, "t": draw.choice(THINGS), "x": draw.choice(BOXES)}
    if steps == 1:
        kind = draw.choice("+-*/")
        text = draw.choice(ONE_STEP[kind])
        if kind in "+-":
            a, b = draw.randint(2, 90), draw.randint(2, 60)
            if kind == "-" and a <= b:
                a, b = b + 1, a
            c, answer = 0, a + b if kind == "+" else a - b
        else:
            a, b = draw.randint(2, 9), draw.randint(2, 20)
            c, answer = a * b, a * b if kind == "*" else b
    else:
        kind = draw.choice(sorted(TWO_STEP))
        text = TWO_STEP[kind]
        if kind in ("+-", "--"):
            a, b, c = draw.randint(20, 60), draw.randint(2, 19), draw.randint(2, 19)
            a += 20 if kind == "--" else 0
            answer = a + b - c if kind == "+-" else a - b - c
        else:
            a, b, c = draw.randint(2, 6), draw.randint(3, 12), draw.randint(2, 5)
            answer = a * b + c if kind == "*+" else a * b - c
    question = text.format(**words, a=a, b=b, c=c)
    key = f"{kind} {a} {b} {c}"
    return key, {
        "prompt": f"{question}\nAnswer:",
        "answer": f" {answer}",
        "kind": "one step" if steps == 1 else "two steps",
    }


def generated(steps: int, counts: dict[str, int], seed: int) -> dict[str, list[Example]]:
    """Different problems, `counts[set]` of each set; no operands occur in two sets."""
    draw = random.Random(f"maths {steps} {seed}")
    out: dict[str, list[Example]] = {name: [] for name in SETS}
    seen: set[str] = set()
    while any(len(out[name]) < counts[name] for name in SETS):
        key, example = problem(draw, steps)
        name = set_of(key, {"tune": 70, "train": 10, "test": 20})
        if len(out[name]) < counts[name] and example["prompt"] not in seen:
            seen.add(example["prompt"])
            out[name].append(example)
    return out


def set_of(key: str, shares: dict[str, int]) -> str:
    """The set that a key belongs to, by its digest; `shares` are percentages."""
    at = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 100
    for name, share in shares.items():
        if at < share:
            return name
        at -= share
    raise AssertionError("shares add up to 100")


def gsm8k(file: Path) -> list[Example]:
    """GSM8K's problems of at most two steps and 170 characters whose answer is 0 to 999."""
    out: list[Example] = []
    for number, line in enumerate(file.read_text().splitlines()):
        row = json.loads(line)
        question = " ".join(row["question"].split())
        answer = row["answer"].rpartition("####")[2].strip().replace(",", "")
        short = row["answer"].count("<<") <= 2 and len(question) <= 170
        if short and answer.isdigit() and len(answer) <= 3:
            prompt = f"{question}\nAnswer:"
            out.append(
                {
                    "prompt": prompt,
                    "answer": f" {answer}",
                    "kind": "gsm8k",
                    "source": f"{file.stem}:{number}",
                }
            )
    return out


def maths(data: Path, counts: dict[str, tuple[int, int, int]], seed: int) -> dict[str, Any]:
    """The sets of the task; `counts[set]` are problems of one step, of two, and of GSM8K."""
    one = generated(1, {name: counts[name][0] for name in SETS}, seed)
    two = generated(2, {name: counts[name][1] for name in SETS}, seed)
    draw = random.Random(f"gsm8k {seed}")
    known, fresh = gsm8k(data / "gsm8k/train.jsonl"), gsm8k(data / "gsm8k/test.jsonl")
    draw.shuffle(known)
    draw.shuffle(fresh)
    n = counts["train"][2]
    real = {
        "train": known[:n],
        "tune": known[n : n + counts["tune"][2]],
        "test": fresh[: counts["test"][2]],
    }
    return {name: mixed("maths", name, [*one[name], *two[name], *real[name]]) for name in SETS}


def shopping(data: Path, counts: dict[str, tuple[int, int]], seed: int) -> dict[str, Any]:
    """The sets of the task; `counts[set]` are choices of a product and choices of a search.

    `tune` takes each instruction as often as needed, with other wrong options every time.
    """
    items = json.loads((data / "webshop/items_ins_v2_1000.json").read_text())
    goals = json.loads((data / "webshop/goal_query_map.json").read_text())
    products = [
        (item["instruction"], item["attributes"], frozenset(item["instruction_attributes"]))
        for _, item in sorted(items.items())
        if item.get("instruction")
    ]
    listed = [item["attributes"] for _, item in sorted(items.items()) if item["attributes"]]
    searches = [
        (" ".join(goal.split()), " ".join(queries[0].split()))
        for goal, queries in sorted(goals.items())
        if len(goal) <= 100 and len(queries[0]) <= 50
    ]
    draw = random.Random(f"shopping {seed}")
    draw.shuffle(products)
    draw.shuffle(searches)
    out: dict[str, Any] = {}
    cuts = {"products": [0], "searches": [0]}
    for name in ("train", "test"):
        cuts["products"].append(cuts["products"][-1] + counts[name][0])
        cuts["searches"].append(cuts["searches"][-1] + counts[name][1])
    share = {
        name: (products[a:b], searches[c:d])
        for name, a, b, c, d in (
            ("train", *cuts["products"][:2], *cuts["searches"][:2]),
            ("test", *cuts["products"][1:], *cuts["searches"][1:]),
        )
    }
    share["tune"] = (products[cuts["products"][2] :], searches[cuts["searches"][2] :])
    for name in SETS:
        mine, asked = share[name]
        examples: list[Example] = []
        for number in range(counts[name][0]):
            text, attributes, wanted = mine[number % len(mine)]
            wrong = [shown(other) for other in listed if not wanted <= set(other)]
            examples.append(choice(draw, "choice", text, shown(attributes, wanted), wrong))
        queries = [query for _, query in asked]
        for number in range(counts[name][1]):
            text, query = asked[number % len(asked)]
            wrong = [other for other in queries if other != query]
            examples.append(choice(draw, "search", text, query, wrong))
        out[name] = mixed("shopping", name, examples)
    return out


def shown(attributes: list[str], wanted: frozenset[str] = frozenset()) -> str:
    """A product as at most three of its attributes, those asked for among them, in its order."""
    kept = [name for name in attributes if name in wanted][:3]
    for name in attributes:
        if len(kept) < 3 and name not in kept:
            kept.append(name)
    return ", ".join(sorted(kept, key=attributes.index))


def choice(draw: random.Random, kind: str, text: str, right: str, wrong: list[str]) -> Example:
    """One example: the right option among three wrong ones, in random places."""
    options = draw.sample(sorted({other for other in wrong if other != right}), 3)
    at = draw.randrange(4)
    options.insert(at, right)
    lines = "".join(f"\n{letter}: {option}" for letter, option in zip("ABCD", options, strict=True))
    return {"prompt": f"{text}{lines}\nAnswer:", "answer": f" {'ABCD'[at]}", "kind": kind}


def mixed(task: str, name: str, examples: list[Example]) -> list[Example]:
    """In one fixed random order, with ids."""
    random.Random(f"{task} {name}").shuffle(examples)
    return [{"id": f"{task}-{name}-{i:04d}", **example} for i, example in enumerate(examples)]


def write(folder: Path, task: str, sets: dict[str, list[Example]]) -> None:
    """FOLDER/TASK-SET.jsonl for each set."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, examples in sets.items():
        (folder / f"{task}-{name}.jsonl").write_text(lines_of(examples))


def read(folder: Path, task: str, name: str) -> list[Example]:
    """What `write` wrote."""
    return [json.loads(line) for line in (folder / f"{task}-{name}.jsonl").read_text().splitlines()]


def lines_of(examples: Iterable[Example]) -> str:
    return "".join(json.dumps(example) + "\n" for example in examples)
