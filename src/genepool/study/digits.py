"""The digits demo: the paper's first experiment, from nothing to a better model.

Specialists as in the paper and its reference code: a 64-256-10 ReLU network, weights from
N(0, 0.01^2), ten full-batch steps of Adam with learning rate 0.003, one network on the digits 0-4
and one on 5-9. From scratch: two untrained networks and mutation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from safetensors.numpy import save

from genepool.checkpoints.files.atomic import write_bytes
from genepool.checkpoints.layout import flatten
from genepool.core.genome import Vector, seed_recipe
from genepool.core.rng import generator
from genepool.core.slerp import merge_recipe, products_of
from genepool.documents import read_text
from genepool.errors import PoolError
from genepool.materialise.gram import load_or_build_gram
from genepool.run.executors.scorer import Scorer
from genepool.run.inputs import open_inputs
from genepool.run.run_file import Run, load_run
from genepool.tasks.datasets import digits
from genepool.yaml_documents import parse_yaml

Arrays = dict[str, NDArray[np.float32]]

_SPREAD = 0.01
_STEPS, _RATE = 10, 0.003
_GRID = 1000
_SEED_STREAM = 7


@dataclass(frozen=True, slots=True)
class BruteForce:
    """The best single SLERP of the two seeds: ratio and accuracies in [0, 1]."""

    ratio: float
    train: float
    held_out: float


def prepare(directory: Path, *, from_scratch: bool, budget: int, seed: int) -> Run:
    """Write seeds and run file into a pool directory, unless they are there, and load them.

    Args:
        directory: of the pool.
        from_scratch: two untrained networks and mutation, instead of two specialists.
        budget: number of children.
        seed: the random seed.

    Raises:
        PoolError: the directory cannot be written, or something else was begun in it.
    """
    names = ("random-1", "random-2") if from_scratch else ("digits-0-4", "digits-5-9")
    config: dict[str, Any] = {
        "pool": ".",
        "seeds": [f"seeds/{name}.safetensors" for name in names],
        "tasks": [{"name": "digits", "evaluator": "classifier", "data": "digits"}],
        "strategy": {"name": "m2n2", "archive": 20, "mutation": _SPREAD if from_scratch else 0.0},
        "budget": budget,
        "seed": seed,
        "track_held_out": True,
    }
    file, seeds = directory / "run.yaml", directory / "seeds"
    require_same(file, config)
    try:
        seeds.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PoolError(f"{seeds}: cannot write here ({error.strerror or error})") from None
    for number, name in enumerate(names):
        target = seeds / f"{name}.safetensors"
        if not target.exists():
            arrays = untrained(seed, number)
            if not from_scratch:
                arrays = train(arrays, *_digits(range(5 * number, 5 * number + 5)))
            write_bytes(target, save(arrays))
    return write_run(file, config)


def write_run(file: Path, config: dict[str, Any]) -> Run:
    """Write a run file, and load it."""
    text = yaml.safe_dump(config, sort_keys=False)  # pyright: ignore[reportUnknownMemberType]
    write_bytes(file, text.encode())
    return load_run(file)


def require_same(file: Path, config: dict[str, Any]) -> None:
    """Refuse a directory in which something else was begun, before anything in it is changed."""
    if not file.exists():
        return
    try:
        found, _ = parse_yaml(read_text(file, 1_000_000))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or {**found, "budget": 0} != {**config, "budget": 0}:
        raise PoolError(
            f"{file.parent}: another demo or run was begun here (see {file.name}); "
            "name another directory with --pool"
        )


def untrained(seed: int, number: int, features: int = 64) -> Arrays:
    """A features-256-10 network, weights and biases from N(0, 0.01^2); weights are [in, out]."""
    draws = generator(seed, number, stream=_SEED_STREAM)

    def normal(*shape: int) -> NDArray[np.float32]:
        return (draws.standard_normal(shape) * _SPREAD).astype(np.float32)

    return {
        "hidden.weight": normal(features, 256),
        "hidden.bias": normal(256),
        "output.weight": normal(256, 10),
        "output.bias": normal(10),
    }


def train(arrays: Arrays, images: NDArray[np.float32], labels: NDArray[np.int64]) -> Arrays:
    """Ten full-batch steps of Adam (Kingma, Ba 2015) on the cross-entropy.

    Args:
        arrays: the network.
        images: float32[n, features].
        labels: int64[n], in 0..9.
    """
    values = {name: array.astype(np.float64) for name, array in arrays.items()}
    first = {name: np.zeros_like(value) for name, value in values.items()}
    second = {name: np.zeros_like(value) for name, value in values.items()}
    for step in range(1, _STEPS + 1):
        for name, slope in _gradient(values, images.astype(np.float64), labels).items():
            first[name] = 0.9 * first[name] + 0.1 * slope
            second[name] = 0.999 * second[name] + 0.001 * slope * slope
            mean, spread = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            values[name] = values[name] - _RATE * mean / (np.sqrt(spread) + 1e-8)
    return {name: value.astype(np.float32) for name, value in values.items()}


def _gradient(
    values: dict[str, NDArray[np.float64]],
    images: NDArray[np.float64],
    labels: NDArray[np.int64],
) -> dict[str, NDArray[np.float64]]:
    hidden = np.maximum(images @ values["hidden.weight"] + values["hidden.bias"], 0)
    logits = hidden @ values["output.weight"] + values["output.bias"]
    chance = np.exp(logits - logits.max(axis=1, keepdims=True))
    chance /= chance.sum(axis=1, keepdims=True)
    chance[np.arange(labels.size), labels] -= 1
    chance /= labels.size
    back = (chance @ values["output.weight"].T) * (hidden > 0)
    return {
        "hidden.weight": images.T @ back,
        "hidden.bias": back.sum(axis=0),
        "output.weight": hidden.T @ chance,
        "output.bias": chance.sum(axis=0),
    }


def brute_force(run: Run) -> BruteForce:
    """The paper's baseline: one SLERP ratio for all weights, the best on training data of 1,000."""
    inputs = open_inputs(run)
    scorer = Scorer(inputs)
    layout = inputs.layout
    if inputs.kind == "vector":
        first, second = (Vector(flatten(c, layout)) for c in inputs.checkpoints[:2])
        products = products_of(first, second, None)
    else:
        gram = load_or_build_gram(inputs.checkpoints, layout, None)
        ends = [seed_recipe(layout.axis.size, k, 2) for k in range(2)]
        products = products_of(ends[0], ends[1], gram)
    everything = np.arange(inputs.examples.size, dtype=np.int64)
    best = BruteForce(0.0, -1.0, 0.0)
    for ratio in np.linspace(0, 1, _GRID).tolist():
        genome = merge_recipe(products, layout.axis, ratio, [layout.axis.size])
        scorer.load(genome)
        accuracy = inputs.examples.mean(scorer.score(everything))
        if accuracy > best.train:
            unseen = inputs.held_out
            if unseen is None:
                raise PoolError("the digits have held-out examples; this run file has none")
            held_out = scorer.score(np.arange(unseen.size), "held-out")
            best = BruteForce(ratio, accuracy, unseen.mean(held_out))
    return best


def _digits(classes: range) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    data = digits()
    count = int(len(data.inputs) * 0.8)
    chosen = np.isin(data.labels[:count], list(classes))
    return data.inputs[:count][chosen], data.labels[:count][chosen]
