"""The pictures demo: what it scores by, what it trains, and what it leaves behind."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from genepool.errors import PoolError
from genepool.study import pictures
from genepool.tasks.datasets import digits
from tests.cli import run_cli


def seen(rows: slice) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    """Real digits as pictures, and as examples."""
    data = digits()
    grey = np.rint(data.inputs[rows] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return grey[..., None].repeat(3, axis=3), [{"digit": int(d)} for d in data.labels[rows]]


def test_scores_are_densities_among_the_real_digits() -> None:
    shown, examples = seen(slice(1500, 1503))
    data = digits()
    real, labels = data.inputs[:1437] / 16, data.labels[:1437]
    for picture, example, found in zip(
        shown, examples, pictures.score(shown, examples), strict=True
    ):
        x = picture[..., 0].ravel() / 255
        near = [math.exp(-((x - row) ** 2).sum() / (2 * 0.5**2)) for row in real]
        densities = [
            np.mean([n for n, d in zip(near, labels, strict=True) if d == k]) for k in range(10)
        ]
        assert found == pytest.approx(densities[example["digit"]] / (sum(densities) + 1e-4))


def test_real_digits_score_highly_and_others_noise_and_plain_pictures_do_not() -> None:
    shown, examples = seen(slice(1437, 1797))
    assert pictures.score(shown, examples).mean() > 0.8
    others = [{"digit": (example["digit"] + 1) % 10} for example in examples]
    assert pictures.score(shown, others).mean() < 0.05
    noise = np.random.default_rng(0).integers(0, 256, shown.shape, dtype=np.uint8)
    for nothing in (noise, *(np.full_like(shown, level) for level in (0, 128, 255))):
        assert pictures.score(nothing, examples).mean() < 1e-4


def test_every_digit_is_asked_for_in_each_language_from_noise_of_its_own() -> None:
    chosen, unseen = pictures.prompts(range(4)), pictures.prompts(range(100, 108))
    assert (len(chosen), len(unseen)) == (80, 160)
    assert len({example["id"] for example in [*chosen, *unseen]}) == 240
    three = [(e["prompt"], e["language"], e["half"]) for e in chosen if e["digit"] == 3]
    assert set(three) == {("three", "english", "0-4"), ("三", "japanese", "0-4")}


def test_a_pool_of_something_else_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("pool: mine\n")
    with pytest.raises(PoolError, match="another demo or run was begun here"):
        pictures.prepare(tmp_path, budget=1, seed=0, advance=lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


@pytest.mark.slow
def test_words_are_one_token_each_and_other_text_is_bytes() -> None:
    from genepool.study.generators import tokenizer

    words = [word for language in pictures.WORDS.values() for word in language]
    made = tokenizer(words)
    assert [len(ids) for ids in made(words).input_ids] == [3] * 20
    assert len({ids[1] for ids in made(words).input_ids}) == 20
    assert len(made("thr").input_ids) > 3
    assert made.decode(made("四つ").input_ids, skip_special_tokens=True) == "四つ"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path, None, None]:
    """Seeds trained for a twentieth of the usual time, which draw a few pictures in two steps."""
    path = tmp_path_factory.mktemp("pictures")
    fractions: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "_SELECTION", 1)
        patch.setattr(pictures, "_HELD_OUT", 1)
        patch.setattr(pictures, "_STEPS", 2)
        pictures.prepare(path, budget=1, seed=0, advance=fractions.append, effort=0.05)
        assert fractions == sorted(fractions)
        assert fractions[0] == 0 and 0.95 < fractions[-1] < 1
        yield path


@pytest.mark.slow
def test_seeds_are_pipelines_of_one_family_and_understand_what_they_understood(pool: Path) -> None:
    import torch
    from diffusers import DiffusionPipeline

    seeds: dict[str, Any] = {
        name: DiffusionPipeline.from_pretrained(pool / "seeds" / name) for name in pictures.SEEDS
    }
    low, japanese = seeds["english-low"], seeds["japanese-low"]
    sizes = [sum(p.numel() for p in part.parameters()) for part in (low.unet, low.text_encoder)]
    assert sizes == [253_364, 35_328]

    def states(pipeline: Any, words: tuple[str, ...]) -> torch.Tensor:
        ids = pipeline.tokenizer(list(words), padding="max_length", return_tensors="pt").input_ids
        with torch.inference_mode():
            return pipeline.text_encoder(ids).last_hidden_state

    english, other = pictures.WORDS["english"], pictures.WORDS["japanese"]
    assert torch.equal(states(low, english), states(japanese, english))
    assert torch.equal(states(low, ("",)), states(japanese, ("",)))
    assert not torch.equal(states(low, other), states(japanese, other))
    assert torch.equal(states(seeds["japanese-high"], other), states(japanese, other))
    for name, seed in seeds.items():
        assert seed.vae.config.scaling_factor == low.vae.config.scaling_factor
        weights = seed.unet.conv_in.weight
        assert name == "english-low" or not torch.equal(weights, low.unet.conv_in.weight)


@pytest.mark.slow
def test_training_is_a_function_of_the_random_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pictures.prepare(tmp_path / name, budget=1, seed=seed, advance=lambda _: None, effort=0.01)
    weights = {
        name: (tmp_path / name / "seeds/japanese-high/unet/diffusion_pytorch_model.safetensors")
        for name in "abc"
    }
    assert weights["a"].read_bytes() == weights["b"].read_bytes() != weights["c"].read_bytes()


@pytest.mark.slow
def test_what_is_interrupted_in_training_leaves_no_seeds(tmp_path: Path) -> None:
    def stop(fraction: float) -> None:
        if fraction > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pictures.prepare(tmp_path, budget=1, seed=0, advance=stop, effort=0.01)
    assert list(tmp_path.iterdir()) == []


def test_the_demo_trains_as_long_as_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(seeds: Path, seed: int, advance: object, effort: float) -> None:
        raise PoolError(f"trains {effort}")

    monkeypatch.setattr(pictures, "_train", train)
    for given, told in (([], "trains 1.0"), (["--training", "0.25"], "trains 0.25")):
        code, _, error = run_cli(["demo", "pictures", "--pool", str(tmp_path), *given])
        assert (code, error.splitlines()[-1]) == (1, f"genepool: {told}")
    code, _, error = run_cli(["demo", "pictures", "--pool", str(tmp_path), "--training", "0"])
    assert code == 2 and "--training" in error


@pytest.mark.slow
def test_the_demo_prints_a_table_and_draws(pool: Path) -> None:
    from diffusers import DiffusionPipeline
    from PIL import Image

    arguments = ["demo", "pictures", "--pool", str(pool), "--budget"]
    code, out, error = run_cli([*arguments, "1", "--json"])
    assert code == 0, error
    found = json.loads(out)
    champion, seeds, mean = found["champion"], found["seeds"], found["mean"]
    assert [seed["name"] for seed in seeds] == list(pictures.SEEDS)
    assert (found["session"], found["evaluations"]) == (1, 1)
    assert champion["train"] >= max(seed["train"] for seed in seeds)
    assert len(mean["tasks"]) == 4 and 0 <= mean["held_out"] <= 1
    picture = Image.open(io.BytesIO(Path(found["figure"]).read_bytes()))
    assert picture.size == (96 + 20 * 44 - 4, 34 + 6 * 44 - 4)
    drawing: Any = DiffusionPipeline.from_pretrained(found["checkpoint"])
    drawing.set_progress_bar_config(disable=True)
    drawn = drawing("三", num_inference_steps=2, output_type="np").images
    assert drawn.shape == (1, 8, 8, 3) and np.isfinite(drawn).all() and drawn.std() > 0
    code, out, error = run_cli([*arguments, "2"])
    assert code == 0, error
    rows = [line.split("  ")[0].strip() for line in out.splitlines()]
    assert set(rows) >= {*pictures.SEEDS, "plain mean", "champion"}
    assert "1 child in" in out
    assert "pictures.png" in out
