"""Runs of strategies in memory: what a pool would hold, without the pool.

The digits as in `experiments/digits` and the 10,000 digits of MNIST in `shared/data/mnist`; two
specialists that merge (`pre`), or two untrained networks that also mutate (`scratch`).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.core.archive import Member
from genepool.core.axis import Axis
from genepool.core.early_stop.evaluation_plan import EvaluationPlan, FullPlan
from genepool.core.early_stop.lossless import LosslessPlan
from genepool.core.examples import examples_of
from genepool.core.genome import Genome, Recipe, Vector, express, seed_recipe
from genepool.core.rng import generator
from genepool.strategies import Problem, Proposal, Strategy
from genepool.study.digits import train, untrained
from genepool.tasks.classifier.mlp import Mlp

SHARED = Path(os.environ.get("GENEPOOL_SHARED") or Path(__file__).parents[3] / "shared")
HERE = Path(__file__).parent
NAMES = ("hidden.weight", "hidden.bias", "output.weight", "output.bias")

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


@dataclass
class Data:
    """Examples to evolve on, then held-out ones, of one set."""

    images: Float32
    labels: Int64
    train: int
    shapes: list[tuple[int, ...]]
    specialists: list[Float32]

    def __post_init__(self) -> None:
        self.sizes = [int(np.prod(shape)) for shape in self.shapes]
        self.edges = np.cumsum([0, *self.sizes])
        self.mlp = Mlp(self.images, self.labels, [str(k) for k in range(len(self.labels))])
        self.live = np.zeros(int(self.edges[-1]), dtype=np.float32)
        self.model = {
            name: self.live[low:high].reshape(shape)
            for name, low, high, shape in zip(
                NAMES, self.edges[:-1], self.edges[1:], self.shapes, strict=True
            )
        }


def flat(arrays: dict[str, Float32]) -> Float32:
    """The tensors end to end."""
    return np.concatenate([arrays[name].ravel() for name in NAMES]).astype(np.float32)


@cache
def digits() -> Data:
    """scikit-learn's 8x8 digits, 1,437 and 360, and the reference's own specialists."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    with np.load(SHARED / "reference" / "digits_specialists.npz") as file:
        seeds = [file[name].astype(np.float32) for name in sorted(file.files)]
    shapes = [(64, 256), (256,), (256, 10), (10,)]
    return Data(images.astype(np.float32), labels.astype(np.int64), 1437, shapes, seeds)


@cache
def mnist() -> Data:
    """MNIST's 10,000 test digits, 28x28, values 0..16: 8,000 to evolve on, 2,000 held out."""
    folder = SHARED / "data" / "mnist"
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), dtype=np.uint8, offset=16).reshape(-1, 784)
    with gzip.open(folder / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), dtype=np.uint8, offset=8).astype(np.int64)
    values = images.astype(np.float32) / 16
    draws = np.random.default_rng(0)
    order = draws.permutation(len(labels))
    values, labels = values[order], labels[order]
    shapes = [(784, 256), (256,), (256, 10), (10,)]
    seeds: list[Float32] = []
    for number in range(2):
        chosen = np.flatnonzero(np.isin(labels[:8000], range(5 * number, 5 * number + 5)))
        start = {
            name: (draws.standard_normal(shape) * 0.01).astype(np.float32)
            for name, shape in zip(NAMES, shapes, strict=True)
        }
        seeds.append(flat(train(start, values[chosen], labels[chosen])))
    return Data(values, labels, 8000, shapes, seeds)


DATA: dict[str, Callable[[], Data]] = {"digits": digits, "mnist": mnist}


class DenseProducts:
    """Inner products of the seeds, from sums along the axis."""

    def __init__(self, seeds: list[Float32]) -> None:
        exact = np.array(seeds, dtype=np.float64)
        pairs = exact[:, None, :] * exact[None, :, :]
        zero = np.zeros((*pairs.shape[:2], 1))
        self._sums = np.concatenate([zero, np.cumsum(pairs, axis=2)], axis=2)

    def between(self, edges: Int64) -> NDArray[np.float64]:
        at = self._sums[:, :, edges]
        return np.ascontiguousarray(np.moveaxis(np.diff(at, axis=2), 2, 0))


