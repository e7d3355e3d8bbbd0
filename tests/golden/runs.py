"""The golden runs: small runs that together go through every strategy and most settings.

Seeds come from numpy with fixed seeds, but for the digit specialists in `seeds/` (64-32-10, made by
`record.py specialists`), which are stored because how they are trained may differ from one BLAS to
another.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from safetensors.numpy import save_file

import genepool

HERE = Path(__file__).parent
SPECIALISTS = HERE / "seeds"

LOW, HIGH, EVEN = (f"seeds/{name}.safetensors" for name in ("low", "high", "even"))
DIGITS = {"name": "digits", "evaluator": "classifier", "data": "digits"}
FUNCTIONS = "tests.golden.functions"


def _task(name: str, classes: str, **more: Any) -> dict[str, Any]:
    """Digits of some classes only, as `prepare` writes them."""
    return {"name": name, "evaluator": "classifier", "data": f"data/{classes}.npz", **more}


def _function(name: str, function: str, examples: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "evaluator": "function",
        "function": f"{FUNCTIONS}:{function}",
        "examples": f"{FUNCTIONS}:{examples}",
        **more,
    }


def _m2n2(**options: Any) -> dict[str, Any]:
    return {"name": "m2n2", "archive": 8, **options}


def _digits(strategy: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "seeds": [LOW, HIGH],
        "tasks": [DIGITS],
        "strategy": strategy,
        "budget": 80,
        "seed": 5,
        **changes,
    }


_RANDOM = ["random1.safetensors", "random2.safetensors"]
_LINEAR = [f"linear{number}.safetensors" for number in (1, 2, 3)]
# Tolerances are no whole number of examples, and runs on several tasks have seeds with which no two
# means are equal but for their last bits: so how means are added up decides nothing.
_GUARD = _task("kept", "low", guard=True, tolerance=0.2513)
_ROUNDS = {"share": 0.25, "renew": 25}

# Keys as in a run file (docs/run-file.md); `pool` is added.
RUNS: dict[str, dict[str, Any]] = {
    "recipes": _digits(_m2n2(archive=12), budget=150, track_held_out=True),
    "scratch": _digits(
        _m2n2(mutation=0.02), seeds=_RANDOM, budget=150, track_held_out=True, seed=2
    ),
    "ga": _digits({"name": "ga", "archive": 8}, seeds=[LOW, HIGH, EVEN]),
    "ga-scratch": _digits({"name": "ga", "archive": 6, "mutation": 0.02}, seeds=_RANDOM),
    "map-elites": _digits(
        {
            "name": "map-elites",
            "cells": 6,
            "warmup": 10,
            "measures": [
                {"task": "digits", "labels": list("01234")},
                {"task": "digits", "labels": list("56789")},
            ],
        }
    ),
    "map-elites-scratch": _digits(
        {
            "name": "map-elites",
            "cells": 5,
            "mutation": 0.02,
            "measures": [{"task": "low"}, {"task": "high"}],
        },
        seeds=_RANDOM,
        tasks=[_task("low", "low"), _task("high", "high")],
    ),
    "cma-es": _digits(
        {"name": "cma-es", "population": 8, "archive": 6}, seeds=[LOW, HIGH, EVEN], budget=84
    ),
    "cma-es-in-flight": _digits(
        {"name": "cma-es", "population": 8, "archive": 6, "groups": ["*.weight"]},
        in_flight=3,
        budget=60,
    ),
    "cma-es-weights": _digits(
        {"name": "cma-es", "population": 8, "archive": 6, "weights": True, "sigma": 0.05},
        seeds=["small1.safetensors", "small2.safetensors"],
        tasks=[_task("even", "even")],
        budget=60,
    ),
    "sweep": _digits(
        {"name": "sweep", "grid": 11, "archive": 6}, seeds=[LOW, HIGH, EVEN], budget=60
    ),
    "random": _digits({"name": "random", "archive": 6}, seeds=[LOW, HIGH, EVEN], budget=60),
    "random-tensor": _digits({"name": "random", "archive": 6, "angle": "tensor"}, budget=40),
    "splits": _digits(_m2n2(splits=4)),
    "no-split": _digits(_m2n2(split_point=False), budget=60),
    "angle-side": _digits(_m2n2(angle="side", splits=2)),
    "angle-tensor": _digits(_m2n2(angle="tensor"), seeds=[LOW, HIGH, EVEN]),
    "angle-side-dense": _digits(
        _m2n2(angle="side", splits=3, mutation=0.01), seeds=_RANDOM, budget=60
    ),
    "angle-tensor-dense": _digits(_m2n2(angle="tensor", mutation=0.01), seeds=_RANDOM, budget=60),
    "chromosomes": _digits(
        _m2n2(), chromosomes={"first": ["hidden.*"], "last": ["output.*"]}, seeds=[LOW, HIGH, EVEN]
    ),
    "chromosomes-dense": _digits(
        _m2n2(mutation=0.01, splits=2),
        chromosomes={"weights": ["*.weight"], "biases": ["*.bias"]},
        budget=60,
    ),
    "warmup": _digits(_m2n2(warmup=30), seeds=[LOW, HIGH, EVEN]),
    "fighting": _digits(_m2n2(alpha=2.0, attraction=False)),
    "no-crossover": _digits(_m2n2(crossover=False, mutation=0.02)),
    "in-flight": _digits(_m2n2(), in_flight=3),
    "in-flight-dense": _digits(_m2n2(mutation=0.02), in_flight=4, seeds=_RANDOM),
    "process": _digits(_m2n2(), in_flight=3, executor="process", workers=2, budget=60),
    "guard": _digits(_m2n2(), tasks=[{**DIGITS, "held_out": 0.3}, _GUARD], seed=2),
    "guard-cma-es": _digits(
        {"name": "cma-es", "population": 6, "archive": 6},
        tasks=[{**DIGITS, "limit": 400}, _GUARD],
        budget=48,
    ),
    "rounds": _digits(_m2n2(**_ROUNDS), budget=90),
    "rounds-rich": _digits(
        {"name": "ga", "archive": 6, "mutation": 0.01, "risk": 0.2, **_ROUNDS},
        tasks=[DIGITS, _task("high", "high", weight=0.25), {**_GUARD, "tolerance": 0.5013}],
        in_flight=3,
        seed=7,
        track_held_out=True,
        budget=90,
    ),
    "risk": _digits(_m2n2(risk=0.2), budget=150),
    "no-early-stop": _digits(_m2n2(), early_stop=False),
    "weights": _digits(
        _m2n2(),
        tasks=[
            _task("low", "low", weight=0.5),
            _task("high", "high", weight=2.0, held_out=0.4),
            _task("even", "even", held_out=0, limit=123),
        ],
        track_held_out=True,
    ),
    "function": {
        "seeds": _LINEAR,
        "tasks": [_function("close", "closeness", "points", held_out=0.2, batch=8)],
        "strategy": _m2n2(warmup=10),
        "budget": 80,
        "track_held_out": True,
    },
    "function-dense": {
        "seeds": _LINEAR,
        "tasks": [_function("close", "closeness", "points")],
        "strategy": {"name": "m2n2", "archive": 6, "mutation": 0.05},
        "budget": 80,
    },
    "function-failing": {
        "seeds": _LINEAR,
        "tasks": [
            _function("close", "brittle", "points", held_out=0.2),
            _function("again", "closeness", "points", limit=20, weight=3.0),
        ],
        "strategy": {"name": "m2n2", "archive": 6, "share": 0.5, "renew": 20},
        "budget": 90,
        "seed": 7,
        "in_flight": 2,
    },
    "half": {
        "seeds": ["half1.safetensors", "half2.safetensors"],
        "tasks": [DIGITS],
        "strategy": _m2n2(),
        "budget": 60,
    },
    # As above, by the rule that came later: what is scored is what is exported.
    "half-exported": {
        "seeds": ["half1.safetensors", "half2.safetensors"],
        "tasks": [DIGITS],
        "strategy": _m2n2(),
        "budget": 60,
    },
    "network": {
        "seeds": ["torch1.safetensors", "torch2.safetensors"],
        "tasks": [{**DIGITS, "limit": 200}],
        "model": {"network": f"{FUNCTIONS}:network"},
        "strategy": _m2n2(archive=5),
        "budget": 40,
    },
    "language": {
        "seeds": ["llama1", "llama2"],
        "tasks": [_function("sums", "among_three", "sums", held_out=0.2, batch=8, binary=True)],
        "strategy": {"name": "m2n2", "archive": 4, "warmup": 3},
        "budget": 30,
        "seed": 1,
    },
    "pieces": _digits(_m2n2(), budget=150),
    "pieces-dense": _digits(_m2n2(mutation=0.02), seeds=_RANDOM, budget=150),
}

# Children after which a run is left, to be gone on with.
PIECES = {"pieces": (60,), "pieces-dense": (60,)}

# These are compared with what 21445ff computed, which scored children before it rounded them to the
# seeds' float16: their pools begin as if it had made them.
BY_THE_OLD_RULE = ("half",)

# Runs that go through LAPACK or through numpy's sums of many terms on their way to a genome: CMA-ES
# lets its covariance be taken apart, and the last bits of that differ from one kind of CPU to
# another. They are compared where `record.fingerprint` is the recorded one.
OF_THIS_CPU = ("cma-es", "cma-es-in-flight", "cma-es-weights", "guard-cma-es")

# Pools that genepool at 21445ff wrote, after so many children; they are brought to twice as many.
OLD = 80
POOLS: dict[str, dict[str, Any]] = {
    "guarded": _digits(
        _m2n2(splits=2, warmup=10),
        seeds=[f"../../{LOW}", f"../../{HIGH}"],
        tasks=[
            DIGITS,
            {**DIGITS, "name": "kept", "limit": 200, "guard": True, "tolerance": 0.0513},
        ],
        track_held_out=True,
        budget=OLD,
    ),
    "rounds": _digits(
        _m2n2(archive=6, **_ROUNDS), seeds=[f"../../{LOW}", f"../../{HIGH}"], budget=OLD
    ),
    "in-flight": _digits(
        _m2n2(archive=6),
        seeds=[f"../../{LOW}", f"../../{HIGH}"],
        tasks=[{**DIGITS, "limit": 500}],
        in_flight=3,
        budget=OLD,
    ),
}


def run(name: str, directory: Path) -> tuple[Path, dict[str, Any]]:
    """Do one of the runs in an empty directory: its pool, and the status that it ends with."""
    prepare(name, directory)
    file = directory / "run.yaml"
    file.write_text(yaml.safe_dump({"pool": "pool", **RUNS[name]}, sort_keys=False))
    if name in BY_THE_OLD_RULE:
        genepool.evolve(file, budget=0)
        unpin(directory / "pool", "rounding")
    for budget in PIECES.get(name, ()):
        genepool.evolve(file, budget=budget)
    return directory / "pool", genepool.evolve(file).status


def unpin(pool: Path, key: str) -> None:
    """Take a pin out of a pool, which then is as releases wrote it that did not have it."""
    from genepool.pool.writer import PoolWriter

    with contextlib.closing(PoolWriter(pool)) as writer:
        pins = writer.meta()["pins"]
        writer.set_meta("pins", {name: value for name, value in pins.items() if name != key})


def go_on(name: str, directory: Path) -> tuple[Path, dict[str, Any]]:
    """Bring a copy of an old pool to twice its children."""
    file = copy_pool(name, directory)
    return file.parent / "pool", genepool.evolve(file, budget=2 * OLD).status


def copy_pool(name: str, directory: Path) -> Path:
    """Copy an old pool with its seeds and run file, which is returned."""
    shutil.copytree(SPECIALISTS, directory / "seeds", dirs_exist_ok=True)
    target = directory / "pools" / name
    shutil.copytree(HERE / "pool-21445ff" / name, target)
    return target / "run.yaml"


def prepare(name: str, directory: Path) -> None:
    """Write the seeds and the data that a run names."""
    directory.mkdir(parents=True, exist_ok=True)
    for seed in RUNS[name]["seeds"]:
        _write_seed(directory, seed)
    for task in RUNS[name]["tasks"]:
        if task.get("data", "").startswith("data/"):
            _write_digits(directory / task["data"])


def _write_seed(directory: Path, seed: str) -> None:
    kind, number = seed.removesuffix(".safetensors")[:-1], seed.removesuffix(".safetensors")[-1]
    target = directory / seed
    if (HERE / seed).exists():
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(HERE / seed, target)
    elif kind == "llama":
        _write_llama(target, int(number))
    else:
        save_file(_arrays(kind, int(number)), target)


def _arrays(kind: str, number: int) -> dict[str, NDArray[Any]]:
    draws = np.random.default_rng([number, len(kind)])

    def normal(*shape: int, spread: float = 0.1) -> NDArray[np.float32]:
        return (draws.standard_normal(shape) * spread).astype(np.float32)

    if kind == "linear":
        return {
            "linear.weight": normal(12, 1, spread=0.5),
            "linear.bias": normal(1, spread=0.5),
        }
    if kind == "torch":
        return {
            "0.weight": normal(24, 64),
            "0.bias": normal(24),
            "2.weight": normal(10, 24),
            "2.bias": normal(10),
        }
    hidden = {"random": 64, "half": 32, "small": 8}[kind]
    arrays: dict[str, NDArray[Any]] = {
        "hidden.weight": normal(64, hidden),
        "hidden.bias": normal(hidden),
        "output.weight": normal(hidden, 10),
        "output.bias": normal(10),
    }
    if kind == "half":
        return {name: array.astype(np.float16) for name, array in arrays.items()}
    return arrays


def _write_digits(file: Path) -> None:
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    classes = {"low": range(5), "high": range(5, 10), "even": range(0, 10, 2)}[file.stem]
    chosen = np.isin(found.target, list(classes))
    x, y = found.data[chosen][:400], found.target[chosen][:400]
    file.parent.mkdir(exist_ok=True)
    np.savez(file, x=x.astype(np.float32), y=y.astype(np.int64))


_WORDS = ["<pad>", "<s>", "</s>", "<unk>", *"0123456789", "+", "="]


def _write_llama(directory: Path, number: int) -> None:
    """A tiny language model as transformers would save it, without torch's random numbers."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    directory.mkdir(parents=True)
    width, inner, words, layers = 16, 24, len(_WORDS), 2
    config: Mapping[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
        "dtype": "float32",
    }
    (directory / "config.json").write_text(json.dumps(config))
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (words, width),
        "lm_head.weight": (words, width),
        "model.norm.weight": (width,),
    }
    for layer in range(layers):
        start = f"model.layers.{layer}."
        for part in "qkvo":
            shapes[f"{start}self_attn.{part}_proj.weight"] = (width, width)
        shapes[f"{start}mlp.gate_proj.weight"] = (inner, width)
        shapes[f"{start}mlp.up_proj.weight"] = (inner, width)
        shapes[f"{start}mlp.down_proj.weight"] = (width, inner)
        shapes[f"{start}input_layernorm.weight"] = (width,)
        shapes[f"{start}post_attention_layernorm.weight"] = (width,)
    draws = np.random.default_rng([number, 77])
    arrays: dict[str, NDArray[np.float32]] = {}
    for key, shape in shapes.items():
        drawn = draws.standard_normal(shape) * (0.3 if len(shape) > 1 else 0.1)
        arrays[key] = (drawn + (len(shape) == 1)).astype(np.float32)
    save_file(arrays, directory / "model.safetensors", {"format": "pt"})
    vocabulary = {word: place for place, word in enumerate(_WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(directory / "tokenizer.json"))
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (directory / "tokenizer_config.json").write_text(json.dumps(kind))
