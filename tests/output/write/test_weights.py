"""New checkpoint directories: read back by the safetensors library, and written all or nothing."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from genepool.checkpoints.files.checkpoint import Checkpoint, open_checkpoint
from genepool.checkpoints.layout import Layout, build_layout
from genepool.core.genome import Recipe, Vector, express, recipe
from genepool.errors import CheckpointError, GenepoolError, InputError
from genepool.output.write import stream
from tests.build import TORCH, bits, network, opened, save, values, write_checkpoint

CODES = ["F32", "BF16", "F16"]


def family(directory: Path, codes: list[str] = CODES) -> tuple[list[Checkpoint], Layout, Recipe]:
    checkpoints = [opened(directory / f"seed{i}", network(i, c)) for i, c in enumerate(codes)]
    layout = build_layout(checkpoints)
    coefs = np.random.default_rng(0).normal(size=(2, len(codes)))
    return checkpoints, layout, recipe([0, 200, layout.axis.size], coefs)


def read_back(directory: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        loaded = load_file(path)
        assert not loaded.keys() & tensors.keys()
        tensors |= loaded
    return tensors


def check(
    directory: Path, layout: Layout, genome: Recipe, codes: list[str], dtype: str | None
) -> None:
    models = [network(i, code) for i, code in enumerate(codes)]
    dense = express(genome, [values(m, layout) for m in models])
    tensors = read_back(directory)
    assert tensors.keys() == models[0].keys()
    assert torch.equal(tensors["steps"], models[0]["steps"])
    for slot in layout.slots:
        expected = torch.from_numpy(dense[slot.start : slot.stop]).to(TORCH[dtype or codes[0]])
        assert tuple(tensors[slot.name].shape) == slot.shape
        assert tensors[slot.name].dtype == expected.dtype
        assert np.array_equal(bits(tensors[slot.name]), bits(expected))


@pytest.mark.slow
@pytest.mark.parametrize("codes", [CODES, CODES[::-1], CODES[1:] + CODES[:1]])
@pytest.mark.parametrize("dtype", [None, *TORCH])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_recipe_is_read_back_as_the_dense_computation(
    tmp_path: Path,
    codes: list[str],
    dtype: str | None,
    threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "BLOCK", 56)
    checkpoints, layout, genome = family(tmp_path, codes)
    out = write_checkpoint(
        genome, checkpoints, layout, tmp_path / "out", dtype=dtype, threads=threads
    )
    assert sorted(path.name for path in out.iterdir()) == ["model.safetensors"]
    check(out, layout, genome, codes, dtype)


def test_a_vector_is_written_too(tmp_path: Path) -> None:
    checkpoints, layout, _ = family(tmp_path)
    dense = np.random.default_rng(1).standard_normal(layout.axis.size).astype(np.float32)
    write_checkpoint(Vector(dense), checkpoints, layout, tmp_path / "out")
    assert np.array_equal(values(read_back(tmp_path / "out"), layout), dense)


def test_shards_are_named_and_indexed_as_hugging_face_does(tmp_path: Path) -> None:
    checkpoints, layout, genome = family(tmp_path)
    out = write_checkpoint(genome, checkpoints, layout, tmp_path / "out", shard_bytes=1000)
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        *(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)),
        "model.safetensors.index.json",
    ]
    check(out, layout, genome, CODES, None)
    index = json.loads((out / names[-1]).read_text())
    tensors = read_back(out)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    for name in tensors:
        with safe_open(out / index["weight_map"][name], framework="numpy") as file:
            assert name in file.keys()  # noqa: SIM118
            assert file.metadata() == {"format": "pt"}
    whole = write_checkpoint(genome, checkpoints, layout, tmp_path / "whole")
    assert open_checkpoint(out).digest() == open_checkpoint(whole).digest()


def test_tensors_are_in_depth_order_and_aligned(tmp_path: Path) -> None:
    tensors = {
        "layers.10.weight": torch.ones(3).half(),
        "layers.2.weight": torch.ones(3).half(),
        "layers.2.flag": torch.tensor([True, False, True]),
        "lm_head.weight": torch.ones(1),
        "norm.weight": torch.ones(1),
        "embed.weight": torch.ones(5).half(),
    }
    checkpoint = opened(tmp_path / "seed", tensors)
    layout = build_layout([checkpoint])
    genome = recipe([0, layout.axis.size], np.ones((1, 1)))
    written = open_checkpoint(write_checkpoint(genome, [checkpoint], layout, tmp_path / "out"))
    assert list(written.tensors) == [
        "norm.weight",
        "lm_head.weight",
        "embed.weight",
        "layers.2.weight",
        "layers.10.weight",
        "layers.2.flag",
    ]
    assert all(tensor.raw.flags.aligned for tensor in written.tensors.values())
    assert written.digest() == checkpoint.digest()


def test_equal_input_gives_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints, layout, genome = family(tmp_path)
    contents: list[bytes] = []
    for number, (threads, block, keys) in enumerate(
        [(1, 2**20, "ab"), (3, 24, "ba"), (2, 64, "ab")]
    ):
        monkeypatch.setattr(stream, "BLOCK", block)
        out = write_checkpoint(
            genome,
            checkpoints,
            layout,
            tmp_path / f"out{number}",
            metadata={key: f"value {key}" for key in keys} | {"format": "pt"},
            threads=threads,
        )
        contents.append((out / "model.safetensors").read_bytes())
    assert len(set(contents)) == 1
    assert int.from_bytes(contents[0][:8], "little") % 8 == 0
    with safe_open(tmp_path / "out0/model.safetensors", framework="numpy") as file:
        assert file.metadata() == {"a": "value a", "b": "value b", "format": "pt"}


def test_side_files_come_along(tmp_path: Path) -> None:
    checkpoints, layout, genome = family(tmp_path)
    seed = tmp_path / "seed0"
    (seed / "config.json").write_text('{"torch_dtype": "float32", "layers": 2}')
    (seed / "tokenizer.json").write_text('{"a": 1}')
    (seed / "chat_template.jinja").write_text("{{ x }}")
    (seed / "linked.txt").symlink_to("tokenizer.json")
    (seed / "README.md").write_text("about the seed")
    (seed / ".hidden").write_text("no")
    (seed / "pytorch_model.bin").write_text("no")
    (seed / "other.safetensors").write_text("no")
    # What these say is true of the seed alone; an adapter's would even be loaded.
    for name in ("adapter_config.json", "mergekit_config.yml", "trainer_state.json"):
        (seed / name).write_text("{}")
    (seed / "model.safetensors.index.fp16.json").write_text("{}")
    (seed / "runs").mkdir()
    os.mkfifo(seed / "pipe")
    plain = write_checkpoint(genome, checkpoints, layout, tmp_path / "plain")
    kept = [
        "chat_template.jinja",
        "config.json",
        "linked.txt",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert sorted(path.name for path in plain.iterdir()) == kept
    assert (plain / "config.json").read_text() == '{"torch_dtype": "float32", "layers": 2}'
    assert not (plain / "linked.txt").is_symlink()
    inner = {"quantization_config": {"bits": 4}, "layers": 2}
    (seed / "config.json").write_text(json.dumps({**inner, "text_config": inner}))
    whole = write_checkpoint(genome, checkpoints, layout, tmp_path / "whole")
    kept_of_config = json.loads((whole / "config.json").read_text())
    assert kept_of_config == {"layers": 2, "text_config": {"layers": 2}}
    (seed / "config.json").write_text('{"torch_dtype": "float32", "layers": 2}')
    other = write_checkpoint(
        genome,
        checkpoints,
        layout,
        tmp_path / "other",
        dtype="BF16",
        extra={"tokenizer.json": b"mine", "genepool.json": b"{}"},
    )
    assert json.loads((other / "config.json").read_text()) == {
        "torch_dtype": "bfloat16",
        "layers": 2,
    }
    assert (other / "tokenizer.json").read_bytes() == b"mine"
    assert (other / "genepool.json").read_bytes() == b"{}"


def test_a_side_file_that_links_out_of_the_seed_is_refused(tmp_path: Path) -> None:
    checkpoints, layout, genome = family(tmp_path)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "seed0" / "config.json").symlink_to("../secret")
    with pytest.raises(CheckpointError, match=r"config\.json: refused, because it links out"):
        write_checkpoint(genome, checkpoints, layout, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_modes_are_the_umask_s_and_nothing_else_is_left(tmp_path: Path) -> None:
    checkpoints, layout, genome = family(tmp_path)
    old = os.umask(0o027)
    try:
        out = write_checkpoint(genome, checkpoints, layout, tmp_path / "new" / "parents" / "out")
    finally:
        os.umask(old)
    assert stat.S_IMODE(out.stat().st_mode) == 0o750
    assert stat.S_IMODE((out / "model.safetensors").stat().st_mode) == 0o640
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_progress_ends_at_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BLOCK", 56)
    checkpoints, layout, genome = family(tmp_path)
    seen: list[float] = []
    write_checkpoint(
        genome, checkpoints, layout, tmp_path / "out", shard_bytes=900, progress=seen.append
    )
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(seen) > 5


def test_an_empty_directory_is_filled_and_another_is_refused(tmp_path: Path) -> None:
    checkpoints, layout, genome = family(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    write_checkpoint(genome, checkpoints, layout, out)
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="out: already exists and is not an empty directory"):
        write_checkpoint(genome, checkpoints, layout, out)
    assert (out / "model.safetensors").read_bytes() == before
    with pytest.raises(InputError, match="already exists"):
        write_checkpoint(genome, checkpoints, layout, out / "model.safetensors")
    with pytest.raises(GenepoolError, match="cannot be used"):
        write_checkpoint(genome, checkpoints, layout, out / "model.safetensors" / "deeper")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    write_checkpoint(genome, checkpoints, layout, link)
    assert (tmp_path / "elsewhere" / "model.safetensors").read_bytes() == before


def test_a_mount_point_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints, layout, genome = family(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == out)
    monkeypatch.setattr(stream, "write_file", None)
    with pytest.raises(InputError, match=r"out: is a mount point .*; name one inside it"):
        write_checkpoint(genome, checkpoints, layout, out)
    monkeypatch.undo()
    write_checkpoint(genome, checkpoints, layout, out / "inside")


def test_unusable_arguments_are_refused(tmp_path: Path) -> None:
    checkpoints, layout, genome = family(tmp_path)
    out = tmp_path / "out"
    with pytest.raises(InputError, match="dtype: expected one of F64, F32, F16, BF16; got 'I8'"):
        write_checkpoint(genome, checkpoints, layout, out, dtype="I8")
    with pytest.raises(InputError, match="shard_bytes: expected at least 1; got 0"):
        write_checkpoint(genome, checkpoints, layout, out, shard_bytes=0)
    with pytest.raises(InputError, match="recipe over 1 seeds; 3 were given"):
        write_checkpoint(recipe([0, layout.axis.size], np.ones((1, 1))), checkpoints, layout, out)
    assert not out.exists()


def test_values_beyond_float16_are_an_error_and_leave_nothing(tmp_path: Path) -> None:
    checkpoints, layout, _ = family(tmp_path)
    genome = recipe([0, layout.axis.size], np.array([[1e6, 0, 0]]))
    with pytest.raises(GenepoolError, match=r"fc1\.weight' has values beyond .* float16"):
        write_checkpoint(genome, checkpoints, layout, tmp_path / "out", dtype="F16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed0", "seed1", "seed2"]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    checkpoints, layout, genome = family(tmp_path)

    def interrupt(_done: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(genome, checkpoints, layout, tmp_path / "out", progress=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed0", "seed1", "seed2"]


def test_too_little_space_is_said_before_anything_is_written(tmp_path: Path) -> None:
    # A sparse seed of 8 TiB: more than the disk has, at the cost of one block.
    size = 2**43
    header = json.dumps(
        {"a.weight": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    ).encode()
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    checkpoint = open_checkpoint(path)
    layout = build_layout([checkpoint])
    genome = recipe([0, layout.axis.size], np.ones((1, 1)))
    with pytest.raises(GenepoolError, match=r"out: needs 8796\.09 GB, and .* GB are free"):
        write_checkpoint(genome, [checkpoint], layout, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["huge.safetensors"]


@pytest.mark.slow
def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    # The limit on file size makes the system refuse to write on, as a full disk does.
    save(tmp_path / "seed", {"a.weight": torch.ones(2_000_000)})
    code = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        import numpy as np
        from genepool.core.genome import recipe
        from genepool.errors import GenepoolError
        from genepool.materialise import kernels
        from genepool.checkpoints.files.checkpoint import open_checkpoint
        from genepool.checkpoints.layout import build_layout
        from genepool.output.write.weights import genome_tensors, write_tensors

        directory = Path(sys.argv[1])
        checkpoint = open_checkpoint(directory / "seed")
        layout = build_layout([checkpoint])
        genome = recipe([0, layout.axis.size], np.full((1, 1), 2.0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))
        try:
            produce = genome_tensors(genome, [checkpoint], layout)
            write_tensors(produce, checkpoint, layout, directory / "out", threads=2)
        except GenepoolError as error:
            print(error)
        """
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == ""
    assert "out: cannot be written: File too large; make room" in done.stdout
    assert [entry.name for entry in tmp_path.iterdir()] == ["seed"]
