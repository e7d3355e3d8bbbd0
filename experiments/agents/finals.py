"""What everything is judged by: held-out problems and games, guards, and a battery besides."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from runs import STRATEGIES, TASKS, Kind, final_file, loaded

SEEDS = (*TASKS, "base")
ARITHMETIC = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
DENSITIES, SCALES = (0.2, 0.5, 0.8), (1.0, 1.5, 2.0)


def score_finals(work: Path, kind: Kind) -> None:
    """WORK/finals: scores of each model as JSON. Nothing is scored twice."""
    import torch

    from genepool.core.genome import recipe
    from genepool.run.executors.scorer import Scorer
    from genepool.run.inputs import open_inputs

    torch.set_num_threads(1)
    merged = ties(work)
    folders = [*(work / "models" / name for name in SEEDS), *merged.values()]
    inputs = open_inputs(loaded(final_file(work, kind, folders)))
    scorer, size, width = Scorer(inputs, threads=1), inputs.layout.axis.size, len(folders)
    assert inputs.held_out is not None
    names = [*TASKS, *kind.guards, *kind.battery]
    asked = np.arange(inputs.examples.edges[len(TASKS)])
    folder = work / "finals"
    folder.mkdir(exist_ok=True)

    def uniform(row: dict[int, float]) -> Any:
        coefs = np.zeros((1, width))
        for column, value in row.items():
            coefs[0, column] = value
        return recipe([0, size], coefs)

    def selection(genome: Any) -> float:
        scorer.load(genome)
        parts = np.split(scorer.score(asked), inputs.examples.edges[1 : len(TASKS)])
        return float(np.mean([part.mean() for part in parts]))

    def judge(name: str, genome: Any, about: dict[str, Any]) -> None:
        scorer.load(genome)
        scores = scorer.score(np.arange(inputs.held_out.size), "held-out")
        parts = inputs.held_out.split(scores)
        about["held_out"] = {n: part.tolist() for n, part in zip(names, parts, strict=True)}
        (folder / f"{name}.json").write_text(json.dumps(about) + "\n")
        means = {
            n: round(100 * float(part.mean()), 1) for n, part in zip(names, parts, strict=True)
        }
        print(name, means, flush=True)

    def missing(name: str) -> bool:
        return not (folder / f"{name}.json").exists()

    for number, name in enumerate(SEEDS):
        if missing(name):
            judge(name, genome := uniform({number: 1.0}), {"selection": selection(genome)})
    arithmetic = {
        f"scale {scale}": uniform({0: scale, 1: scale, 2: 1 - 2 * scale}) for scale in ARITHMETIC
    }
    trimmed = {name: uniform({len(SEEDS) + number: 1.0}) for number, name in enumerate(merged)}
    for title, genomes in (("task-arithmetic", arithmetic), ("ties", trimmed)):
        if missing(title):
            found = {name: selection(genome) for name, genome in genomes.items()}
            best = max(found, key=lambda name: found[name])
            judge(title, genomes[best], {"best": best, "selection": found[best], "of": found})
    for name, genome, about in champions(work):
        if missing(name):
            coefs = np.zeros((genome.coefs.shape[0], width))
            coefs[:, : len(TASKS)] = genome.coefs
            wide = recipe(genome.bounds, coefs)
            judge(name, wide, {**about, "rescored": selection(wide)})


def ties(work: Path) -> dict[str, Path]:
    """TIES merges of the two specialists, by density and scale; made once."""
    from genepool.output.by_hand import blend

    models = work / "models"
    found: dict[str, Path] = {}
    for density in DENSITIES:
        for scale in SCALES:
            name = f"density {density}, scale {scale}"
            found[name] = place = work / "plain" / f"ties-{density}-{scale}"
            if not (place / "config.json").exists():
                blend(
                    [str(models / task) for task in TASKS],
                    place,
                    method="ties",
                    base=str(models / "base"),
                    density=density,
                    scale=scale,
                    overwrite=True,
                )
    return found


def champions(work: Path) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """The champion of each pool that has come to its end."""
    from genepool.pool.reader import Pool

    for label in STRATEGIES:
        for place in sorted((work / "pools").glob(f"{label}-[0-9]*")):
            if not (place / "pool.sqlite").exists():
                continue
            with Pool(place) as pool:
                champion = pool.champion()
                # A run that goes on with a larger budget keeps the mark of its earlier end.
                if pool.meta().get("finished") != pool.evaluations or champion is None:
                    print(f"{place.name} has not come to its end", file=sys.stderr)
                    continue
                seconds = [record.seconds for record in pool.records() if record.step]
                yield (
                    place.name,
                    pool.genome(champion),
                    {
                        "selection": pool.record(champion).train,
                        "member": champion,
                        "children": pool.evaluations,
                        "seconds": float(np.median(seconds)),
                    },
                )
