"""What everything is judged by: captions that no selection has seen, and both languages."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from runs import SEEDS, STRATEGIES, final_file

SCALES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
# Held-out captions that are drawn for people.
SHOWN = 8


def plain() -> dict[str, dict[str, list[float]]]:
    """Merges that were not searched for: kind -> name -> one coefficient for each seed."""
    base = SEEDS.index("base")

    def arithmetic(scale: float) -> list[float]:
        row = [scale] * len(SEEDS)
        row[base] = 1 - scale * (len(SEEDS) - 1)
        return row

    return {
        "mean": {"mean of the four": [1 / len(SEEDS)] * len(SEEDS)},
        "task arithmetic": {f"scale {scale}": arithmetic(scale) for scale in SCALES},
    }


def score_finals(work: Path, setting: str) -> None:
    """WORK/SETTING/finals: scores (JSON) and pictures of each model. Nothing is scored twice."""
    import torch

    from genepool.run.executors.scorer import Scorer
    from genepool.run.inputs import open_inputs
    from genepool.run.run_file import load_run
    from genepool.tasks.task import Drawn

    torch.set_num_threads(1)
    inputs = open_inputs(load_run(final_file(work, setting)))
    scorer, task = Scorer(inputs), inputs.tasks[0]
    folder = work / setting / "finals"
    folder.mkdir(exist_ok=True)
    held_out = np.arange(len(task.held_out))
    shown = held_out[:: max(1, held_out.size // SHOWN)][:SHOWN]
    assert isinstance(task, Drawn)
    real = task.references(shown, held_out=True)
    assert real is not None
    np.save(folder / "real.npy", real)

    def judge(file: Path, about: dict[str, Any]) -> None:
        about["held_out"] = scorer.score(held_out, "held-out").tolist()
        about["measures"] = {measure.name: measure.value for measure in scorer.measures()}
        np.save(file.with_suffix(".npy"), scorer.pictures(0, shown, held_out=True))
        file.write_text(json.dumps(about) + "\n")
        print(setting, file.stem, round(float(np.mean(about["held_out"])), 4), flush=True)

    for kind, named in plain().items():
        if (file := folder / f"{kind}.json").exists():
            continue
        scores: dict[str, float] = {}
        for name, row in named.items():
            scorer.load(mixture(inputs.layout.axis.size, row))
            scores[name] = float(scorer.score(np.arange(inputs.examples.size)).mean())
            print(setting, kind, name, round(scores[name], 4), flush=True)
        best = max(scores, key=lambda name: scores[name])
        scorer.load(mixture(inputs.layout.axis.size, named[best]))
        judge(file, {"best": best, "selection": scores[best], "of": scores})
    for name, genome, about in bred(work, setting):
        if not (file := folder / f"{name}.json").exists():
            scorer.load(genome)
            judge(file, about)


def mixture(size: int, row: list[float]) -> Any:
    """The recipe that has the same coefficients everywhere."""
    from genepool.core.genome import recipe

    return recipe([0, size], np.array([row]))


def bred(work: Path, setting: str) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """The seeds, and the champion of each pool that has come to its end."""
    from genepool.pool.reader import Pool

    seeds_known = False
    for label in STRATEGIES:
        for place in sorted((work / setting / "pools").glob(f"{label}-[0-9]*")):
            if not (place / "pool.sqlite").exists():
                continue
            with Pool(place) as pool:
                champion = pool.champion()
                if not pool.meta().get("finished") or champion is None:
                    print(f"{place.name} has not come to its end", file=sys.stderr)
                    continue
                members = {} if seeds_known else dict(zip(SEEDS, range(len(SEEDS)), strict=True))
                seeds_known = True
                for name, member in {**members, place.name: champion}.items():
                    record = pool.record(member)
                    children = pool.evaluations if name == place.name else 0
                    about = {"selection": record.train, "member": member, "children": children}
                    yield name, pool.genome(member), about
