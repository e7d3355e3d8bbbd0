"""The evaluator `images` scores what pipelines draw, by towers and by functions."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from genepool.checkpoints.family import Source, make_family, open_source
from genepool.core.genome import seed_recipe
from genepool.errors import CheckpointError, ConfigError, EvaluationError, GenepoolError
from genepool.models.build import ModelOptions, build_model
from genepool.models.image_generator import ImageGenerator
from genepool.run import inputs
from genepool.tasks.images.evaluator import Images
from genepool.tasks.images.scorers import likeness
from genepool.tasks.images.tower import Tower
from genepool.tasks.task import Blocked, Drawn, Labelled, Measured, Remarking
from genepool.testing import check_task
from tests.pipelines import clip_tokenizer, tiny_pipeline

WORDS = ("a cat", "b dog", "c", "d e f", "g", "h")
KANA = ("u", "v", "w", "x", "y", "z")


def examples(folder: Path, number: int = 6, **changes: Any) -> list[dict[str, Any]]:
    """Prompts in a file, and noise as their real pictures in an array."""
    folder.mkdir(exist_ok=True)
    rows = np.random.default_rng(1).integers(0, 256, (number, 16, 16, 3), dtype=np.uint8)
    np.savez_compressed(folder / "real.npz", real=rows, other=np.zeros(3))
    found = [
        {"id": f"e{n}", "row": n, "english": WORDS[n], "other": KANA[n], "kind": "ab"[n % 2]}
        for n in range(number)
    ]
    write(folder, found)
    return found


def write(folder: Path, found: Sequence[Mapping[str, Any]]) -> None:
    lines = "".join(f"{json.dumps(example)}\n" for example in found)
    (folder / "captions.jsonl").write_text(lines)


def clip(place: Path, side: int = 16, *, words: bool = True, prepared: bool = False) -> Path:
    """A tiny CLIP with random weights."""
    vision = {"image_size": side, "patch_size": 4}
    small = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    tokenizer = clip_tokenizer()
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 16}
    text |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = transformers.CLIPConfig(
            vision_config={**small, **vision}, text_config={**small, **text}, projection_dim=8
        )
        transformers.CLIPModel(config).save_pretrained(str(place))
    if words:
        tokenizer.save_pretrained(str(place))
    if prepared:
        size = {"size": {"shortest_edge": side}, "crop_size": side}
        transformers.CLIPImageProcessorPil(**size).save_pretrained(str(place))
    return place


OPTIONS: dict[str, Any] = {
    "examples": "captions.jsonl",
    "prompt": "english",
    "pictures": "real.npz:real",
    "picture": "row",
    "tower": "clip",
    "batch": 2,
    "noise": "allow",
}


def task(folder: Path, **changes: Any) -> Images:
    given = {**OPTIONS, **changes}
    given = {name: value for name, value in given.items() if value is not None}
    return Images(Images.Options.model_validate(given), folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    examples(folder)
    clip(folder / "clip")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ImageGenerator:
    source = Source(str(tiny_pipeline(tmp_path_factory.mktemp("seed") / "a")))
    seeds = make_family([open_source(source)])
    options = ModelOptions(steps=2)
    live = build_model(options, seeds.layout, seeds.checkpoints, Path())
    live.writer(seeds.checkpoints, seeds.layout, 1).write(seed_recipe(seeds.layout.axis.size, 0, 1))
    return live.value


class Drawer:
    """A model that draws what a function says."""

    def __init__(self, draw: Callable[[int], Any], of_seeds: Any = None) -> None:
        self._draw, self.of_seeds = draw, of_seeds
        self.asked: list[tuple[str, ...]] = []

    def pictures(self, prompts: Sequence[str], ids: Sequence[str]) -> Any:
        self.asked.append(tuple(prompts))
        return self._draw(len(ids))


def every(found: Images, held_out: bool = False) -> NDArray[np.int64]:
    return np.arange(len(found.held_out if held_out else found.samples), dtype=np.int64)


def test_it_keeps_the_contract_of_tasks(place: Path, model: ImageGenerator) -> None:
    found = task(place, held_out=0.34, group="kind", batch=3)
    assert found.samples == ("e0", "e1", "e2") and found.held_out == ("e3", "e4", "e5")
    assert isinstance(found, (Blocked, Labelled, Measured, Drawn, Remarking))
    assert found.labels == ("a", "b", "a") and not found.binary
    check_task(
        found,
        model,
        reopen=lambda: task(place, held_out=0.34, group="kind", batch=3),
        broken=Drawer(lambda n: np.zeros((n, 16, 16, 3), np.uint8)),
    )


def test_likeness_is_the_cosine_of_features(place: Path, model: ImageGenerator) -> None:
    found = task(place)
    scores = found.score(model, every(found))
    drawn = found.drawn(model, every(found))
    assert drawn.shape == (6, 16, 16, 3)
    own = transformers.CLIPModel.from_pretrained(str(place / "clip"), dtype=torch.float32)
    real = np.load(place / "real.npz")["real"]

    def features(pictures: NDArray[np.uint8]) -> torch.Tensor:
        pixels = torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            return own.get_image_features(pixel_values=pixels).pooler_output

    cosines = torch.cosine_similarity(features(drawn), features(real)).numpy()
    np.testing.assert_allclose(scores, cosines.clip(0, 1), atol=1e-5)
    assert found.captions(every(found)) == list(WORDS)
    np.testing.assert_array_equal(found.references(every(found)), real)
    # The very pictures of one example, whatever else is asked.
    np.testing.assert_array_equal(found.drawn(model, np.array([3])), drawn[3:4])


def test_what_points_away_scores_nothing() -> None:
    a = np.array([[1.0, 0], [1, 0], [0.6, 0.8]], dtype=np.float32)
    b = np.array([[1.0, 0], [-1, 0], [1, 0]], dtype=np.float32)
    np.testing.assert_allclose(likeness(a, b), [1, 0, 0.6], atol=1e-6)


def test_prompts_are_scored_by_clip(place: Path, model: ImageGenerator) -> None:
    found = task(place, score="prompt", pictures=None)
    scores = found.score(model, every(found))
    own = transformers.CLIPModel.from_pretrained(str(place / "clip"), dtype=torch.float32)
    words = clip_tokenizer()(list(WORDS), padding=True, return_tensors="pt")
    drawn = torch.from_numpy(found.drawn(model, every(found))).permute(0, 3, 1, 2)
    with torch.no_grad():
        out = own(**words, pixel_values=drawn.float() / 127.5 - 1)
    cosines = torch.cosine_similarity(out.text_embeds, out.image_embeds).numpy()
    np.testing.assert_allclose(scores, cosines.clip(0, 1), atol=1e-5)
    assert found.references(every(found)) is None


def test_prompts_that_the_tower_does_not_read_to_their_end_are_told(
    place: Path, tmp_path: Path
) -> None:
    found = examples(tmp_path)
    assert not any("tokens" in text for text in task(tmp_path, tower=str(place / "clip")).notices)
    found[1]["english"] = " ".join("abcdefghijklmnop")
    write(tmp_path, found)
    told = task(tmp_path, tower=str(place / "clip"), score="prompt", pictures=None).notices
    assert told[-1] == (
        "1 of 6 prompts has more tokens than the 16 that the tower reads, and what follows these "
        "is not scored"
    )


def test_ids_are_under_the_key_that_is_named(place: Path) -> None:
    assert task(place, id="other").samples == KANA
    with pytest.raises(ConfigError, match=r"id: an example has none under 'nmae'; its keys are"):
        task(place, id="nmae")


def test_a_function_scores_pictures(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "by_eye.py").write_text(
        "def red(pictures, examples):\n"
        "    assert [e['kind'] for e in examples] == ['a', 'b']\n"
        "    return pictures[..., 0].mean(axis=(1, 2)) / 255\n"
        "def broken(pictures, examples):\n    raise RuntimeError('no eyes')\n"
        "def two(pictures, examples):\n    return [2.0] * len(examples)\n"
    )
    monkeypatch.syspath_prepend(str(place))
    shades = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    drawer = Drawer(lambda n: shades[:n])
    found = task(place, score="by_eye:red", tower=None, pictures=None)
    scores = found.score(drawer, np.array([1, 4]))
    np.testing.assert_allclose(scores, shades[[1, 0], ..., 0].mean(axis=(1, 2)) / 255, rtol=1e-6)
    for name, text in (("broken", "failed: RuntimeError: no eyes"), ("two", "score of .* is 2")):
        with pytest.raises(EvaluationError, match=text):
            task(place, score=f"by_eye:{name}", tower=None, pictures=None).score(
                drawer, np.array([0])
            )


def test_pictures_are_drawn_in_fixed_blocks(place: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    drawer = Drawer(lambda n: noise[:n])
    found = task(place, batch=4)
    found.score(drawer, np.array([5, 0, 4]))
    assert drawer.asked == [WORDS[:4], WORDS[4:]]
    np.testing.assert_array_equal(found.blocks, [0, 0, 0, 0, 1, 1])


@pytest.mark.slow
def test_languages_are_measured_and_not_selected_by(place: Path, model: ImageGenerator) -> None:
    both = {"english": "english", "japanese": "other"}
    found = task(place, held_out=0.5, languages=both, batch=2, measured=2)
    measured = found.measures(model)
    assert set(measured) == {"english", "japanese", "english/japanese consistency"}
    np.testing.assert_allclose(
        measured["english"], found.score(model, np.arange(2), held_out=True).mean(), rtol=1e-6
    )
    other = task(place, held_out=0.5, batch=2, prompt="other")
    assert measured["japanese"] == pytest.approx(
        float(other.score(model, np.arange(2), held_out=True).mean()), rel=1e-6
    )
    a = found.drawn(model, np.arange(2), held_out=True)
    b = other.drawn(model, np.arange(2), held_out=True)
    assert (a != b).any()
    tower = Tower(place / "clip", "cpu", resize=False)
    alike = likeness(tower.features([*a], ["1", "2"]), tower.features([*b], ["1", "2"]))
    assert measured["english/japanese consistency"] == pytest.approx(float(alike.mean()))
    # What is drawn from them may be cut, too.
    others = [*other.captions(np.arange(3)), *other.captions(np.arange(3), held_out=True)]
    assert found.prompts[:6] == tuple(WORDS) and [*found.prompts[6:]] == others
    assert inputs._texts_drawn_from(found) == [*found.prompts]
    assert task(place, held_out=0.5).digest == task(place, held_out=0.5, languages=both).digest
    assert task(place).measures(model) == {}


@pytest.mark.slow
def test_what_changes_scores_changes_the_digest(place: Path, tmp_path: Path) -> None:
    changed: list[dict[str, Any]] = [
        {},
        {"prompt": "other"},
        {"batch": 3},
        {"held_out": 0.5},
        {"limit": 4},
        {"shuffle": 1},
        {"score": "prompt"},
        {"resize": True},
        {"group": "kind"},
    ]
    digests = [task(place, **changes).digest for changes in changed]
    examples(tmp_path)
    rows = np.load(tmp_path / "real.npz")["real"].copy()
    rows[3, 0, 0, 0] ^= 1
    np.savez(tmp_path / "real.npz", real=rows)
    digests.append(task(tmp_path, tower=str(place / "clip")).digest)
    clip(tmp_path / "clip")
    (tmp_path / "clip" / "preprocessor_config.json").write_text(
        (clip(tmp_path / "other", prepared=True) / "preprocessor_config.json").read_text()
    )
    digests.append(task(tmp_path).digest)
    assert len(set(digests)) == len(digests)


def test_examples_are_filtered_shuffled_and_held_out(place: Path) -> None:
    assert task(place, filter={"kind": ["b"]}).samples == ("e1", "e3", "e5")
    shuffled = task(place, shuffle=1).samples
    assert sorted(shuffled) == [f"e{n}" for n in range(6)] and list(shuffled) != sorted(shuffled)
    # Which comes first does not depend on what else is there.
    kept = task(place, shuffle=1, filter={"kind": ["a"]}).samples
    assert kept == tuple(name for name in shuffled if name in ("e0", "e2", "e4"))
    found = task(place, held_out=0.5, limit=2, held_out_limit=1)
    assert found.samples == ("e0", "e1") and found.held_out == ("e3",)
    assert task(place, group=None).labels == ()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "JPEG"])
def test_pictures_of_a_folder(mode: str, tmp_path: Path) -> None:
    found = examples(tmp_path)
    clip(tmp_path / "clip")
    folder = tmp_path / "real"
    folder.mkdir()
    shade = np.random.default_rng(5).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for example in found:
        image = Image.fromarray(shade)
        name = f"{example['id']}.{'jpg' if mode == 'JPEG' else 'png'}"
        if mode == "RGBA":
            image.putalpha(0)
        elif mode != "JPEG":
            image = image.convert(mode)
        image.save(folder / name)
        example["file"] = name
    write(tmp_path, found)
    opened = task(tmp_path, pictures="real", picture="file")
    real = opened.references(every(opened))
    assert real is not None and real.shape == (6, 16, 16, 3)
    if mode == "RGB":
        np.testing.assert_array_equal(real[0], shade)
    elif mode == "RGBA":
        assert (real == 255).all()
    elif mode == "L":
        assert (real[..., 0] == real[..., 2]).all()


def test_a_preprocessor_says_how_pictures_are_made_to_fit(
    place: Path, tmp_path: Path, model: ImageGenerator
) -> None:
    examples(tmp_path)
    clip(tmp_path / "clip", side=8, prepared=True)
    found = task(tmp_path)
    scores = found.score(model, every(found))
    own = transformers.CLIPModel.from_pretrained(str(tmp_path / "clip"), dtype=torch.float32)
    prepare = transformers.CLIPImageProcessorPil.from_pretrained(str(tmp_path / "clip"))
    with torch.no_grad():
        features = [
            own.get_image_features(
                pixel_values=prepare(images=[*pictures], return_tensors="pt")["pixel_values"]
            ).pooler_output
            for pictures in (found.drawn(model, every(found)), np.load(place / "real.npz")["real"])
        ]
    cosines = torch.cosine_similarity(*features).numpy()
    np.testing.assert_allclose(scores, cosines.clip(0, 1), atol=1e-5)


def test_pictures_are_prepared_alike_whether_torchvision_is_there_or_not(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would choose by that, and neither has the other's pixels."""
    own, asked = transformers.AutoImageProcessor.from_pretrained, list[Mapping[str, Any]]()

    def listen(name: str, **given: Any) -> Any:
        asked.append(given)
        return own(name, **given)

    monkeypatch.setattr(transformers.AutoImageProcessor, "from_pretrained", listen)
    examples(tmp_path)
    clip(tmp_path / "clip", prepared=True)
    assert task(tmp_path).samples
    assert [given["backend"] for given in asked] == ["pil"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dinov2", "siglip", "clip-vision"])
def test_other_towers_see_too(kind: str, place: Path, tmp_path: Path, model: Any) -> None:
    small: dict[str, Any] = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "image_size": 16, "patch_size": 4,
    }  # fmt: skip
    made = {
        "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**small)),
        "siglip": lambda: transformers.SiglipModel(
            transformers.SiglipConfig(
                vision_config=small, text_config={**small, "vocab_size": 99, "projection_size": 16}
            )
        ),
        "clip-vision": lambda: transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(**small, projection_dim=8)
        ),
    }
    made[kind]().save_pretrained(str(tmp_path / "tower"))
    found = task(place, tower=str(tmp_path / "tower"))
    scores = found.score(model, every(found))
    assert scores.shape == (6,) and (scores >= 0).all() and len(set(scores.tolist())) > 1
    with pytest.raises(ConfigError, match="needs a tower that reads text too"):
        task(place, tower=str(tmp_path / "tower"), score="prompt")


