"""Members of a pool of pipelines as pipelines: they draw and score what the pool says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from genepool.errors import CheckpointError, EvaluationError, GenepoolError, InputError, PoolError
from genepool.output.rebuild import rebuild
from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from genepool.run.finished.verify import export
from tests.build import contents
from tests.pipelines import tiny_pipeline
from tests.quick import quick

WEIGHTS = "diffusion_pytorch_model.safetensors"


def redness(model: Any, examples: Sequence[Mapping[str, Any]]) -> list[float]:
    """How red the pictures are, in [0, 1]."""
    found: list[float] = []
    for example in examples:
        (picture,) = model.pictures([example["prompt"]], [example["id"]])
        found.append(float(picture[..., 0].mean(dtype=np.float64)) / 255)
    return found


def places(folder: Path) -> dict[str, Path]:
    return {f"seed{number}": folder / f"seed{number}" for number in range(3)}


def configuration(folder: Path, **changes: Any) -> dict[str, Any]:
    """A run over three pipelines, whose U-Nets evolve."""
    for number, place in enumerate(places(folder).values()):
        if not place.exists():
            tiny_pipeline(place, seed=number, like=0)
    examples = [{"id": f"e{n}", "prompt": text} for n, text in enumerate("abcd")]
    (folder / "examples.json").write_text(json.dumps(examples))
    task = {
        "name": "red",
        "evaluator": "function",
        "function": "tests.run.finished.test_pipelines:redness",
        "examples": str(folder / "examples.json"),
        "binary": False,
        "held_out": 0.25,
    }
    return {
        "pool": str(folder / "pool"),
        "seeds": [str(folder / f"seed{number}") for number in range(3)],
        "components": {"unet": "evolve", "text_encoder": "evolve", "vae": "seed1"},
        "tasks": [task],
        "model": {"steps": 2, "size": 16},
        "budget": 10,
        "early_stop": False,
        "track_held_out": True,
        "strategy": {"name": "m2n2", "archive": 4},
        **changes,
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that is done, not to be changed."""
    folder = tmp_path_factory.mktemp("pipelines")
    evolve(configuration(folder))
    return folder


@pytest.mark.slow
def test_a_member_is_a_pipeline_that_scores_what_the_pool_says(run: Path, tmp_path: Path) -> None:
    with Pool(run / "pool") as pool:
        number = max(pool.slots().values())
        assert number > 2, "no child got into the archive"
        done = export(pool, number, tmp_path / "out", verify=True)
        record = pool.record(number).scores
        assert record is not None and done.verified == 3
    out = tmp_path / "out"
    assert {"vae": "seed1", "scheduler": "seed0"}.items() <= {
        name: value["seed"]
        for name, value in done.details["components"].items()
        if value != "evolve"
    }.items()
    assert contents(out / "vae") == contents(run / "seed1/vae")
    # As someone else would draw and score it.
    from diffusers import DiffusionPipeline

    from genepool.models.image_generator import ImageGenerator

    pipeline = DiffusionPipeline.from_pretrained(str(out))
    pipeline.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 2, "height": 16, "width": 16}
    examples = json.loads((run / "examples.json").read_text())[:3]
    scores = redness(ImageGenerator(pipeline, call), examples)
    np.testing.assert_allclose(record, scores, atol=2e-3)
    rebuild(out, tmp_path / "again", seeds=places(run))
    assert contents(out, "README.md") == contents(tmp_path / "again", "README.md")


@pytest.mark.slow
def test_a_member_that_scores_otherwise_is_not_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worse(model: Any, examples: Any) -> list[float]:
        return [0.5 * score for score in own(model, examples)]

    own = redness
    monkeypatch.setattr("tests.run.finished.test_pipelines.redness", worse)
    with (
        Pool(run / "pool") as pool,
        pytest.raises(GenepoolError, match="scores otherwise than the pool says on 3 of 3"),
    ):
        export(pool, "best", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_another_dtype_claims_no_scores_and_draws_a_picture(run: Path, tmp_path: Path) -> None:
    with Pool(run / "pool") as pool:
        done = export(pool, "best", tmp_path / "out", dtype="BF16")
    assert "written as BF16" in done.unverified and done.verified == 0
    page = (tmp_path / "out/README.md").read_text()
    assert "was not scored" in page and "BF16 is the type of the merged components" in page
    assert load_file(tmp_path / "out/vae" / WEIGHTS)["encoder.conv_in.bias"].dtype.itemsize == 4


@pytest.mark.slow
def test_a_pipeline_that_draws_nothing_is_not_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def black(*_given: Any) -> Any:
        raise EvaluationError("the picture for example 'genepool' is of one colour, [0, 0, 0]")

    monkeypatch.setattr("genepool.models.diffusers.draw", black)
    with Pool(run / "pool") as pool:
        for dtype in (None, "F16"):
            with pytest.raises(GenepoolError, match=r"was not kept: the picture .* of one colour"):
                export(pool, "best", tmp_path / "out", dtype=dtype)
        assert list(tmp_path.iterdir()) == []
        done = export(pool, "best", tmp_path / "out", verify=False)
    assert done.verified == 0 and done.unverified == ""


@pytest.mark.slow
@pytest.mark.parametrize("part", quick(["vae", "scheduler", "tokenizer"]))
def test_other_files_of_a_whole_component_are_refused(part: str, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    giver = "seed1" if part == "vae" else "seed0"
    config = configuration(tmp_path / "run", budget=11)
    evolve(config)
    if part == "vae":
        file = tmp_path / "run/seed1/vae" / WEIGHTS
        save_file({name: 2 * tensor for name, tensor in load_file(file).items()}, file)
    else:
        name = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}[part]
        (tmp_path / "run" / giver / part / name).write_text("{}")
    moved = places(tmp_path / "run")
    with Pool(tmp_path / "run/pool") as pool:
        text = f"seed '{giver}': its component '{part}' has other files"
        with pytest.raises(CheckpointError, match=text):
            export(pool, "best", tmp_path / "out", seeds=moved)
    with pytest.raises(PoolError, match=f"another component '{part}' than .*{giver}/{part}"):
        evolve({**config, "budget": 12})
    assert not (tmp_path / "out").exists()


def test_seeds_that_have_moved_and_changed(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    for number in range(3):
        shutil.move(tmp_path / f"run/seed{number}", tmp_path / f"moved{number}")
    moved = {f"seed{number}": tmp_path / f"moved{number}" for number in range(3)}
    with Pool(run / "pool") as pool:
        done = export(pool, "best", tmp_path / "out", seeds=moved)
        assert done.verified >= 3
        shutil.rmtree(tmp_path / "moved1/vae")
        with pytest.raises(CheckpointError, match="moved1/vae: the component 'vae' is missing"):
            export(pool, "best", tmp_path / "no", seeds=moved)
        with pytest.raises(InputError, match="the pool has no seed named 'vae'"):
            export(pool, "best", tmp_path / "no", seeds={"vae": tmp_path})
    assert not (tmp_path / "no").exists()
