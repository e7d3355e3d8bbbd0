"""Pipelines opened from their directories, compared with what diffusers loads from them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from genepool.checkpoints.family import Source, make_family, open_source
from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.pipelines.directory import open_pipeline
from genepool.errors import CheckpointError
from tests.late import diffusers
from tests.pipelines import KINDS, Kind, build_pipeline, tiny_pipeline


def names_of(kind: Kind) -> tuple[str, ...]:
    return ("unet", "vae") if kind in ("sd", "sdxl") else ("transformer", "vae")


@pytest.mark.slow
def test_the_denoiser_evolves_unless_others_are_named(tmp_path: Path) -> None:
    path = tiny_pipeline(tmp_path / "a", "sdxl")
    opened = open_source(Source(str(path)))
    assert opened.pipeline is not None
    assert opened.pipeline.evolving == ("unet",)
    assert set(opened.pipeline.whole) == {
        *("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae", "scheduler"),
    }
    both = open_source(Source(str(path), components=("unet", "text_encoder_2")))
    assert both.pipeline is not None
    assert both.pipeline.evolving == ("text_encoder_2", "unet")
    assert {name.partition(".")[0] for name in both.tensors} == {"unet", "text_encoder_2"}
    # In the Hub's cache the folder is called by its revision, and the model is not.
    snapshot = tmp_path / "models--org--pictures/snapshots/0123"
    snapshot.parent.mkdir(parents=True)
    assert open_source(Source(str(path.rename(snapshot)))).name == "pictures"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_are_those_that_diffusers_loads(tmp_path: Path, kind: Kind) -> None:
    path = tiny_pipeline(tmp_path / "a", kind, seed=3)
    loaded = diffusers.DiffusionPipeline.from_pretrained(str(path))
    opened = open_pipeline(path, names_of(kind))
    expected = {
        f"{component}.{name}": tensor
        for component in names_of(kind)
        for name, tensor in getattr(loaded, component).state_dict().items()
    }
    assert set(opened.tensors) == set(expected)
    for name, tensor in opened.tensors.items():
        values = tensor.floats()
        assert np.array_equal(values, expected[name].numpy()), name


def saved(directory: Path, variant: str | None = None, size: str = "10GB") -> Path:
    build_pipeline(seed=1).save_pretrained(str(directory), variant=variant, max_shard_size=size)
    return directory


def renamed_as_before(folder: Path) -> None:
    """Shards called as earlier releases of diffusers did: the variant before the number."""
    for path in list(folder.iterdir()):
        if path.suffix == ".json":
            text = re.sub(r"(-\d+-of-\d+)\.fp16\.", r".fp16\1.", path.read_text())
            path.write_text(text)
        path.rename(folder / re.sub(r"(-\d+-of-\d+)\.fp16\.", r".fp16\1.", path.name))


def test_shards_and_variants_hold_the_same_model(tmp_path: Path) -> None:
    plain = open_pipeline(saved(tmp_path / "plain"))
    assert not plain.notices
    shards = open_pipeline(saved(tmp_path / "shards", size="100KB"))
    assert len(shards.files) > 1
    only = open_pipeline(saved(tmp_path / "only", "fp16"))
    sharded = open_pipeline(saved(tmp_path / "both", "fp16", "100KB"))
    assert len(sharded.files) > 1
    renamed_as_before(saved(tmp_path / "before", "fp16", "100KB") / "unet")
    before = open_pipeline(tmp_path / "before")
    digests = {c.digest() for c in (plain, shards, only, sharded, before)}
    assert len(digests) == 1
    for checkpoint in (only, sharded, before):
        assert len(checkpoint.notices) == 1
        assert "unet: its variant 'fp16' is taken: there are no plain ones" in checkpoint.notices[0]


def test_of_one_file_and_shards_those_are_taken_that_the_library_loads(tmp_path: Path) -> None:
    path = tiny_pipeline(tmp_path / "a")
    evolving = ("text_encoder", "unet", "vae")
    for name in evolving:
        (file,) = (path / name).glob("*.safetensors")
        halves = {key: tensor / 2 for key, tensor in load_file(file).items()}
        shard = f"{file.stem}-00001-of-00001.safetensors"
        save_file(halves, path / name / shard, {"format": "pt"})
        index = {"metadata": {}, "weight_map": dict.fromkeys(halves, shard)}
        (path / name / f"{file.name}.index.json").write_text(json.dumps(index))
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(str(path))
    tensors = open_pipeline(path, evolving).tensors
    for name in evolving:
        for key, value in loaded.components[name].named_parameters():
            found = tensors[f"{name}.{key}"]
            assert np.array_equal(found.raw.view(np.float32), value.detach().numpy().ravel())


def test_a_variant_is_taken_when_it_is_named(tmp_path: Path) -> None:
    path = tiny_pipeline(tmp_path / "a", seed=1)
    tiny_pipeline(path, seed=1, variant="fp16", dtype=torch.float16)
    (path / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()

    def dtypes(checkpoint: Checkpoint, component: str) -> set[str]:
        return {t.dtype for n, t in checkpoint.tensors.items() if n.startswith(component)}

    plain = open_source(Source(str(path)))
    assert dtypes(plain, "unet") == {"F32"}
    assert not plain.notices
    named = open_source(Source(str(path), variant="fp16", components=("unet", "vae")))
    assert (dtypes(named, "unet"), dtypes(named, "vae")) == ({"F16"}, {"F32"})
    assert len(named.notices) == 1
    assert "vae: its plain weights is taken" in named.notices[0]


def test_two_variants_are_told_apart(tmp_path: Path) -> None:
    path = tiny_pipeline(tmp_path / "a", seed=1, variant="fp16", dtype=torch.float16)
    tiny_pipeline(path, seed=1, variant="bf16", dtype=torch.bfloat16)
    with pytest.raises(CheckpointError, match=r"variants 'bf16', 'fp16', and no plain ones"):
        open_source(Source(str(path)))
    with pytest.raises(CheckpointError, match=r"and no variant 'ema'"):
        open_source(Source(str(path), variant="ema"))
    opened = open_source(Source(str(path), variant="bf16"))
    assert {tensor.dtype for tensor in opened.tensors.values()} == {"BF16"}


def test_a_snapshot_of_the_hubs_cache_opens(tmp_path: Path) -> None:
    """Its files are links to blobs, two folders further up for those of components."""
    path = tiny_pipeline(tmp_path / "a")
    home = tmp_path / "models--org--name"
    snapshot, blobs = home / "snapshots" / ("0" * 40), home / "blobs"
    blobs.mkdir(parents=True)
    for number, file in enumerate(sorted(p for p in path.rglob("*") if p.is_file())):
        link = snapshot / file.relative_to(path)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blobs / str(number))
        link.symlink_to(blobs / str(number))
    assert open_pipeline(snapshot).digest() == open_pipeline(path).digest()


def test_whole_components_come_from_the_seeds_that_are_named(tmp_path: Path) -> None:
    seeds = [open_pipeline(tiny_pipeline(tmp_path / str(n), seed=n)) for n in range(2)]
    family = make_family(seeds, whole={"vae": 1})
    pipeline = family.checkpoints[0].pipeline
    assert pipeline is not None
    assert pipeline.components["vae"].directory == tmp_path / "1" / "vae"
    assert pipeline.components["text_encoder"].directory == tmp_path / "0" / "text_encoder"
    with pytest.raises(CheckpointError, match="has no component 'image_encoder'"):
        make_family(seeds, whole={"image_encoder": 1})


def test_what_a_seed_lacks_and_does_not_give_is_not_missed(tmp_path: Path) -> None:
    seeds = [tiny_pipeline(tmp_path / str(n), seed=n) for n in range(2)]
    shutil.rmtree(seeds[1] / "vae")
    index = json.loads((seeds[1] / "model_index.json").read_text())
    index["text_encoder"] = ["custom", "Encoder"]
    (seeds[1] / "model_index.json").write_text(json.dumps(index))
    opened = [open_pipeline(path) for path in seeds]
    make_family(opened)
    for part, reason in (("vae", "is missing"), ("text_encoder", "runs no code but that of")):
        with pytest.raises(CheckpointError, match=f"the component '{part}' .*{reason}"):
            make_family(opened, whole={part: 1})