# What is refused when a task opens


def _noisy(name: str) -> str:
    return f"def {name}(pictures, examples):\n    spread = pictures.std(axis=(1, 2, 3)) / 128\n"


def test_a_scorer_that_likes_noise_is_refused_when_it_opens(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "tastes.py").write_text(
        _noisy("loud") + "    return spread.clip(0, 1)\n"
        + _noisy("plain") + "    return 1 - spread.clip(0, 1)\n"
        + "def blind(pictures, examples):\n    return [0.5] * len(examples)\n"
    )  # fmt: skip
    monkeypatch.syspath_prepend(str(place))
    rows = np.tile(np.arange(100, 116, dtype=np.uint8)[None, :, None, None], (6, 1, 16, 3))
    np.savez(place / "calm.npz", calm=rows)
    for name, liked in (("loud", "noise"), ("plain", "grey"), ("blind", "noise")):
        given = {"score": f"tastes:{name}", "pictures": "calm.npz", "tower": None}
        with pytest.raises(ConfigError, match=f"the scorer likes {liked}: it scores"):
            task(place, noise="refuse", **given)
        (notice,) = task(place, **given).notices
        assert notice.startswith("mean scores of 6 examples: noise 0.")
    found = task(place, noise="refuse")
    assert "the real pictures 1.000" in found.notices[0]


