"""Runs over pipelines that the evaluator `images` scores."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from genepool.errors import CheckpointError, GenepoolError, PoolError
from genepool.pool.reader import Pool
from genepool.pool.writer import PoolWriter
from genepool.run.driver import SeedReport
from genepool.run.evolve import evolve
from genepool.run.finished.draw import draw_pictures
from genepool.run.inputs import open_inputs
from genepool.run.progress import Silence
from genepool.run.run_file import load_run
from genepool.tasks.images.evaluator import Images
from tests.pipelines import tiny_pipeline


def redness(pictures: NDArray[np.uint8], examples: Sequence[Mapping[str, Any]]) -> list[float]:
    """How red each picture is, in [0, 1]."""
    assert len(examples) == len(pictures)
    return (pictures[..., 0].mean(axis=(1, 2), dtype=np.float64) / 255).tolist()


def configuration(folder: Path, **changes: Any) -> dict[str, Any]:
    """A run over three pipelines."""
    for number in range(3):
        if not (folder / f"seed{number}").exists():
            tiny_pipeline(folder / f"seed{number}", seed=number, like=0)
    letters = "abcdefgh"
    examples = [{"id": f"e{n}", "prompt": x, "other": x * 2} for n, x in enumerate(letters)]
    (folder / "examples.json").write_text(json.dumps(examples))
    task = {
        "name": "red",
        "evaluator": "images",
        "examples": str(folder / "examples.json"),
        "score": "tests.run.test_pictures:redness",
        "noise": "allow",
        "batch": 3,
        "held_out": 0.25,
        "languages": {"one": "prompt", "two": "other"},
    }
    return {
        "pool": str(folder / "pool"),
        "seeds": [str(folder / f"seed{number}") for number in range(3)],
        "components": {"vae": "seed1"},
        "tasks": [task],
        "model": {"steps": 1, "size": 16},
        "budget": 6,
        "strategy": {"name": "m2n2", "archive": 4},
        **changes,
    }


class Listener(Silence):
    """Remembers what it is told, and does something when a seed was scored."""

    def __init__(self, then: Callable[[], None] | None = None) -> None:
        self.heard: list[str] = []
        self._then = then

    def notice(self, text: str) -> None:
        self.heard.append(text)

    def seed(self, report: SeedReport) -> None:
        if self._then is not None:
            self._then()


def scores(folder: Path) -> list[NDArray[np.float32]]:
    with Pool(folder / "pool") as pool:
        return [np.asarray(record.scores) for record in pool.records()]


@pytest.mark.slow
def test_workers_and_pieces_of_a_run_score_the_same(tmp_path: Path) -> None:
    """Whatever is asked together, and by whomever."""
    folders = [tmp_path / name for name in ("whole", "pieces", "workers")]
    for folder in folders:
        folder.mkdir()
    for folder in folders:
        given = configuration(folder, budget=2)
        if folder.name == "workers":
            given = {**given, "executor": "process", "workers": 1}
        if folder.name == "pieces":
            evolve(given, budget=1)
        listener = Listener()
        evolve(given, progress=listener)
        assert any("model.guidance is 7.5, model.scheduler is DDIM" in x for x in listener.heard)
    one, *others = map(scores, folders)
    assert len(one) == 5
    for other in others:
        np.testing.assert_array_equal(one, other)
    with Pool(folders[0] / "pool") as pool:
        assert {m.name for many in pool.measures().values() for m in many} == {"one", "two"}


@pytest.mark.slow
def test_a_whole_component_that_changes_while_a_run_goes_on_ends_it(tmp_path: Path) -> None:
    given = configuration(tmp_path)
    file = tmp_path / "seed1" / "vae" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(CheckpointError, match=r"vae.*was replaced by another one while in use"):
        evolve(given, progress=Listener(lambda: _rewrite(file)))


def _rewrite(file: Path) -> None:
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)


@pytest.mark.slow
def test_settings_of_the_pipeline_and_its_components_stay(tmp_path: Path) -> None:
    """Between two sessions, and when a member draws afterwards."""
    given = configuration(tmp_path)
    evolve(given, budget=0)
    index = tmp_path / "seed0" / "model_index.json"
    before = index.read_text()
    index.write_text(json.dumps({**json.loads(before), "force_zeros_for_empty_prompt": False}))
    with pytest.raises(PoolError, match=r"made with another model_index.json than .*seed0 holds"):
        evolve(given, budget=1)
    with Pool(tmp_path / "pool") as pool:
        with pytest.raises(PoolError, match=r"made with another model_index.json"):
            draw_pictures(pool, "best", 1, tmp_path / "drawn")
        index.write_text(before)
        config = tmp_path / "seed1" / "vae" / "config.json"
        other = {**json.loads(config.read_text()), "scaling_factor": 0.5}
        config.write_text(json.dumps(other))
        with pytest.raises(PoolError, match=r"made with another component 'vae' than"):
            draw_pictures(pool, "best", 1, tmp_path / "drawn")
    assert not (tmp_path / "drawn").exists()


@pytest.mark.slow
def test_a_pool_that_does_not_know_the_settings_goes_on(tmp_path: Path) -> None:
    given = configuration(tmp_path)
    evolve(given, budget=0)
    with contextlib.closing(PoolWriter(tmp_path / "pool")) as writer:
        pins = writer.meta()["pins"]
        del pins["companions"]["model_index.json"]
        writer.set_meta("pins", pins)
    evolve(given, budget=1)


def test_what_is_known_about_seeds_and_tasks_is_told(tmp_path: Path) -> None:
    given = configuration(tmp_path, model={})
    index = tmp_path / "seed0" / "model_index.json"
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index.write_text(json.dumps({**json.loads(index.read_text()), "safety_checker": checker}))
    (tmp_path / "seed0" / "safety_checker").mkdir()
    notices = "\n".join(open_inputs(load_run(given)).notices)
    assert "model.steps is 50, model.guidance is 7.5, model.size is what the pipeline" in notices
    assert "pictures are drawn without its safety checker" in notices
    assert "more tokens" not in notices
    words = " ".join("abcdefghijklmno")
    found = json.loads((tmp_path / "examples.json").read_text())
    found[-1]["prompt"] = found[0]["other"] = words
    (tmp_path / "examples.json").write_text(json.dumps(found))
    notices = "\n".join(open_inputs(load_run(given)).notices)
    # Of each language, of which one is the prompts themselves.
    assert "2 of 16 prompts have more tokens than the 16 that are read" in notices
    said = {"steps": 1, "guidance": 1.0, "size": 16, "scheduler": "DDIMScheduler"}
    notices = "\n".join(open_inputs(load_run({**given, "model": said})).notices)
    assert "as StableDiffusionPipeline has it" not in notices


def test_a_whole_component_without_weights_is_refused_when_seeds_are_opened(tmp_path: Path) -> None:
    given = configuration(tmp_path)
    (tmp_path / "seed1" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(GenepoolError, match=r"'vae' holds no diffusion_pytorch_model.safetensors"):
        open_inputs(load_run(given))


# The emoji models of the shared folder


@pytest.fixture
def emoji(shared: Callable[[str], Path], tmp_path: Path) -> dict[str, Any]:
    """A run over the four pipelines; English encoder, 16 prompts."""
    data = shared("data/emoji/assemble.py").parent
    spec = importlib.util.spec_from_file_location("assemble_emoji", data / "assemble.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(tmp_path)
    task = {
        "name": "emoji",
        "evaluator": "images",
        "examples": str(data / "captions.jsonl"),
        "prompt": "english",
        "pictures": f"{data / 'pictures.npz'}:noto",
        "picture": "row",
        "tower": str(data / "clip"),
        "group": "group",
        "shuffle": 3,
        "limit": 16,
        "batch": 16,
    }
    return {
        "pool": str(tmp_path / "pool"),
        "seeds": [str(tmp_path / name) for name in ("base", "japanese", "living", "things")],
        "tasks": [task],
        "model": {"steps": 4, "guidance": 3.0},
    }


def test_the_emoji_models_score_what_diffusers_and_clip_say(
    emoji: dict[str, Any], shared: Callable[[str], Path], tmp_path: Path
) -> None:
    from genepool.core.genome import seed_recipe
    from genepool.models.diffusers import noise_seed, quiet
    from genepool.run.executors.scorer import Scorer

    inputs = open_inputs(load_run(emoji))
    (task,) = inputs.tasks
    assert isinstance(task, Images) and len(set(task.labels)) > 3
    scorer = Scorer(inputs, 1)
    found: list[float] = []
    for number in (0, 2):
        scorer.load(seed_recipe(inputs.layout.axis.size, number, 4))
        got = scorer.score(np.arange(16))
        found.append(float(got.mean()))
        place = tmp_path / ("base", "", "living")[number]
        diffusers: Any = importlib.import_module("diffusers")
        clip = transformers.CLIPModel.from_pretrained(
            str(shared("data/emoji/clip/config.json").parent), dtype=torch.float32
        )
        with quiet(), torch.inference_mode():
            pipe = diffusers.DiffusionPipeline.from_pretrained(str(place), dtype=torch.float32)
            pipe.set_progress_bar_config(disable=True)
            drawn = pipe(
                prompt=task.captions(np.arange(16)),
                num_inference_steps=4,
                guidance_scale=3.0,
                generator=[torch.Generator().manual_seed(noise_seed(x)) for x in task.samples],
                output_type="np",
            ).images
            real = task.references(np.arange(16))
            assert real is not None
            pictures = (np.rint(drawn * 255), real.astype(np.float64))
            a, b = (
                clip.get_image_features(
                    pixel_values=torch.from_numpy(p).permute(0, 3, 1, 2).float() / 127.5 - 1
                ).pooler_output
                for p in pictures
            )
            wanted = torch.cosine_similarity(a, b).clamp(0, 1).numpy()
        np.testing.assert_allclose(got, wanted, atol=1e-4)
    # The README's table: 0.69 and 0.70 with 10 steps over 256 prompts.
    assert all(0.5 < mean < 0.85 for mean in found)
