"""Pipelines as live models draw what plain diffusers draws, whichever genome they hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from genepool.checkpoints.family import Family, Source, make_family, open_source
from genepool.core.genome import Recipe, seed_recipe
from genepool.errors import CheckpointError, ConfigError, EvaluationError
from genepool.models.build import ModelOptions, build_model
from genepool.models.image_generator import ImageGenerator
from genepool.models.kinds import KINDS, kind_of
from genepool.models.live import LiveModel
from tests.late import diffusers
from tests.pipelines import KINDS as SHAPES
from tests.pipelines import Kind, tiny_pipeline
from tests.quick import quick

PROMPTS, IDS = ("a b", "c", "a b"), ("one", "two", "three")


def family(*places: Path, evolving: Sequence[str] = (), whole: Mapping[str, int] | None = None):
    sources = [Source(str(place), components=tuple(evolving)) for place in places]
    return make_family([open_source(source) for source in sources], whole=whole)


def live(seeds: Family, number: int = 0, **options: Any) -> LiveModel:
    """A live model that holds one of the seeds."""
    settings = ModelOptions.model_validate({"steps": 2, "size": 16, **options})
    model = build_model(settings, seeds.layout, seeds.checkpoints, Path())
    fill(model, seeds, seed_recipe(seeds.layout.axis.size, number, len(seeds.checkpoints)))
    return model


def fill(model: LiveModel, seeds: Family, genome: Recipe) -> None:
    model.writer(seeds.checkpoints, seeds.layout, 1).write(genome)


def plain(
    place: Path,
    prompts: Sequence[str] = PROMPTS,
    ids: Sequence[str] = IDS,
    dtype: torch.dtype = torch.float32,
    **call: Any,
) -> NDArray[np.uint8]:
    """What diffusers itself draws from the same noise."""
    from genepool.models.diffusers import noise_seed, quiet

    with quiet(), torch.inference_mode():
        pipe = diffusers.DiffusionPipeline.from_pretrained(str(place), torch_dtype=dtype)
        pipe.set_progress_bar_config(disable=True)
        noise = [torch.Generator().manual_seed(noise_seed(name)) for name in ids]
        given = {"num_inference_steps": 2, "height": 16, "width": 16, **call}
        drawn = pipe(prompt=list(prompts), generator=noise, output_type="np", **given).images
    return np.rint(drawn * 255).astype(np.uint8)


@pytest.mark.parametrize("shape", quick(SHAPES))
def test_every_shape_draws_what_diffusers_draws(shape: Kind, tmp_path: Path) -> None:
    places = [tiny_pipeline(tmp_path / f"{n}", shape, seed=n, like=0) for n in range(2)]
    seeds = family(*places)
    assert kind_of(ModelOptions(), seeds.checkpoints[0]).name == "diffusers"
    model = live(seeds, 1)
    assert isinstance(model.value, ImageGenerator) and model.destinations
    drawn = model.value.pictures(PROMPTS, IDS)
    assert drawn.dtype == np.uint8 and drawn.shape == (3, 16, 16, 3)
    # All but the denoiser comes from the first seed.
    mixed, (denoiser,) = tmp_path / "mixed", seeds.checkpoints[0].pipeline.evolving
    shutil.copytree(places[0], mixed)
    shutil.copytree(places[1] / denoiser, mixed / denoiser, dirs_exist_ok=True)
    np.testing.assert_array_equal(drawn, plain(mixed))
    # Other weights, other pictures, from memory that was written to in place.
    fill(model, seeds, seed_recipe(seeds.layout.axis.size, 0, 2))
    np.testing.assert_array_equal(model.value.pictures(PROMPTS, IDS), plain(places[0]))
    # Equal prompts differ by their noise alone, and the noise belongs to the example.
    assert (drawn[0] != drawn[2]).any()
    held = model.value.pictures(PROMPTS, IDS)
    np.testing.assert_array_equal(model.value.pictures(PROMPTS, IDS), held)
    assert (model.value.pictures(("a b", "d", "a b"), IDS) != held).any()


def test_what_a_run_file_says_is_asked_of_the_pipeline(tmp_path: Path) -> None:
    place = tiny_pipeline(tmp_path / "a")
    seeds = family(place)
    model = live(seeds, steps=3, guidance=2.0, size=[24, 16], scheduler="EulerDiscreteScheduler")
    drawn = model.value.pictures(PROMPTS, IDS)
    index = json.loads((place / "scheduler" / "scheduler_config.json").read_text())
    (place / "scheduler" / "scheduler_config.json").write_text(json.dumps(index))
    own = json.loads((place / "model_index.json").read_text())
    own["scheduler"] = ["diffusers", "EulerDiscreteScheduler"]
    (place / "model_index.json").write_text(json.dumps(own))
    expected = plain(place, num_inference_steps=3, guidance_scale=2.0, height=24)
    np.testing.assert_array_equal(drawn, expected)


@pytest.mark.slow
def test_prompts_are_encoded_once_unless_an_encoder_evolves(tmp_path: Path) -> None:
    places = [tiny_pipeline(tmp_path / f"{n}", seed=n) for n in range(2)]
    for evolving, times in (((), 1), (("unet", "text_encoder"), 3)):
        seeds = family(*places, evolving=evolving)
        model = live(seeds)
        calls: list[int] = []
        encoder = model.value.pipeline.text_encoder
        encoder.register_forward_hook(lambda *_: calls.append(1))  # noqa: B023
        for number in (0, 1, 0):
            fill(model, seeds, seed_recipe(seeds.layout.axis.size, number, 2))
            before = len(calls)
            model.value.pictures(PROMPTS, IDS)
            calls[before:] = [1] if len(calls) > before else []
        assert len(calls) == times


@pytest.mark.slow
def test_text_encoders_and_vaes_may_evolve(tmp_path: Path) -> None:
    places = [tiny_pipeline(tmp_path / f"{n}", "sdxl", seed=n) for n in range(2)]
    parts = ("text_encoder", "text_encoder_2", "unet", "vae")
    seeds = family(*places, evolving=parts)
    model = live(seeds, 1)
    np.testing.assert_array_equal(model.value.pictures(PROMPTS, IDS), plain(places[1]))
    with pytest.raises(ConfigError, match=r"a VAE that evolves .* say 'dtype: bfloat16'"):
        live(seeds, 1, dtype="float16")


@pytest.mark.slow
def test_components_come_from_the_seeds_that_are_named(tmp_path: Path) -> None:
    places = [tiny_pipeline(tmp_path / f"{n}", seed=n) for n in range(2)]
    seeds = family(*places, whole={"text_encoder": 1, "vae": 1, "tokenizer": 1})
    np.testing.assert_array_equal(live(seeds, 1).value.pictures(PROMPTS, IDS), plain(places[1]))


def test_variants_are_read_and_half_precision_draws(tmp_path: Path) -> None:
    place = tiny_pipeline(tmp_path / "a", variant="fp16", dtype=torch.float16)
    model = live(family(place))
    assert model.value.pipeline.unet.dtype == torch.float32
    assert model.value.pictures(PROMPTS, IDS).shape == (3, 16, 16, 3)
    assert live(family(place), dtype="BF16").value.pipeline.vae.dtype == torch.bfloat16


@pytest.mark.parametrize("shape", quick(SHAPES))
@pytest.mark.parametrize("dtype", quick(["float16", "bfloat16"], (1,)))
def test_other_dtypes_draw_what_diffusers_draws_in_them(
    dtype: str, shape: Kind, tmp_path: Path
) -> None:
    place = tiny_pipeline(tmp_path / "a", shape, dtype=torch.float16)
    model = live(family(place), dtype=dtype)
    expected = plain(place, dtype=getattr(torch, dtype))
    np.testing.assert_array_equal(model.value.pictures(PROMPTS, IDS), expected)


def test_genomes_are_never_written_into_the_seeds(tmp_path: Path) -> None:
    places = [tiny_pipeline(tmp_path / f"{n}", seed=n) for n in range(2)]
    parts = ("text_encoder", "unet", "vae")
    before = [file.read_bytes() for place in places for file in place.rglob("*.safetensors")]
    seeds = family(*places, evolving=parts)
    model = live(seeds, 0)
    fill(model, seeds, seed_recipe(seeds.layout.axis.size, 1, 2))
    after = [file.read_bytes() for place in places for file in place.rglob("*.safetensors")]
    assert before == after
    mapped = [np.frombuffer(file.mapping, np.uint8) for c in seeds.checkpoints for file in c.files]
    for part in parts:
        for tensor in getattr(model.value.pipeline, part).state_dict().values():
            start = tensor.data_ptr()
            for file in mapped:
                low = file.ctypes.data
                assert not low <= start < low + file.nbytes


def test_broken_pictures_fail_in_one_line(tmp_path: Path) -> None:
    seeds = family(tiny_pipeline(tmp_path / "a"))
    model = live(seeds)
    vae = model.value.pipeline.vae
    with torch.no_grad():
        vae.decoder.conv_out.weight.zero_()
    with pytest.raises(EvaluationError, match="example 'one' is of one colour") as found:
        model.value.pictures(PROMPTS, IDS)
    assert "\n" not in str(found.value)
    with torch.no_grad():
        vae.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(EvaluationError, match="holds NaN or infinity"):
        model.value.pictures(PROMPTS, IDS)
    with pytest.raises(EvaluationError, match="the pipeline failed: ValueError"):
        live(seeds, size=[17, 16]).value.pictures(PROMPTS, IDS)


def _index(place: Path, **changes: Any) -> None:
    file = place / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("index", "text"),
    [
        ({"_class_name": "NoSuchPipeline"}, "diffusers .* has no pipeline 'NoSuchPipeline'"),
        ({"_class_name": "UNet2DModel"}, "has no pipeline 'UNet2DModel'"),
        ({"_class_name": "StableDiffusionImg2ImgPipeline"}, r"takes 'image'\); expected a text-to"),
        ({"_class_name": "DDIMPipeline"}, "takes no prompt"),
        ({"vae": ["diffusers", "NoSuchModel"]}, "has no class 'NoSuchModel' for the component"),
        ({"vae": ["my_code", "Model"]}, "genepool runs no code but that of diffusers"),
        (
            {"vae": ["diffusers", "UNet2DConditionModel"]},
            "its weights lack .*which UNet2DConditionModel has",
        ),
        ({"tokenizer": ["transformers", "pipeline"]}, "has no class 'pipeline'"),
    ],
)
def test_pipelines_that_cannot_be_built(index: dict[str, Any], text: str, tmp_path: Path) -> None:
    place = tiny_pipeline(tmp_path / "a")
    _index(place, **index)
    with pytest.raises(CheckpointError, match=text) as found:
        live(family(place))
    assert "\n" not in str(found.value)


def test_missing_components(tmp_path: Path) -> None:
    place = tiny_pipeline(tmp_path / "a")
    shutil.rmtree(place / "vae")
    with pytest.raises(CheckpointError, match="component 'vae' is missing, which"):
        live(family(place))
    index = json.loads((place / "model_index.json").read_text())
    del index["vae"]
    (place / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="has no component 'vae', without which"):
        live(family(place))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("text_encoder/model.safetensors", "encoder.layers.1.mlp.fc1.weight"),
        ("vae/diffusion_pytorch_model.safetensors", "decoder.conv_in.weight"),
    ],
)
def test_weights_that_are_missing_are_not_made_up(file: str, name: str, tmp_path: Path) -> None:
    """transformers would take random ones, which are others in each process."""
    place = tiny_pipeline(tmp_path / "a")
    tensors = load_file(place / file)
    (lost,) = (key for key in tensors if key.endswith(name))
    del tensors[lost]
    save_file(tensors, place / file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"its weights lack .*{name}"):
        live(family(place))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"scheduler": "NoSuchScheduler"}, "no scheduler 'NoSuchScheduler'; its own is DDIM"),
        ({"device": "cuda:99"}, "cannot be put on device 'cuda:99'"),
        ({"kind": "diffusers", "network": "a:b"}, "does not go with kind 'diffusers'"),
        ({"tokenizer": "words"}, "'tokenizer' applies to a language model only"),
        ({"kind": "arrays"}, "'steps' applies to an image generator only"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=text):
        live(family(tiny_pipeline(tmp_path / "a")), **options)


def test_a_scheduler_that_knows_less_of_the_noise_is_refused(tmp_path: Path) -> None:
    """It would draw, in silence, from other noise than the denoiser has learnt."""
    noise = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    seeds = family(tiny_pipeline(tmp_path / "a", changes={"scheduler": noise}))
    used = live(seeds, scheduler="EulerDiscreteScheduler").value.pipeline.scheduler
    assert noise.items() <= dict(used.config).items()
    with pytest.raises(ConfigError, match="PNDMScheduler has no rescale_betas_zero_snr") as found:
        live(seeds, scheduler="PNDMScheduler")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("shape", "own", "name"),
    [
        ("sd", "EulerDiscreteScheduler", "DDIMScheduler"),
        pytest.param("sd", "PNDMScheduler", "DDPMScheduler", marks=pytest.mark.slow),
        pytest.param("sdxl", "EulerDiscreteScheduler", "DDIMScheduler", marks=pytest.mark.slow),
    ],
)
def test_latents_are_not_cut_off_where_the_own_scheduler_does_not_do_so(
    shape: Kind, own: str, name: str, tmp_path: Path
) -> None:
    """Its configuration has no such setting, and that of the other is to cut them off."""
    place = tiny_pipeline(tmp_path / "a", shape)
    _index(place, scheduler=["diffusers", own])
    file = place / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    for given in (None, False, True):
        content = {**config, "clip_sample": given}
        file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
        used = live(family(place), scheduler=name).value.pipeline.scheduler
        # Of Stable Diffusion 1 and 2 diffusers itself does not believe it.
        assert used.config.clip_sample == (given is True and shape == "sdxl")


@pytest.mark.parametrize(("shape", "guidance"), [("flux", 5.0), ("flux", None), ("sd", 5.0)])
def test_guidance_that_is_passed_over_is_told(
    shape: Kind, guidance: float | None, tmp_path: Path
) -> None:
    """diffusers says nothing of it, or in a remark."""
    (first,) = family(tiny_pipeline(tmp_path / "a", shape)).checkpoints
    options = ModelOptions(guidance=guidance)
    told = "model.guidance is passed over: the denoiser takes none (guidance_embeds is false)"
    assert (told in kind_of(options, first).told(options, first, [])) == (
        shape == "flux" and guidance is not None
    )


def test_a_scheduler_that_lacks_a_package_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: Any, **__: Any) -> None:
        raise ImportError("\nit needs the package torchsde\nInstall it")

    monkeypatch.setattr(diffusers.EulerDiscreteScheduler, "from_config", lacking)
    with pytest.raises(ConfigError, match="Scheduler cannot be used: ImportError: it needs"):
        live(family(tiny_pipeline(tmp_path / "a")), scheduler="EulerDiscreteScheduler")


def test_a_single_model_is_no_pipeline(tmp_path: Path) -> None:
    place = tiny_pipeline(tmp_path / "a") / "unet"
    with pytest.raises(ConfigError, match="needs the first seed to be a pipeline"):
        live(family(place), kind="diffusers")
    assert [kind.name for kind in KINDS].count("diffusers") == 1


def test_code_that_comes_with_a_component_is_not_run(tmp_path: Path) -> None:
    place = tiny_pipeline(tmp_path / "a")
    drawn = live(family(place)).value.pictures(PROMPTS, IDS)
    _index(
        place,
        tokenizer=["transformers", "AutoTokenizer"],
        text_encoder=["transformers", "AutoModel"],
    )
    # AutoModel asks the configuration for a model of this kind.
    for part, file, name in (
        ("tokenizer", "tokenizer_config.json", "AutoTokenizer"),
        ("text_encoder", "config.json", "AutoModel"),
    ):
        own = json.loads((place / part / file).read_text())
        target = "evil.Thing" if name == "AutoModel" else ["evil.Thing", "evil.Thing"]
        own["auto_map"] = {name: target}
        (place / part / file).write_text(json.dumps(own))
        (place / part / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    np.testing.assert_array_equal(live(family(place)).value.pictures(PROMPTS, IDS), drawn)
    assert not (tmp_path / "ran").exists()