def test_a_scorer_that_likes_noise_better_than_the_seeds_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "tastes_too.py").write_text(_noisy("loud") + "    return spread.clip(0, 1)\n")
    monkeypatch.syspath_prepend(str(place))
    calm = np.tile(np.arange(100, 116, dtype=np.uint8)[None, :, None, None], (6, 1, 16, 3))
    asked: list[int] = []

    def of_seeds(ask: Callable[[], Any]) -> list[Any]:
        asked.append(1)
        return [ask(), ask()]

    given = {"score": "tastes_too:loud", "pictures": None, "tower": None, "noise": "refuse"}
    drawer = Drawer(lambda n: calm[:n], of_seeds)
    assert task(place, **given).notices == ()
    with pytest.raises(EvaluationError, match=r"the best seed's pictures 0.0.*'noise: allow'"):
        task(place, **given).score(drawer, np.array([0]))
    loud = np.tile(np.array([0, 255], np.uint8)[None, None, :, None], (6, 16, 8, 3))
    found = task(place, **given)
    for _ in range(2):
        found.score(Drawer(lambda n: loud[:n], of_seeds), np.array([0]))
    assert len(asked) == 2
    task(place, **{**given, "noise": "allow"}).score(drawer, np.array([0]))
    assert len(asked) == 2


