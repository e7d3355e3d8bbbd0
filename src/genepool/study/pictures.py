"""The pictures demo: image generators that draw digits, from nothing to one that draws them all.

The paper's third experiment in small. Four fine-tunes of one tiny diffusion model, each good at
something: `english-low` at "zero" to "four", `english-high` at "five" to "nine", `japanese-low` and
`japanese-high` at the same, asked for in Japanese. Their U-Nets evolve; the text encoder is the one
that the Japanese two have learnt with, which knows the words of both languages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.checkpoints.files.atomic import new_directory, sync_directory, write_bytes
from genepool.core.genome import Genome, recipe, seed_recipe
from genepool.errors import PoolError, WriteError, require_packages
from genepool.messages import at
from genepool.models.image_generator import PACKAGES
from genepool.run.executors.scorer import Scorer
from genepool.run.inputs import open_inputs
from genepool.run.progress import task_scores
from genepool.run.run_file import Run
from genepool.study.digits import require_same, write_run
from genepool.tasks.datasets import digits
from genepool.tasks.png import GAP, grid
from genepool.threads import Progress

UInt8 = NDArray[np.uint8]

WORDS = {
    "english": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "japanese": ("零", "一", "二", "三", "四", "五", "六", "七", "八", "九"),
}
_HALVES = {"0-4": range(5), "5-9": range(5, 10)}
SEEDS = ("english-low", "english-high", "japanese-low", "japanese-high")
# A base that had learnt everything would leave its fine-tunes nothing to be good at: (model that it
# starts from, language, digits, steps).
_PLAN = {
    "base": ("", "english", range(10), 120),
    "english-low": ("base", "english", range(5), 200),
    "english-high": ("base", "english", range(5, 10), 200),
    "japanese": ("base", "japanese", range(10), 100),
    "japanese-low": ("japanese", "japanese", range(5), 150),
    "japanese-high": ("japanese", "japanese", range(5, 10), 150),
}
# Pictures of each prompt: those that members compete for, and held-out ones, from other noise.
_SELECTION, _HELD_OUT = 4, 8
# Denoising steps of each picture.
_STEPS = 6

# Of scikit-learn's 1,797 digits: those that are learnt, and what pictures are compared with.
_LEARNT = 1437
# Width of the kernel, and the density below which nothing is a digit.
_WIDTH, _FLOOR = 0.5, 1e-4

# Pixels of the picture of pictures for each of a digit's, and above and left of them all.
_ENLARGED, _ABOVE, _LEFT = 5, 34, 96


@dataclass(frozen=True, slots=True)
class Scored:
    """What a model scores, all in [0, 1]; `tasks` is one entry a task: name, train and held_out."""

    train: float
    held_out: float
    tasks: Sequence[Mapping[str, Any]]


def require_installed() -> None:
    """Raise MissingExtraError unless everything is installed that the demo needs."""
    require_packages("pictures", "the pictures demo", *PACKAGES)


def prepare(
    directory: Path,
    *,
    budget: int,
    seed: int,
    advance: Progress,
    effort: float = 1.0,
) -> Run:
    """Train the seeds and write the run file into a pool directory, unless they are there.

    Args:
        directory: of the pool.
        budget: number of children.
        seed: the random seed, of the training too.
        advance: called with the fraction of the training that is done.
        effort: how long to train, as a part of what is usual.

    Raises:
        PoolError: the directory cannot be written, or something else was begun in it.
        MissingExtraError: a package that it needs is not installed.
    """
    require_installed()
    config = _config(budget, seed)
    file, seeds = directory / "run.yaml", directory / "seeds"
    require_same(file, config)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PoolError(f"{at(directory)}: cannot write here ({error.strerror or error})") from None
    if not seeds.exists():
        _train(seeds, seed, advance, effort)
    for name, noises in (("prompts", range(_SELECTION)), ("held-out", range(100, 100 + _HELD_OUT))):
        lines = (json.dumps(each, ensure_ascii=False) for each in prompts(noises))
        write_bytes(directory / f"{name}.jsonl", "".join(f"{line}\n" for line in lines).encode())
    return write_run(file, config)


def _config(budget: int, seed: int) -> dict[str, Any]:
    tasks = [
        {
            "name": f"{language} {half}",
            "evaluator": "images",
            "examples": "prompts.jsonl",
            "held_out_examples": "held-out.jsonl",
            "filter": {"language": [language], "half": [half]},
            "score": f"{__name__}:score",
            "batch": 20,
        }
        for language in WORDS
        for half in _HALVES
    ]
    return {
        "pool": ".",
        "seeds": [f"seeds/{name}" for name in SEEDS],
        "components": {"text_encoder": "japanese-low"},
        "model": {"steps": _STEPS, "guidance": 3.0},
        "tasks": tasks,
        "strategy": {"name": "m2n2", "archive": 10, "splits": 4},
        "budget": budget,
        "seed": seed,
    }


def prompts(noises: Sequence[int]) -> list[dict[str, Any]]:
    """Examples: each digit in each language, from each of some noises.

    Args:
        noises: numbers that tell them apart.
    """
    return [
        {
            "id": f"{word}-{noise}",
            "prompt": word,
            "digit": digit,
            "language": language,
            "half": next(name for name, half in _HALVES.items() if digit in half),
        }
        for noise in noises
        for language, words in WORDS.items()
        for digit, word in enumerate(words)
    ]


def score(pictures: UInt8, examples: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """How sure one can be that pictures show the digits that they were to show.

    The density of each digit around a picture is that of its real pictures, `p_d(x) =
    mean_i exp(-|x - x_i|^2 / 2 h^2)` (Parzen 1962), and the score `p_d(x) / (sum_e p_e(x) + f)`:
    high where x looks like real pictures of d, and of no other digit.

    Args:
        pictures: uint8[n, 8, 8, 3].
        examples: n of them, with the `digit` that is meant.

    Returns:
        float64[n] in [0, 1].
    """
    real, labels = _real()
    grey = pictures.astype(np.float64).mean(axis=3).reshape(len(pictures), -1) / 255
    apart = (grey**2).sum(1)[:, None] - 2 * grey @ real.T + (real**2).sum(1)
    near = np.exp(-apart / (2 * _WIDTH**2))
    density = np.stack([near[:, labels == digit].mean(axis=1) for digit in range(10)], axis=1)
    wanted = density[np.arange(len(grey)), [example["digit"] for example in examples]]
    return (wanted / (density.sum(axis=1) + _FLOOR)).clip(0, 1)


@lru_cache(maxsize=1)
def _real() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Pictures, float64[n, 64] from 0 (black) to 1 (white), and which digits they show."""
    data = digits()
    return data.inputs[:_LEARNT].astype(np.float64) / 16, data.labels[:_LEARNT]


