"""Merges that were not searched for: means of the seeds, and task arithmetic at several scales."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from runs import SEEDS, run_file

SCALES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


def candidates() -> dict[str, dict[str, list[float]]]:
    """Kind -> name -> one coefficient for each seed."""
    base = SEEDS.index("base")

    def arithmetic(scale: float) -> list[float]:
        row = [scale] * len(SEEDS)
        row[base] = 1 - scale * (len(SEEDS) - 1)
        return row

    return {
        "mean": {"mean of the four": [1 / len(SEEDS)] * len(SEEDS)},
        "task arithmetic": {f"scale {scale}": arithmetic(scale) for scale in SCALES},
    }


def score_plain(work: Path, setting: str) -> None:
    """WORK/SETTING/plain.json: the best of each kind by its selection score, and what it scores."""
    import torch

    from genepool.core.genome import recipe
    from genepool.run.executors.scorer import Scorer
    from genepool.run.inputs import open_inputs
    from genepool.run.run_file import load_run

    file = work / setting / "plain.json"
    if file.exists():
        return
    torch.set_num_threads(1)
    inputs = open_inputs(load_run(run_file(work, setting, "m2n2", 0, 0)))
    scorer = Scorer(inputs)
    size = inputs.layout.axis.size
    found: dict[str, object] = {}
    for kind, named in candidates().items():
        scores = {}
        for name, row in named.items():
            scorer.load(recipe([0, size], np.array([row])))
            scores[name] = float(scorer.score(np.arange(inputs.examples.size)).mean())
            print(setting, kind, name, round(scores[name], 4), flush=True)
        best = max(scores, key=lambda name: scores[name])
        scorer.load(recipe([0, size], np.array([named[best]])))
        held_out = scorer.score(np.arange(len(inputs.tasks[0].held_out)), "held-out")
        found[kind] = {
            "best": best,
            "selection": scores,
            "held_out": held_out.tolist(),
            "measures": {measure.name: measure.value for measure in scorer.measures()},
        }
    file.write_text(json.dumps(found, indent=1) + "\n")