@dataclass
class World:
    """A problem, and the scores of any genome on any of its examples."""

    data: Data
    problem: Problem
    seeds: list[Float32]
    _loaded: Genome | None = None

    def load(self, genome: Genome) -> None:
        if genome is self._loaded:
            return
        if isinstance(genome, Recipe):
            self.data.live[:] = express(genome, self.seeds)
        else:
            self.data.live[:] = genome.values
        self._loaded = genome

    def score(self, genome: Genome, at: Int64) -> Float32:
        self.load(genome)
        return self.data.mlp.correct([self.data.model], at, 0, self.data.train)[0]

    def answer(self, genome: Genome, exam: EvaluationPlan) -> None:
        """Ask a genome until the exam is over."""
        if isinstance(exam, LosslessPlan) and (rule := exam.rule) is not None:
            self.load(genome)
            exam.conclude(self.data.mlp.settle(self.data.model, rule))
        while not exam.done:
            block = exam.next()
            exam.record(block, self.score(genome, block))

    def test(self, genome: Genome) -> float:
        self.load(genome)
        first, last = self.data.train, len(self.data.labels)
        return float(
            self.data.mlp.correct([self.data.model], np.arange(last - first), first, last).mean()
        )


@cache
def products(name: str) -> DenseProducts:
    return DenseProducts(DATA[name]().specialists)


def world(name: str, start: str, seed: int) -> World:
    """A data set and a start, for one seed of the randomness."""
    data = DATA[name]()
    along = Axis(data.edges.astype(np.int64), data.edges[[0, -1]].astype(np.int64), ("all",))
    examples = examples_of(data.train, binary=True)
    if start == "pre":
        seeds = data.specialists
        size = int(data.edges[-1])
        genomes: tuple[Genome, ...] = tuple(seed_recipe(size, k, 2) for k in range(2))
        return World(data, Problem(along, products(name), examples, genomes, seed), seeds)
    if name == "digits":
        seeds = [flat(untrained(seed, number)) for number in range(2)]
    else:
        draws = generator(seed, 0, stream=7)
        size = int(data.edges[-1])
        seeds = [(draws.standard_normal(size) * 0.01).astype(np.float32) for _ in range(2)]
    return World(data, Problem(along, None, examples, tuple(Vector(s) for s in seeds), seed), seeds)


@dataclass
class Found:
    """What a run found.

    Attributes:
        curve: children -> (train, test) of the member best on training data.
        asked: examples asked per child.
        accepted: children that entered the archive.
    """

    curve: dict[int, tuple[float, float]] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)
    accepted: int = 0
    state: Any = None


Watch = Callable[[World, Any, Proposal], None]


def run(
    place: World,
    strategy: Strategy[Any],
    steps: int,
    *,
    stop: bool = True,
    marks: tuple[int, ...] = (),
    watch: Watch | None = None,
) -> Found:
    """One child at a time, as the driver does with one in flight."""
    problem, data = place.problem, place.data
    everything = np.arange(data.train)
    state = strategy.begin(problem)
    best: tuple[float, Genome] = (-1.0, problem.seeds[0])
    found = Found()
    for number, genome in enumerate(problem.seeds):
        scores = place.score(genome, everything)
        member = Member(number, genome, (), problem.examples.mean(scores))
        state, outcome = strategy.absorb(state, member, 0, scores)
        if outcome.accepted and member.train > best[0]:
            best = member.train, genome
    unknown = np.full(data.train, np.nan, dtype=np.float32)
    for step in range(1, steps + 1):
        proposal = strategy.propose(problem, state, step)
        if watch is not None:
            watch(place, state, proposal)
        exam = strategy.exam(state, proposal, unknown) if stop else FullPlan(unknown)
        place.answer(proposal.genome, exam)
        found.asked.append(int(np.count_nonzero(~np.isnan(exam.scores))))
        if np.isnan(exam.scores).any():
            state = strategy.skip(state, step)
        else:
            train_score = problem.examples.mean(exam.scores)
            member = Member(
                len(problem.seeds) + step - 1, proposal.genome, proposal.plan.parents, train_score
            )
            state, outcome = strategy.absorb(state, member, step, exam.scores)
            found.accepted += outcome.accepted
            if outcome.accepted and train_score > best[0]:
                best = train_score, proposal.genome
        if step in marks or step == steps:
            found.curve[step] = best[0], place.test(best[1])
    found.state = state
    return found


# What the scripts share: arguments, and a file with one line of JSON per run that they add to.


def arguments() -> argparse.ArgumentParser:
    """What data, from which start, how long, how often, and where results go."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="digits")
    parser.add_argument("--start", default="pre")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--pause", type=Path, help="start nothing while this file exists")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    return parser


def rows(file: Path) -> list[dict[str, Any]]:
    """What is there already; the folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def append(file: Path, row: dict[str, Any]) -> None:
    """Add a run."""
    with file.open("a") as out:
        out.write(json.dumps(row) + "\n")


def wait(pause: Path | None) -> None:
    """Until the file that asks for a pause is gone."""
    while pause is not None and pause.exists():
        time.sleep(5)
