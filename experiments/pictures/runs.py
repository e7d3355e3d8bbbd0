"""The runs of this experiment: two settings, which captions, which strategies."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SEEDS = ("japanese", "base", "living", "things")
SETTINGS = ("B", "A")
LIVING = ("smileys", "people", "animals-nature", "food-drink")

# The paper's, as far as two cores go: archive, children, captions that members compete for.
ARCHIVE, SELECTION, HELD_OUT = 10, 48, 256
BUDGETS = {"B": 80, "A": 30}
# bfloat16 takes 0.69 of float32's time here, and its scores differ by about 0.001.
DRAWING: dict[str, Any] = {"dtype": "bfloat16", "steps": 8, "guidance": 3.0, "size": [64, 64]}

_M2N2 = {"name": "m2n2", "archive": ARCHIVE, "baseline": "worst"}
_HALVES = [{"task": "emoji", "labels": [half]} for half in ("living", "things")]
STRATEGIES: dict[str, dict[str, Any]] = {
    "m2n2": _M2N2,
    "no-split": {**_M2N2, "split_point": False},
    "no-attraction": {**_M2N2, "attraction": False},
    "ga": {"name": "ga", "archive": ARCHIVE},
    "map-elites": {"name": "map-elites", "measures": _HALVES, "cells": 4},
    "cma-es": {"name": "cma-es", "population": 10, "archive": ARCHIVE},
    "slerp": {"name": "sweep", "archive": ARCHIVE},
}
# As many ratios for each of the six pairs of seeds as the budget is enough for.
GRIDS = {"B": 13, "A": 5}
# One ratio for all weights on a grid: nothing in it is drawn.
ONCE = ("slerp",)


def prepare(
    data: Path,
    work: Path,
    sizes: tuple[int, int] = (SELECTION, HELD_OUT),
    settings: tuple[str, ...] = SETTINGS,
) -> None:
    """WORK/SETTING/seeds: the four pipelines; WORK/captions: what is drawn. Nothing is made twice.

    Captions of half living beings (and food), half things; of one skin tone. Selection and
    held-out ones are different pictures.
    """
    for setting in settings:
        place = work / setting / "seeds"
        if not all((place / name / "model_index.json").is_file() for name in SEEDS):
            encoder = ["distilled"] if setting == "B" else []
            assemble = [sys.executable, str(data / "assemble.py"), str(place), *encoder]
            subprocess.run(assemble, check=True)
    captions = work / "captions"
    captions.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    halves: dict[str, list[dict[str, Any]]] = {"living": [], "things": []}
    for line in lines:
        if not line["skin_tone"]:
            halves["living" if line["group"] in LIVING else "things"].append(line)
    start = 0
    for name, size in zip(("selection", "held-out"), sizes, strict=True):
        chosen: list[dict[str, Any]] = []
        for half, members in sorted(halves.items()):
            random.Random(0).shuffle(ordered := sorted(members, key=lambda line: line["id"]))
            part = ordered[start // 2 : (start + size) // 2]
            chosen += [{**line, "half": half} for line in part]
        start += size
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in chosen)
        (captions / f"{name}.jsonl").write_text(text)
    for name in ("pictures.npz", "clip"):
        if not (work / name).exists():
            copy = shutil.copytree if (data / name).is_dir() else shutil.copyfile
            copy(data / name, work / name)


def run_file(work: Path, setting: str, label: str, seed: int, budget: int) -> dict[str, Any]:
    """One run: Japanese encoder, tokenizer and VAE stay; U-Nets evolve on Japanese captions.

    Nothing is held out here: `finals.py` scores the champions of all runs on the held-out captions.
    """
    file = final_file(work, setting)
    for key in ("held_out_examples", "languages"):
        del file["tasks"][0][key]
    pool = str(work / setting / "pools" / f"{label}-{seed}")
    strategy = STRATEGIES[label]
    if strategy["name"] == "sweep":
        strategy = {**strategy, "grid": GRIDS[setting]}
    return {**file, "pool": pool, "strategy": strategy, "budget": budget, "seed": seed}


def final_file(work: Path, setting: str) -> dict[str, Any]:
    """The same with the held-out captions and the measures of both languages, to score with."""
    captions = work / "captions"
    whole = dict.fromkeys(("text_encoder", "tokenizer", "vae", "scheduler"), "japanese")
    return {
        "pool": str(work / setting / "pools" / "none"),
        "seeds": [str(work / setting / "seeds" / name) for name in SEEDS],
        "components": {"unet": "evolve", **whole},
        "chromosomes": {"attention": ["*.attentions.*"]},
        "model": DRAWING,
        "tasks": [
            {
                "name": "emoji",
                "evaluator": "images",
                "examples": str(captions / "selection.jsonl"),
                "held_out_examples": str(captions / "held-out.jsonl"),
                "prompt": "japanese",
                "languages": {"japanese": "japanese", "english": "english"},
                "group": "half",
                "pictures": str(work / "pictures.npz") + ":noto",
                "picture": "row",
                "tower": str(work / "clip"),
                "score": "reference",
                "batch": 16,
            }
        ],
        "strategy": _M2N2,
        "budget": 0,
        "seed": 0,
    }


def jobs(settings: tuple[str, ...], labels: list[str], runs: int) -> list[tuple[str, str, int]]:
    """Setting, strategy and random seed of every run."""
    return [
        (setting, label, seed)
        for setting in settings
        for seed in range(runs)
        for label in labels
        if seed == 0 or label not in ONCE
    ]
