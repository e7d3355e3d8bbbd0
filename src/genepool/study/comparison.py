"""What came of a comparison of strategies: curves, the table, statistics. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.study.significance import (
    FEWEST_SEEDS,
    SIGNIFICANT,
    evaluations_to_reach,
    holm,
    sign_flip_test,
)

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class Curve:
    """One run at T numbers of evaluations, and each of its C champions; arrays are read-only.

    Attributes:
        strategy: label.
        seed: the random seed.
        examples: number N of selection examples.
        evaluations: int64[T], from 0 to the budget; the same for all runs of a comparison.
        train, held_out: float64[T], scores of the champion so far, in [0, 1]; NaN where unknown.
        coverage, entropy: float64[T], of the archive.
        examples_evaluated: int64[T], examples asked of the children so far.
        champion_evaluations: int64[C], when each champion arose; the first at 0.
        champion_train, champion_held_out: float64[C], their scores.
    """

    strategy: str
    seed: int
    examples: int
    evaluations: Int64
    train: Float64
    held_out: Float64
    coverage: Float64
    entropy: Float64
    examples_evaluated: Int64
    champion_evaluations: Int64
    champion_train: Float64
    champion_held_out: Float64

    def __post_init__(self) -> None:
        for array in (
            *(self.evaluations, self.train, self.held_out, self.coverage, self.entropy),
            *(self.examples_evaluated, self.champion_evaluations),
            *(self.champion_train, self.champion_held_out),
        ):
            array.setflags(write=False)


@dataclass(frozen=True, slots=True)
class Reach:
    """When the runs of a strategy reached a level.

    Attributes:
        median: of the evaluations that it took, a run that never did counted as the longest; None
            if half of the runs or more never did.
        runs: how many did.
    """

    median: float | None
    runs: int


@dataclass(frozen=True, slots=True)
class Row:
    """A strategy in the table: its final scores over seeds, beside those of the first strategy.

    Attributes:
        strategy: label.
        train, held_out: mean and standard deviation (n - 1) of the final scores; None where they
            were not measured, or there is one seed only.
        difference: mean difference of the final scores compared, this less the first strategy's;
            None for the first.
        p: of the sign-flip test of this difference; None without a test.
        p_corrected: the same by Holm, for the number of strategies compared with the first.
        examples_share: of all examples, asked of the children; None if there were none.
        reaches: for each strategy, when this one reached that one's mean final selection score.
            (The held-out score of a champion also falls; to have touched a level says little.)
    """

    strategy: str
    train: tuple[float, float | None]
    held_out: tuple[float, float | None] | None
    difference: float | None
    p: float | None
    p_corrected: float | None
    examples_share: float | None
    reaches: dict[str, Reach]


@dataclass(frozen=True, eq=False, slots=True)
class Comparison:
    """What came of a comparison.

    Attributes:
        directory: where everything is.
        labels: of the strategies, in order; the others are compared with the first.
        seeds: the random seeds, in order.
        budget: children of each run.
        score: which final scores are compared: held-out ones if they were measured in every run.
        curves: one per run, strategy by strategy.
        rows: one per strategy.
    """

    directory: Path
    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    budget: int
    score: str
    curves: tuple[Curve, ...]
    rows: tuple[Row, ...]

    def of(self, label: str) -> list[Curve]:
        """The curves of a strategy, by seed."""
        return [curve for curve in self.curves if curve.strategy == label]


# Summing up


def assemble(directory: Path, curves: Sequence[Curve], budget: int) -> Comparison:
    """Put the table together.

    Args:
        directory: of the comparison.
        curves: one per run; every strategy with the same seeds, in the same order.
        budget: children of each run.
    """
    labels = tuple(dict.fromkeys(curve.strategy for curve in curves))
    seeds = tuple(dict.fromkeys(curve.seed for curve in curves))
    measured = not any(np.isnan(curve.held_out[-1]) for curve in curves)
    score = "held_out" if measured else "train"
    levels = _levels(curves, "train")
    groups = {label: [c for c in curves if c.strategy == label] for label in labels}
    finals = {label: _finals(group, score) for label, group in groups.items()}
    differences = {label: finals[label] - finals[labels[0]] for label in labels[1:]}
    p_values: dict[str, float] = {}
    corrected: dict[str, float] = {}
    if len(seeds) >= FEWEST_SEEDS and differences:
        p_values = {label: sign_flip_test(values) for label, values in differences.items()}
        corrected = dict(zip(p_values, holm(list(p_values.values())).tolist(), strict=True))
    rows: list[Row] = []
    for label, group in groups.items():
        reaches: dict[str, Reach] = {}
        for other, level in levels.items():
            found = [_reach(curve, "train", level) for curve in group]
            times = [float("inf") if value is None else float(value) for value in found]
            median = float(np.sort(times)[[(len(times) - 1) // 2, len(times) // 2]].mean())
            runs = int(np.isfinite(times).sum())
            reaches[other] = Reach(median if np.isfinite(median) else None, runs)
        rows.append(
            Row(
                label,
                _spread(_finals(group, "train")),
                _spread(_finals(group, "held_out")) if measured else None,
                float(differences[label].mean()) if label in differences else None,
                p_values.get(label),
                corrected.get(label),
                _share(group),
                reaches,
            )
        )
    return Comparison(directory, labels, seeds, budget, score, tuple(curves), tuple(rows))


def smallest_p(seeds: int, comparisons: int) -> float:
    """The smallest p-value that the corrected test can give with so many seeds and comparisons."""
    return min(1.0, comparisons * 2.0 ** (1 - seeds))


def _finals(curves: Sequence[Curve], score: str) -> Float64:
    return np.array([_scores(curve, score)[0][-1] for curve in curves])


def _scores(curve: Curve, score: str) -> tuple[Float64, Float64]:
    """On the grid, and by champion."""
    if score == "train":
        return curve.train, curve.champion_train
    return curve.held_out, curve.champion_held_out


def _spread(values: Float64) -> tuple[float, float | None]:
    deviation = float(values.std(ddof=1)) if values.size > 1 else None
    return float(values.mean()), deviation


def _share(curves: Sequence[Curve]) -> float | None:
    """Of all examples of all children, those asked."""
    total = sum(int(curve.evaluations[-1]) * curve.examples for curve in curves)
    return sum(int(c.examples_evaluated[-1]) for c in curves) / total if total else None


def _levels(curves: Sequence[Curve], score: str) -> dict[str, float]:
    """Mean final score of each strategy."""
    labels = dict.fromkeys(curve.strategy for curve in curves)
    return {
        label: float(_finals([c for c in curves if c.strategy == label], score).mean())
        for label in labels
    }


def _reach(curve: Curve, score: str, level: float) -> int | None:
    return evaluations_to_reach(curve.champion_evaluations, _scores(curve, score)[1], level)


# Files


def curves_csv(curves: Sequence[Curve]) -> str:
    """Every run at every point; an empty cell is a score that was not measured."""
    header = ["strategy", "seed", "evaluations", "train", "held_out", "coverage", "entropy"]
    rows: list[list[object]] = [[*header, "examples_evaluated"]]
    for c in curves:
        points = (c.train, c.held_out, c.coverage, c.entropy, c.examples_evaluated)
        for index, at in enumerate(c.evaluations.tolist()):
            rows.append([c.strategy, c.seed, at, *(column[index].item() for column in points)])
    return _csv(rows)


def summary_csv(comparison: Comparison) -> str:
    """Every run at its end, and when it reached the mean final score of each strategy.

    `train_reaches_X` is the number of evaluations at which the run's champion first was as good on
    selection examples as strategy X was in the end, in the mean over seeds; empty if never.
    """
    levels = {score: _levels(comparison.curves, score) for score in ("train", "held_out")}
    header = ["strategy", "seed", "evaluations", "train", "held_out", "coverage", "entropy"]
    header.append("examples_evaluated")
    header += [f"{score}_reaches_{label}" for score in levels for label in comparison.labels]
    rows: list[list[object]] = [list(header)]
    for c in comparison.curves:
        points = (c.evaluations, c.train, c.held_out, c.coverage, c.entropy, c.examples_evaluated)
        rows.append(
            [
                *(c.strategy, c.seed, *(column[-1].item() for column in points)),
                *(
                    None if np.isnan(level) else _reach(c, score, level)
                    for score, known in levels.items()
                    for level in known.values()
                ),
            ]
        )
    return _csv(rows)


def _csv(rows: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in rows:
        writer.writerow(
            "" if cell is None or (isinstance(cell, float) and np.isnan(cell)) else cell
            for cell in row
        )
    return out.getvalue()


def as_json(comparison: Comparison) -> dict[str, Any]:
    """What `genepool compare --json` prints (see docs/compare.md)."""
    tested = len(comparison.seeds) >= FEWEST_SEEDS and len(comparison.labels) > 1
    return {
        "directory": str(comparison.directory),
        "seeds": list(comparison.seeds),
        "budget": comparison.budget,
        "score": comparison.score,
        "tested": tested,
        "strategies": [
            {
                "strategy": row.strategy,
                "train": {"mean": row.train[0], "sd": row.train[1]},
                "held_out": None
                if row.held_out is None
                else {"mean": row.held_out[0], "sd": row.held_out[1]},
                "difference": row.difference,
                "p": row.p,
                "p_corrected": row.p_corrected,
                "significant": None if row.p_corrected is None else row.p_corrected <= SIGNIFICANT,
                "examples_share": row.examples_share,
                "reaches": [
                    {"strategy": label, "median": reach.median, "runs": reach.runs}
                    for label, reach in row.reaches.items()
                ],
            }
            for row in comparison.rows
        ],
    }