def _train(seeds: Path, seed: int, advance: Progress, effort: float) -> None:
    """Train all seeds; they are there all at once or not at all."""
    from genepool.study.generators import Material, Training, train_pipelines

    plan = {
        name: Training(start, language, digits, max(1, round(effort * steps)))
        for name, (start, language, digits, steps) in _PLAN.items()
    }
    real, labels = _real()
    material = Material(real.reshape(-1, 8, 8).astype(np.float32), labels, WORDS)
    try:
        with new_directory(seeds) as temporary:
            train_pipelines(temporary, material, plan, SEEDS, seed, advance)
            temporary.replace(seeds)
        sync_directory(seeds.parent)
    except OSError as error:
        raise WriteError(f"{at(seeds)}: cannot be written: {error.strerror or error}") from error


def compare(run: Run, champion: Genome) -> tuple[Scored, UInt8]:
    """Score the plain mean of the seeds, and let seeds, mean and champion draw the same prompts.

    Args:
        run: that is done.
        champion: its champion's genome.

    Returns:
        What the mean scores, and all pictures in one, uint8[height, width, 3].
    """
    inputs = open_inputs(run)
    if inputs.held_out is None:
        raise PoolError("the pictures have held-out examples; this run file has none")
    scorer = Scorer(inputs)
    size, count = inputs.layout.axis.size, len(run.seeds)
    mean = recipe([0, size], np.full((1, count), 1 / count))
    models = {seed.name: seed_recipe(size, k, count) for k, seed in enumerate(run.seeds)}
    rows: dict[str, list[UInt8]] = {}
    for name, genome in {**models, "plain mean": mean, "champion": champion}.items():
        scorer.load(genome)
        rows[name] = [
            picture
            for number in range(len(inputs.tasks))
            for picture in scorer.pictures(number, np.arange(5, dtype=np.int64), held_out=True)
        ]
    scorer.load(mean)
    train = scorer.score(np.arange(inputs.examples.size, dtype=np.int64))
    held_out = scorer.score(np.arange(inputs.held_out.size, dtype=np.int64), "held-out")
    unseen = dict(task_scores(inputs.held_out, held_out))
    tasks = [
        {"name": name, "train": found, "held_out": unseen[name]}
        for name, found in task_scores(inputs.examples, train)
    ]
    scored = Scored(inputs.examples.mean(train), inputs.held_out.mean(held_out), tasks)
    return scored, _labelled(rows)


def _labelled(rows: Mapping[str, Sequence[UInt8]]) -> UInt8:
    """Rows of 20 pictures each, with what they are: English prompts, then Japanese ones."""
    from PIL import Image, ImageDraw

    pixels = grid([*rows.values()], _ENLARGED)
    height, width = pixels.shape[:2]
    page = Image.new("RGB", (_LEFT + width, _ABOVE + height), "white")
    page.paste(Image.fromarray(pixels), (_LEFT, _ABOVE))
    pen = ImageDraw.Draw(page)
    down, across = (height + GAP) / len(rows), (width + GAP) / (2 * len(WORDS["english"]))
    for number, name in enumerate(rows):
        pen.text((_LEFT - 8, _ABOVE + (number + 0.5) * down - GAP / 2), name, "black", anchor="rm")
    for number, language in enumerate(WORDS):
        left = _LEFT + number * 10 * across
        pen.text((left + 5 * across, 10), f"{language.title()} prompts", "black", anchor="mm")
        for digit in range(10):
            pen.text(
                (left + (digit + 0.5) * across - GAP / 2, 25), f"{digit}", "black", anchor="mm"
            )
    return np.asarray(page)
