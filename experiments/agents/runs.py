"""The runs of this experiment: two models, which tasks, which strategies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import data
from games import LEFT_OUT, NOT_CLICKED, settings

# run.py has made its modules known.
LLM = Path(__file__).parents[1] / "llm"
# Half of what counts is maths, and half is acting: in games, and in the shop.
TASKS = {"maths": 2.0, "games": 1.0, "shop": 1.0}
SPECIALISTS = ("maths", "agent")
BUDGET, ARCHIVE = 150, 15


@dataclass(frozen=True)
class Kind:
    """What is bred, and on what.

    Attributes:
        name: of the model.
        rooms, length: of TextWorld's quests.
        learnt: rooms and length of the quests that the agent learns from.
        rounds: commands of a game.
        games: name of a split -> games that are made; `tune` is what the specialist learns from.
        goals: things to buy in selection, and held-out ones.
        clicks: actions in the shop.
        problems: word problems of selection, and held-out ones.
        guards, battery: names of tasks that bound the runs, and of those that only finals ask.
        questions: of each guard in a run, and of each of these tasks in finals.
        batch: problems that are asked together.
        context: tokens of an episode.
    """

    name: str
    rooms: int
    length: int
    learnt: tuple[int, int]
    rounds: int
    games: dict[str, int]
    goals: tuple[int, int]
    clicks: int
    problems: tuple[int, int]
    guards: tuple[str, ...]
    battery: tuple[str, ...]
    questions: tuple[int, int]
    batch: int
    context: int

    def settings(self) -> dict[str, Any]:
        return settings(self.rooms, self.length, self.games)

    def lessons(self) -> dict[str, Any]:
        """Settings of the games that the agent learns from."""
        return settings(*self.learnt, self.games)


KINDS = {
    "miniature": Kind(
        name="miniature",
        rooms=2,
        length=3,
        learnt=(2, 3),
        rounds=4,
        games={"tune": 80, "train": 24, "test": 64},
        goals=(24, 100),
        clicks=6,
        problems=(80, 300),
        guards=("larger", "count"),
        battery=("last", "after"),
        questions=(50, 100),
        batch=100,
        context=1000,
    ),
    "smollm2": Kind(
        name="smollm2",
        rooms=3,
        length=4,
        learnt=(2, 3),
        rounds=4,
        games={"tune": 240, "train": 8, "test": 40},
        goals=(6, 40),
        clicks=6,
        problems=(40, 100),
        guards=("choice",),
        battery=("last", "after", "reverse", "count"),
        questions=(16, 60),
        batch=8,
        context=2048,
    ),
}
# A child may be this much worse on a guard than the best seed.
TOLERANCE = 0.2

_M2N2 = {"name": "m2n2", "archive": ARCHIVE, "warmup": 20}
STRATEGIES: dict[str, dict[str, Any]] = {
    "m2n2": _M2N2,
    "no-attraction": {**_M2N2, "attraction": False},
    "no-split": {**_M2N2, "split_point": False},
    "map-elites": {
        "name": "map-elites",
        "measures": [{"task": task} for task in TASKS],
        "cells": 4,
    },
    "cma-es": {"name": "cma-es", "population": 10, "archive": ARCHIVE},
    "ga": {"name": "ga", "archive": ARCHIVE, "warmup": 20},
    "slerp": {"name": "sweep", "archive": ARCHIVE, "grid": 25},
}
# One ratio for all weights on a grid: nothing in it is drawn.
ONCE = ("slerp",)


def jobs(labels: list[str], runs: int) -> list[tuple[str, int]]:
    """Strategy and random seed of every run; all strategies with one random seed, then the next."""
    return [
        (label, seed) for seed in range(runs) for label in labels if seed == 0 or label not in ONCE
    ]


def run_file(
    work: Path, kind: Kind, shop: dict[str, Any], label: str, seed: int, budget: int
) -> dict[str, Any]:
    """One run. Nothing is held out here: `finals.py` scores the champions of all runs.

    Args:
        work: the model's folder.
        kind: the model.
        shop: settings of the environment that is the shop.
        label: the strategy.
        seed: the random seed.
        budget: children.
    """
    return {
        "pool": str(work / "pools" / f"{label}-{seed}"),
        "seeds": [str(work / "models" / name) for name in seeds()],
        "tasks": [*tasks(work, kind, shop), *(guard(work, kind, name) for name in kind.guards)],
        "strategy": STRATEGIES[label],
        "budget": budget,
        "seed": seed,
    }


def seeds() -> tuple[str, ...]:
    """Names of the models that are bred: each specialist, and with its change from the base twice.

    Shares of a mix add up to one, so that half of each doubled one is the sum of both changes.
    """
    return (*SPECIALISTS, *(f"{name}-twice" for name in SPECIALISTS))


def final_file(work: Path, kind: Kind, shop: dict[str, Any], models: list[Path]) -> dict[str, Any]:
    """The same with what is held out, and with guards and battery as tasks, to score with."""
    problems, games, shopping = tasks(work, kind, shop)
    problems["held_out_examples"] = chosen(work, "maths", "test", kind.problems[1])
    games |= {"environment": "textworld", "held_out_split": "test"}
    shopping |= {
        "environment": "agentgym",
        "held_out_split": "test",
        "held_out_limit": kind.goals[1],
    }
    guards = [
        {
            **answered(work, kind, name, kind.questions[0]),
            "held_out_examples": chosen(work, name, "test", kind.questions[1]),
        }
        for name in kind.guards
    ]
    battery = [harness(work, kind, name) for name in kind.battery]
    return {
        "pool": str(work / "pools" / "none"),
        "seeds": [str(model) for model in models],
        "tasks": [problems, games, shopping, *guards, *battery],
        "strategy": _M2N2,
        "budget": 0,
        "seed": 0,
    }


def tasks(work: Path, kind: Kind, shop: dict[str, Any]) -> list[dict[str, Any]]:
    """The three that members compete for."""
    acting: dict[str, Any] = {
        "evaluator": "agent",
        "split": "train",
        "policy": "choose",
        "repeat": False,
        "context": kind.context,
        "measured": 0,
    }
    # No model reads instructions: specialists have learnt to act, and episodes cost half.
    silent = work / "examples/instructions.txt"
    silent.write_text("")
    acting["instructions"] = str(silent)
    games = {
        "name": "games",
        **acting,
        "environment": "remembered-textworld",
        "settings": kind.settings(),
        "rounds": kind.rounds,
        "score": "sum",
        "leave_out": LEFT_OUT,
        "batch": min(8, kind.games["train"]),
        "weight": TASKS["games"],
    }
    shopping = {
        "name": "shop",
        **acting,
        "environment": "remembered-shop",
        "settings": shop,
        "limit": kind.goals[0],
        "rounds": kind.clicks,
        "leave_out": NOT_CLICKED,
        "batch": min(8, kind.goals[0]),
        "weight": TASKS["shop"],
    }
    problems = answered(work, kind, "maths", kind.problems[0])
    return [{**problems, "weight": TASKS["maths"]}, games, shopping]


def guard(work: Path, kind: Kind, name: str) -> dict[str, Any]:
    task = answered(work, kind, name, kind.questions[0])
    return {**task, "guard": True, "tolerance": TOLERANCE}


def harness(work: Path, kind: Kind, name: str) -> dict[str, Any]:
    """A task of lm-evaluation-harness, from files of this machine."""
    files = {
        "validation": chosen(work, name, "train", kind.questions[0]),
        "test": chosen(work, name, "test", kind.questions[1]),
    }
    task = {
        "task": f"genepool_{name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "validation_split": "validation",
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer | trim}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
        "filter_list": [
            {
                "name": "answer",
                "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}],
            }
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    file = work / "chosen" / f"{name}.yaml"
    file.write_text(json.dumps(task, indent=1))  # JSON is YAML
    return {
        "name": name,
        "evaluator": "lm-eval",
        "task": str(file),
        "split": "validation",
        "held_out_split": "test",
        "batch": kind.batch,
    }


def answered(work: Path, kind: Kind, name: str, count: int) -> dict[str, Any]:
    """A task whose answers must be exact."""
    return {
        "name": name,
        "evaluator": "function",
        "function": "scoring:exact",
        "examples": chosen(work, name, "train", count),
        "binary": True,
        "batch": kind.batch,
    }


def chosen(work: Path, name: str, part: str, count: int) -> str:
    """The first examples of a set as a file, sorted by length: a block is padded to its longest."""
    file = work / "chosen" / f"{name}-{part}-{count}.jsonl"
    if not file.exists():
        examples = data.read(work / "examples", name, part)[:count]
        examples.sort(key=lambda example: len(example["prompt"]))
        file.parent.mkdir(exist_ok=True)
        file.write_text(data.lines_of(examples))
    return str(file)


def loaded(run: dict[str, Any]) -> Any:
    """The run, with the module of the scoring function looked for in experiments/llm."""
    from genepool.run.run_file import load_run

    return load_run(run, directory=LLM)