@pytest.mark.parametrize(("batch", "blocks"), [(1, [1] * 6), (4, [4, 2]), (16, [6])])
def test_seeds_are_tried_in_blocks_too(
    batch: int, blocks: list[int], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device may have room for no more pictures than one block has."""
    (place / "tastes_of_blocks.py").write_text(
        _noisy("plain") + "    return 1 - spread.clip(0, 1)\n"
    )
    monkeypatch.syspath_prepend(str(place))
    drawer = Drawer(lambda n: np.tile(np.eye(16, dtype=np.uint8)[None, ..., None], (n, 1, 1, 3)))
    drawer.of_seeds = lambda ask: [ask()]
    given = {"score": "tastes_of_blocks:plain", "pictures": None, "tower": None}
    with pytest.raises(EvaluationError, match="the scorer likes grey"):
        task(place, **given, batch=batch, noise="refuse").score(drawer, np.array([0]))
    assert [len(prompts) for prompts in drawer.asked] == blocks
    assert [prompt for prompts in drawer.asked for prompt in prompts] == list(WORDS)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"prompt": "broken"}, "prompt: example '1' has no prompt under 'broken': got 'a "),
        ({"languages": {"x": "broken"}}, r"languages\.x: example '1' has no prompt under 'broken'"),
        ({"group": "broken"}, "group: example '1' has none under 'broken'"),
    ],
)
def test_halves_of_characters_are_no_text(
    options: dict[str, Any], text: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As what was decoded with other letters in mind holds them."""
    (place / "halves.py").write_text(
        "examples = [{'id': 1, 'english': 'a', 'broken': 'a \\udcff'}]\n"
        "def score(pictures, examples): return [0.5 for _ in examples]\n"
    )
    monkeypatch.syspath_prepend(str(place))
    given = {"examples": "halves:examples", "score": "halves:score", "tower": None}
    with pytest.raises(ConfigError, match=text):
        task(place, **given, pictures=None, **options)


def test_a_function_may_change_the_examples_that_it_is_given(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does to them is forgotten: the next model is judged by the same ones."""
    (place / "changing.py").write_text(
        "def score(pictures, examples):\n    return [e.pop('row', 90) / 100 for e in examples]\n"
    )
    monkeypatch.syspath_prepend(str(place))
    drawer = Drawer(lambda n: np.tile(np.eye(16, dtype=np.uint8)[None, ..., None], (n, 1, 1, 3)))
    found = task(place, score="changing:score", tower=None, pictures=None)
    for _ in range(2):
        np.testing.assert_allclose(found.score(drawer, every(found)), np.arange(6) / 100)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"prompt": "caption"}, "example 'e0' has no prompt under 'caption': got None; its keys"),
        ({"languages": {"x": "kanji"}}, r"languages\.x: example 'e0' has no prompt under 'kanji'"),
        ({"group": "family"}, "group: example 'e0' has none under 'family'"),
        ({"picture": "english"}, "expected in 'english' the number of a row, 0 to 5; got 'a cat'"),
        ({"pictures": "none.npz"}, "no such file"),
        ({"pictures": "real.npz"}, "say which array .* it holds 'real', 'other'"),
        ({"pictures": "real.npz:unreal"}, "has no array 'unreal'"),
        ({"pictures": "real.npz:other"}, r"expected uint8\[rows, height, width, 3\].*float64"),
        ({"pictures": "nowhere"}, "no such folder"),
        ({"pictures": "captions.jsonl"}, "no such folder"),
        ({"pictures": None}, "expected a reference picture, an array uint8"),
        ({"tower": None}, "score: 'reference' needs a 'tower'"),
        ({"tower": "nothing"}, "is no directory of a model"),
        ({"tower": "captions.jsonl"}, "is no directory of a model"),
        ({"device": "cuda:77"}, "device: the tower cannot be put on 'cuda:77'"),
        ({"score": "no_such_module:f"}, "there is no module 'no_such_module'"),
        ({"score": "cosine"}, "'cosine': expected 'module:function'"),
        ({"filter": {"kind": ["c"]}}, "none of its 6 examples is let through by 'filter'"),
        ({"held_out": 0.99}, "leaves none to select by"),
        ({"held_out": 0.5, "held_out_examples": "captions.jsonl"}, "exclude each other"),
        ({"held_out_examples": "captions.jsonl"}, "examples 0 and 6 have the same id 'e0'"),
        ({"examples": "none.jsonl"}, "no such file"),
        ({"id": "kind"}, "have the same id 'a'"),
    ],
)
def test_options_that_cannot_be_used(changes: dict[str, Any], text: str, place: Path) -> None:
    with pytest.raises(GenepoolError, match=text) as found:
        task(place, **changes)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('"a cat"\n', "example 0 .* is no mapping with a prompt; got 'a cat'"),
        ("{}\n", "example '.*' has no prompt under 'english'"),
        ('{"english": " ", "id": "e"}\n', "has no prompt under 'english': got ' '"),
        ('{"english": ["a"], "id": "e"}\n', r"got \['a'\]"),
        ('{"english": "a", "id": "e", "row": 6}\n', "has no reference picture: .* got 6"),
        ('{"english": "a", "id": "e", "row": true}\n', "has no reference picture: .* got True"),
        ('{"english": "a", "id": "e"}\n', "has no reference picture: .* got None"),
        ('{"english": "a", "id": [1], "row": 1}\n', "has no usable 'id'"),
    ],
)
def test_examples_that_cannot_be_used(content: str, text: str, place: Path, tmp_path: Path) -> None:
    examples(tmp_path)
    (tmp_path / "captions.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=text):
        task(tmp_path, tower=str(place / "clip"))


def _bomb(path: Path) -> None:
    # 2 * 10^8 pixels of one colour in some kilobytes.
    Image.new("1", (20_000, 10_000)).save(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda p: p.write_bytes(b"no picture"), "is no picture that can be read"),
        (lambda p: p.write_bytes(b""), "is no picture that can be read"),
        (lambda p: p.mkdir(), "there is no file"),
        (lambda p: p.symlink_to("/etc/passwd"), "lies outside of"),
        (lambda p: Image.new("I;16", (16, 16)).save(p), "save it with 8 bits a colour"),
        (lambda p: Image.new("RGB", (16, 15)).save(p), "is 16x15 pixels, and the tower .* 16x16"),
        (lambda p: Image.new("RGB", (16, 16)).save(p, "TIFF"), "is no picture that can be read"),
        (lambda p: Image.new("1", (8192, 8193)).save(p), "unpacks to 8192x8193 pixels"),
        (_bomb, "unpacks to"),
        (lambda _: None, "has no reference picture: there is no file"),
    ],
)
def test_pictures_that_cannot_be_used(make: Any, text: str, place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    make(folder / "a.png")
    write(tmp_path, [{"id": "a", "english": "a", "row": "a.png"}])
    with pytest.raises(ConfigError, match=text) as found:
        task(tmp_path, pictures="real", tower=str(place / "clip"))
    assert "\n" not in str(found.value) and "example 'a'" in str(found.value)


def test_a_picture_cut_short_is_refused_at_once(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    shade = np.random.default_rng(5).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for name in ("a.jpg", "a.png"):
        Image.fromarray(shade).save(folder / name)
        (folder / name).write_bytes((folder / name).read_bytes()[:-60])
        write(tmp_path, [{"id": "a", "english": "a", "row": name}])
        with pytest.raises(ConfigError, match="is no picture that can be read"):
            task(tmp_path, pictures="real", tower=str(place / "clip"))


def test_names_of_files_do_not_lead_out_of_the_folder(place: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "secret.png")
    for name, text in (("../secret.png", "lies outside of"), ("a\0b", "the name of a file")):
        write(tmp_path, [{"id": "a", "english": "a", "row": name}])
        with pytest.raises(ConfigError, match=text):
            task(tmp_path, pictures="real", tower=str(place / "clip"))


def _npz(path: Path, shape: tuple[int, ...], dtype: str = "|u1", size: int = 768) -> None:
    """An array that promises what it may not hold."""
    header = io.BytesIO()
    described: Any = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("real.npy", header.getvalue() + bytes(size))


@pytest.mark.parametrize(
    ("shape", "dtype", "text"),
    [
        ((2, 16, 16, 3), "|u1", r"promises 1536 bytes and holds 768"),
        ((1, 16, 16), "|u1", r"promises 256 bytes and holds 257"),
        ((10**6, 10**4, 10**3, 3), "|u1", "unpacks to 30000000000000 bytes; at most"),
        ((1, 16, 16, 4), "|u1", "expected uint8"),
        ((1, 16, 16, 3), "<f4", "expected uint8"),
        ((1, 16, 16, 3), "|O", "expected uint8"),
        ((0, 16, 16, 3), "|u1", "expected uint8"),
        ((), "|u1", "expected uint8"),
    ],
)
def test_arrays_that_cannot_be_used(
    shape: tuple[int, ...], dtype: str, text: str, place: Path, tmp_path: Path
) -> None:
    _npz(tmp_path / "real.npz", shape, dtype)
    write(tmp_path, [{"id": "a", "english": "a", "row": 0}])
    with pytest.raises(ConfigError, match=text):
        task(tmp_path, tower=str(place / "clip"))


def test_damaged_files_of_arrays(place: Path, tmp_path: Path) -> None:
    examples(tmp_path)
    np.savez(tmp_path / "real.npz", real=np.zeros((6, 16, 16, 3), np.uint8))
    good = (tmp_path / "real.npz").read_bytes()
    for bad in (b"", b"PK no zip", good[:200], good.replace(b"NUMPY", b"PUMPY")):
        (tmp_path / "real.npz").write_bytes(bad)
        with pytest.raises(ConfigError, match=r"pictures: .*real.npz cannot be read"):
            task(tmp_path, tower=str(place / "clip"))


def test_grey_pictures_of_an_array(place: Path, tmp_path: Path) -> None:
    examples(tmp_path)
    grey = np.random.default_rng(0).integers(0, 256, (6, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "real.npz", real=np.asfortranarray(grey))
    found = task(tmp_path, tower=str(place / "clip"))
    real = found.references(every(found))
    assert real is not None
    np.testing.assert_array_equal(real, np.repeat(grey[..., None], 3, axis=-1))


def test_towers_that_cannot_be_used(place: Path, tmp_path: Path) -> None:
    examples(tmp_path)
    clip(tmp_path / "clip", words=False)
    with pytest.raises(ConfigError, match=r"reads text too, such as CLIP .* holds no tokenizer"):
        task(tmp_path, score="prompt")
    clip(tmp_path / "clip", side=8)
    with pytest.raises(
        ConfigError, match=r"is 16x16 pixels, .* sees 8x8 .* 'resize: true' does so"
    ):
        task(tmp_path)
    assert task(tmp_path, resize=True).samples
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = transformers.BertConfig(**small, intermediate_size=16, vocab_size=99)
    transformers.BertModel(bert).save_pretrained(str(tmp_path / "bert"))
    with pytest.raises(ConfigError, match="is a 'bert', which sees no pictures"):
        task(tmp_path, tower="bert")
    weights = tmp_path / "clip" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["visual_projection.weight"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"weights lack 'visual_projection\.weight', which"):
        task(tmp_path, resize=True)
    weights.write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot load it as a model that sees pictures"):
        task(tmp_path, resize=True)


def test_features_that_are_no_numbers(place: Path, tmp_path: Path, model: ImageGenerator) -> None:
    examples(tmp_path)
    own = transformers.CLIPModel.from_pretrained(str(place / "clip"))
    with torch.no_grad():
        own.visual_projection.weight.fill_(float("nan"))
    own.save_pretrained(str(tmp_path / "clip"))
    with pytest.raises(ConfigError, match=r"features of the picture of example 'e0' hold NaN"):
        task(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "text"),
    [
        (lambda n: np.full((n, 16, 16, 3), 7, np.uint8), r"is of one colour, \[7, 7, 7\]"),
        (lambda n: np.zeros((n, 16, 16, 3), np.float32), "expected pictures, uint8"),
        (lambda n: np.zeros((n, 16, 16), np.uint8), "expected pictures, uint8"),
        (lambda n: np.zeros((n + 1, 16, 16, 3), np.uint8), r"expected 2 pictures of shape"),
        (lambda n: np.zeros((n, 16, 16, 4), np.uint8), r"expected 2 pictures of shape"),
        (lambda n: np.zeros((n, 0, 16, 3), np.uint8), r"expected 2 pictures of shape"),
        (lambda _: None, "expected pictures, uint8"),
        (
            lambda n: np.random.default_rng(0).integers(0, 9, (n, 8, 8, 3), dtype=np.uint8),
            "the picture for example 'e0' is 8x8 pixels, and the tower",
        ),
    ],
)
def test_models_that_draw_nothing_of_use(draw: Any, text: str, place: Path) -> None:
    with pytest.raises(EvaluationError, match=text) as found:
        task(place).score(Drawer(draw), np.array([0]))
    assert "\n" not in str(found.value)


def test_models_that_do_not_draw(place: Path) -> None:
    with pytest.raises(EvaluationError, match="needs a model that draws pictures"):
        task(place).score({}, np.array([0]))
