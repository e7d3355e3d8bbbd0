"""Image generators in one file as live models: they draw what their pipelines draw."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import genepool
from genepool.errors import CheckpointError, ConfigError
from genepool.models.build import ModelOptions
from genepool.models.kinds import kind_of
from tests.cli import run_cli
from tests.models.test_image_generator import IDS, PROMPTS, family, live
from tests.pipelines import single_file, tiny_pipeline
from tests.quick import quick


@pytest.mark.slow
def test_a_file_draws_what_its_pipeline_draws(tmp_path: Path) -> None:
    places = [tiny_pipeline(tmp_path / name, seed=n, like=5) for n, name in enumerate("ab")]
    files = [single_file(place, place.with_suffix(".safetensors")) for place in places]
    whole, single = family(*places, whole={"vae": 0}), family(*files)
    drawn = []
    for number in range(2):
        expected = live(whole, number, guidance=2.0).value.pictures(PROMPTS, IDS)
        model = live(single, number, guidance=2.0, configs=str(places[0])).value
        drawn.append(model.pictures(PROMPTS, IDS))
        assert np.array_equal(drawn[-1], expected)
    assert not np.array_equal(*drawn)


@pytest.mark.slow
def test_what_a_file_says_of_its_noise_decides_how_it_is_drawn(tmp_path: Path) -> None:
    """diffusers' own loader passes over the marks of files that predict velocity."""
    noise = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    place = tiny_pipeline(tmp_path / "a")
    expected = tiny_pipeline(tmp_path / "v", changes={"scheduler": noise})
    file = single_file(place, tmp_path / "a.safetensors")
    marks = {"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}
    save_file({**load_file(file), **marks}, file, {"format": "pt"})
    drawn = live(family(file), configs=str(place)).value.pictures(PROMPTS, IDS)
    assert np.array_equal(drawn, live(family(expected)).value.pictures(PROMPTS, IDS))
    assert not np.array_equal(drawn, live(family(place)).value.pictures(PROMPTS, IDS))
    # Whatever scheduler draws; that of Stable Diffusion 1 has no such setting, and took none.
    own = json.loads((place / "model_index.json").read_text())
    own["scheduler"] = ["diffusers", "PNDMScheduler"]
    (place / "model_index.json").write_text(json.dumps(own))
    for name in ("EulerDiscreteScheduler", "DDIMScheduler"):
        used = live(family(file), configs=str(place), scheduler=name).value.pipeline.scheduler
        assert noise.items() <= dict(used.config).items()
    for name in (None, "PNDMScheduler", "HeunDiscreteScheduler"):
        with pytest.raises(ConfigError, match=r"Scheduler has no rescale_betas_zero_snr, with whi"):
            live(family(file), configs=str(place), scheduler=name)


def test_what_a_run_file_leaves_open_is_told(tmp_path: Path) -> None:
    place = tiny_pipeline(tmp_path / "a")
    (first,) = family(single_file(place, tmp_path / "a.safetensors")).checkpoints
    options = ModelOptions(steps=1)
    (told,) = kind_of(options, first).told(options, first, ["a"])
    assert told.startswith("model.guidance is 7.5, model.size is what the pipeline was made for")


def test_prompts_that_are_cut_are_told(tmp_path: Path) -> None:
    """As of a pipeline's directory, where the settings lie in one."""
    place = tiny_pipeline(tmp_path / "a")
    (first,) = family(single_file(place, tmp_path / "a.safetensors")).checkpoints
    texts = ["a", " ".join("abcdefghijklmnopqrstuvwxyz" * 4)]
    for options, seed in (
        (ModelOptions(steps=1, configs=str(place)), first),
        (ModelOptions(steps=1), family(place).checkpoints[0]),
    ):
        told = kind_of(options, seed).told(options, seed, texts)
        assert "model.scheduler is DDIMScheduler" in told[0]
        assert told[-1].startswith("1 of 2 prompts has more tokens than the")


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    place = tiny_pipeline(tmp_path / "a")
    file = single_file(place, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="cannot be loaded as a single file by diffusers"):
        live(family(file), configs=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"model\.configs is for seeds that are single files"):
        live(family(place), configs=str(place))


@pytest.mark.parametrize(
    "evolving", quick([("text_encoder",), ("unet", "text_encoder"), ("vae", "unet")])
)
def test_more_than_the_denoiser_does_not_evolve(evolving: tuple[str, ...], tmp_path: Path) -> None:
    """It was asked whether the config.json, which there is none of, is the right one."""
    place = tiny_pipeline(tmp_path / "a")
    seeds = family(single_file(place, tmp_path / "a.safetensors"), evolving=evolving)
    (first,) = seeds.checkpoints
    for tell in (
        lambda: kind_of(ModelOptions(), first).told(ModelOptions(), first, []),
        lambda: live(seeds, configs=str(place)),
    ):
        with pytest.raises(
            CheckpointError, match=r"the denoiser alone evolves in a run.*python -c"
        ):
            tell()


@pytest.mark.slow
def test_what_is_exported_is_scored_again(tmp_path: Path) -> None:
    place = tiny_pipeline(tmp_path / "a", seed=0, like=5)
    other = tiny_pipeline(tmp_path / "b", seed=1, like=5)
    files = [single_file(path, path.with_suffix(".safetensors")) for path in (place, other)]
    (tmp_path / "spread.py").write_text(
        "def score(pictures, examples):\n    return pictures.std(axis=(1, 2, 3)) / 128\n"
    )
    (tmp_path / "p.jsonl").write_text('{"id": "x", "prompt": "a"}\n{"id": "y", "prompt": "b"}\n')
    run = {
        "pool": "pool",
        "seeds": [str(file) for file in files],
        "model": {"steps": 2, "size": 16, "configs": "a"},
        "tasks": [
            {
                "name": "spread",
                "evaluator": "images",
                "examples": "p.jsonl",
                "score": "spread:score",
                "noise": "allow",
            }
        ],
        "budget": 2,
    }
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    genepool.evolve(tmp_path / "run.yaml")
    code, out, error = run_cli(["export", str(tmp_path / "pool"), "-o", str(tmp_path / "out")])
    assert code == 0, error
    assert "scored it on 2 examples: as the pool says" in out
