"""What everything is judged by: held-out problems and games, guards, and a battery besides."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from games import PAGE, shop
from runs import SPECIALISTS, STRATEGIES, TASKS, Kind, final_file, loaded, seeds

ARITHMETIC = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
DENSITIES, SCALES = (0.2, 0.5, 0.8), (1.0, 1.5, 2.0)
SHOP = Path(__file__).parents[2] / "examples/webshop"


def score_finals(work: Path, kind: Kind, part: int = 0, parts: int = 1) -> None:
    """WORK/finals: scores of each model as JSON, of one of equal parts. Nothing is scored twice."""
    from genepool.core.genome import recipe

    merged, names = ties(work), (*seeds(), "base")
    folders = [*(work / "models" / name for name in names), *merged.values()]
    width = len(folders)
    folder = work / "finals"
    folder.mkdir(exist_ok=True)
    with shop() as (_, settings):
        judge = Judge(work, kind, settings, folders)

        def uniform(row: dict[int, float]) -> Any:
            coefs = np.zeros((1, width))
            for column, value in row.items():
                coefs[0, column] = value
            return recipe([0, judge.size], coefs)

        def plain(name: str, genome: Any) -> None:
            judge.write(name, genome, {"selection": judge.selection(genome)})

        def sweep(title: str, genomes: dict[str, Any]) -> None:
            found = {name: judge.selection(genome) for name, genome in genomes.items()}
            best = max(found, key=lambda name: found[name])
            about = {"best": best, "selection": found[best], "of": found}
            judge.write(title, genomes[best], about)

        def champion(name: str, genome: Any, about: dict[str, Any]) -> None:
            coefs = np.zeros((genome.coefs.shape[0], width))
            coefs[:, : len(seeds())] = genome.coefs
            wide = recipe(genome.bounds, coefs)
            judge.write(name, wide, {**about, "rescored": judge.selection(wide)})

        base = len(names) - 1
        arithmetic = {
            f"scale {scale}": uniform({0: scale, 1: scale, base: 1 - 2 * scale})
            for scale in ARITHMETIC
        }
        trimmed = {name: uniform({len(names) + place: 1.0}) for place, name in enumerate(merged)}
        jobs: list[tuple[str, Callable[[], None]]] = [
            *((name, partial(plain, name, uniform({k: 1.0}))) for k, name in enumerate(names)),
            ("task-arithmetic", partial(sweep, "task-arithmetic", arithmetic)),
            ("ties", partial(sweep, "ties", trimmed)),
            *((found[0], partial(champion, *found)) for found in champions(work)),
        ]
        for name, job in jobs[part::parts]:
            if not (folder / f"{name}.json").exists():
                job()


class Judge:
    """Scores mixes of these models on everything that is held out."""

    def __init__(
        self, work: Path, kind: Kind, settings: dict[str, Any], models: list[Path]
    ) -> None:
        """`settings`: of the environment that is the shop."""
        import torch

        from genepool.run.executors.scorer import Scorer
        from genepool.run.inputs import open_inputs

        torch.set_num_threads(1)
        self._folder = work / "finals"
        self._inputs = open_inputs(loaded(final_file(work, kind, settings, models)))
        self._scorer = Scorer(self._inputs, threads=1)
        self._names = [*TASKS, *kind.guards, *kind.battery]
        self.size = self._inputs.layout.axis.size

    def selection(self, genome: Any) -> float:
        """The weighted mean of what members are selected by."""
        edges = self._inputs.examples.edges[: len(TASKS) + 1]
        self._scorer.load(genome)
        parts = np.split(self._scorer.score(np.arange(edges[-1])), edges[1:-1])
        return float(np.average([part.mean() for part in parts], weights=[*TASKS.values()]))

    def held_out(self, genome: Any) -> dict[str, list[float]]:
        """Scores of all that is held out, by task."""
        examples = self._inputs.held_out
        assert examples is not None
        self._scorer.load(genome)
        parts = examples.split(self._scorer.score(np.arange(examples.size), "held-out"))
        return {name: part.tolist() for name, part in zip(self._names, parts, strict=True)}

    def write(self, name: str, genome: Any, about: dict[str, Any]) -> None:
        """WORK/finals/NAME.json."""
        found = self.held_out(genome)
        (self._folder / f"{name}.json").write_text(json.dumps({**about, "held_out": found}) + "\n")
        print(name, {task: round(100 * float(np.mean(found[task])), 1) for task in found})


def rescore(work: Path, kind: Kind) -> None:
    """Export M2N2's best champion, and score it once more: as a model of its own, in games and in a
    shop that another process serves. WORK/exported.json says how far it is from the finals."""
    import genepool
    from genepool.core.genome import recipe

    found = {name: about for name, _, about in champions(work) if name.startswith("m2n2-")}
    best = max(found, key=lambda name: found[name]["selection"])
    target = work / "exported" / best
    if not target.exists():
        # It is scored below, by a shop that is still there.
        with genepool.Pool(work / "pools" / best) as pool:
            genepool.export(pool, "best", target, verify=False)
    with served() as url:
        judge = Judge(work, kind, {"url": url, "actions": True}, [target, work / "models/base"])
        again = judge.held_out(recipe([0, judge.size], np.array([[1.0, 0.0]])))
    before = json.loads((work / "finals" / f"{best}.json").read_text())["held_out"]
    same = {
        task: {
            "finals": float(np.mean(before[task])),
            "exported": float(np.mean(again[task])),
            "examples that differ": int(np.sum(~np.isclose(before[task], again[task]))),
        }
        for task in before
    }
    (work / "exported.json").write_text(json.dumps({"champion": best, **same}, indent=1) + "\n")
    print(json.dumps(same, indent=1))


@contextlib.contextmanager
def served() -> Iterator[str]:
    """The address of the shop, in a process of its own."""
    command = [sys.executable, str(SHOP), "--page", str(PAGE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split()[0]
        finally:
            server.terminate()


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
                    [str(models / name) for name in SPECIALISTS],
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
