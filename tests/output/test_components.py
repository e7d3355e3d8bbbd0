"""Components of pipelines that cannot be taken, and what fails on the way: nothing is left."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.layout import Layout, build_layout
from genepool.checkpoints.pipelines.directory import open_pipeline
from genepool.errors import CheckpointError, GenepoolError, InputError
from genepool.output.by_hand import blend, merge
from genepool.output.write import stream
from genepool.output.write.weights import write_tensors
from tests.build import contents
from tests.cli import run_cli

WEIGHTS = "diffusion_pytorch_model.safetensors"


def unlink(path: str) -> Callable[[Path], None]:
    return lambda home: (home / path).unlink()


def pickled(home: Path) -> None:
    (home / "vae" / WEIGHTS).rename(home / "vae/diffusion_pytorch_model.bin")


def without_folder(home: Path) -> None:
    shutil.rmtree(home / "vae")


def linked_file(home: Path) -> None:
    (home.parent / "secret.json").write_text("{}")
    (home / "vae/more.json").symlink_to("../../secret.json")


def linked_weights(home: Path) -> None:
    (home / "vae" / WEIGHTS).rename(home.parent / "weights.safetensors")
    (home / "vae" / WEIGHTS).symlink_to("../../weights.safetensors")


def linked_folder(home: Path) -> None:
    (home / "vae").rename(home.parent / "elsewhere")
    (home / "vae").symlink_to("../elsewhere")


def empty_folder(home: Path) -> None:
    without_folder(home)
    (home / "vae").mkdir()


def bad_index(home: Path) -> None:
    (home / "vae" / WEIGHTS).unlink()
    index = {"weight_map": {"a": "../../other.safetensors"}}
    (home / "vae/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def missing_shard(home: Path) -> None:
    bad_index(home)
    index = {"weight_map": {"a": "one.safetensors"}}
    (home / "vae/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def climbing_name(home: Path) -> None:
    index = json.loads((home / "model_index.json").read_text())
    index["../vae"] = ["diffusers", "AutoencoderKL"]
    (home / "model_index.json").write_text(json.dumps(index))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (pickled, r"a/vae: the component 'vae' holds no .*; 'diffusion.*bin'.* convert it with"),
        (
            unlink(f"vae/{WEIGHTS}"),
            r"holds no diffusion_pytorch_model.safetensors; fetch the whole",
        ),
        (unlink("text_encoder/model.safetensors"), r"'text_encoder' holds no model.safetensors"),
        (without_folder, r"a/vae: the component 'vae' is missing, which model_index"),
        (empty_folder, r"a/vae: holds no file of a component"),
        (linked_file, r"more\.json: refused, because it links out"),
        (linked_weights, r"model\.safetensors: refused, because it links out"),
        (linked_folder, r"'vae' is a link that leads out of its pipeline"),
        (bad_index, r"index\.json: expected an object 'weight_map'"),
        (missing_shard, r"one\.safetensors: no such file"),
        (climbing_name, r"'\.\./vae' cannot be the name of a component"),
    ],
)
def test_a_component_that_cannot_be_taken_is_refused(
    spoil: Callable[[Path], None], message: str, own: tuple[Path, Path], tmp_path: Path
) -> None:
    spoil(own[0])
    with pytest.raises(CheckpointError, match=message):
        merge(*own, tmp_path / "out", ratio=0.5)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("vae", "--component: expected NAME=FROM, as vae=PATH; got 'vae'"),
        ("vae=nowhere", "'vae' is to come from 'nowhere'; expected 'evolve', the name of a model"),
        ("unet=b", "the component 'unet' evolves, and cannot be taken as it is too"),
        ("vea=b", "a: has no component 'vea'; its components are"),
        ("vea=evolve", "there is no component 'vea' to evolve"),
        ("vae={b}/unet/config.json", "is neither a pipeline"),
        ("vae={tmp}", "is neither a pipeline"),
        ("text_encoder={b}/vae", "holds AutoencoderKL of diffusers, and the component 'text_enc"),
        (
            "vae={b}/scheduler",
            "holds DDIMScheduler of diffusers, and the component 'vae' is Autoen",
        ),
        ("text_encoder={b}/tokenizer", "holds CLIPTokenizer of transformers, and the component"),
        ("image_encoder={b}", "b: has no component 'image_encoder'"),
    ],
)
def test_components_that_cannot_be_meant_are_refused(
    entry: str, message: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    a, b = pair
    given = entry.format(b=b, tmp=tmp_path)
    arguments = ["merge", str(a), str(b), "-o", str(tmp_path / "out"), "--ratio", "0.5"]
    code, _, err = run_cli([*arguments, "--component", given])
    # What is not even of the form NAME=FROM, or is said twice, is wrong usage.
    assert code == (1 if "=" in entry else 2) and message in " ".join(err.split()), err
    assert not (tmp_path / "out").exists()
    code, _, err = run_cli([*arguments, "--component", "vae=a", "--component", "vae=b"])
    assert code == 2 and "the component 'vae' is given twice" in err


def test_a_single_model_has_no_components(tmp_path: Path) -> None:
    for name in "ab":
        save_file({"weight": torch.ones(3)}, tmp_path / f"{name}.safetensors")
    models = [tmp_path / f"{name}.safetensors" for name in "ab"]
    with pytest.raises(InputError, match=r"a\.safetensors: is no pipeline, and has no components"):
        blend(models, tmp_path / "out", components={"vae": "a"})


def zeros(checkpoint: Checkpoint, layout: Layout, out: Path, **how: Any) -> Path:
    """A pipeline whose merged tensors are all zero."""

    def produce(_tensor: int, _start: int, _stop: int, to: Any) -> None:
        to.raw[:] = 0

    return write_tensors(produce, checkpoint, layout, out, **how)


def test_whole_components_count_in_progress_and_an_interrupt_leaves_nothing(
    own: tuple[Path, Path], tmp_path: Path
) -> None:
    seen: list[float] = []
    merge(*own, tmp_path / "out", ratio=0.5, advance=seen.append)
    assert seen == sorted(seen) and seen[-1] == 1.0
    share = sum(map(len, contents(tmp_path / "out", "unet").values()))
    share /= sum(map(len, contents(tmp_path / "out").values()))
    assert sum(fraction > 1.001 - share for fraction in seen) > 8

    def interrupt(done: float) -> None:
        if done > 1 - share / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(*own, tmp_path / "no", ratio=0.5, advance=interrupt)
    assert not (tmp_path / "no").exists()


def test_too_little_space_for_a_whole_component_is_said_before(
    own: tuple[Path, Path], tmp_path: Path
) -> None:
    with (own[0] / "vae" / WEIGHTS).open("r+b") as file:
        file.truncate(2**43)
    checkpoint = open_pipeline(own[0])
    with pytest.raises(GenepoolError, match=r"out: needs 8796\.\d+ GB"):
        zeros(checkpoint, build_layout([checkpoint]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_component_that_is_cut_while_it_is_copied_leaves_nothing(
    own: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "BLOCK", 4096)
    weights = own[0] / "vae" / WEIGHTS
    inode, read = weights.stat().st_ino, os.pread

    def pread(handle: int, size: int, place: int) -> bytes:
        if place and os.fstat(handle).st_ino == inode:
            os.truncate(weights, 100)
        return read(handle, size, place)

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: the file was cut short"):
        merge(*own, tmp_path / "out", ratio=0.5)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="tells files by /proc")
def test_a_disk_that_is_full_half_way_through_a_component_leaves_nothing(
    own: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite

    def pwrite(handle: int, data: Any, place: int) -> int:
        if place and "/vae/" in str(Path(f"/proc/self/fd/{handle}").readlink()):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data, place)

    monkeypatch.setattr(stream, "BLOCK", 4096)
    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(GenepoolError, match="No space left on device; make room or choose another"):
        merge(*own, tmp_path / "out", ratio=0.5)
    assert not (tmp_path / "out").exists()
