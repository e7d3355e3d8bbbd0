"""Opening checkpoints: what is found, what a tensor is, and what a digest depends on."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.errors import CheckpointError
from tests.build import network, opened, save, save_shards


def test_every_dtype_is_mapped_read_only(tmp_path: Path) -> None:
    tensors = {
        "a.f64": torch.randn(2, 3, dtype=torch.float64),
        "b.f32": torch.randn(3),
        "c.f16": torch.randn(4).half(),
        "d.bf16": torch.randn(2, 2).bfloat16(),
        "e.i64": torch.arange(3),
        "f.i32": torch.arange(3, dtype=torch.int32),
        "g.i16": torch.arange(3, dtype=torch.int16),
        "h.i8": torch.arange(-3, 0, dtype=torch.int8),
        "i.u8": torch.arange(3, dtype=torch.uint8),
        "j.bool": torch.tensor([True, False]),
        "k.scalar": torch.tensor(2.5),
        "l.empty": torch.zeros(0, 4),
    }
    checkpoint = opened(tmp_path / "seed", tensors)
    assert set(checkpoint.tensors) == set(tensors)
    assert checkpoint.name == "seed"
    for name, tensor in tensors.items():
        stored = checkpoint.tensors[name]
        assert stored.shape == tuple(tensor.shape)
        assert stored.raw.ndim == 1
        assert not stored.raw.flags.writeable
        assert stored.raw.tobytes() == tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    codes = [checkpoint.tensors[name].dtype for name in sorted(tensors)]
    floats, whole = ["F64", "F32", "F16", "BF16"], ["I64", "I32", "I16", "I8", "U8", "BOOL"]
    assert codes == [*floats, *whole, "F32", "F32"]


def test_tensors_are_views_of_one_mapping(tmp_path: Path) -> None:
    path = save(tmp_path, network(0)) / "model.safetensors"
    checkpoint = open_checkpoint(path)
    before = float(checkpoint.tensors["fc1.bias"].raw[0])
    where = path.read_bytes().index(np.float32(before).tobytes())
    with path.open("r+b") as file:
        file.seek(where)
        file.write(struct.pack("<f", 12.5))
    assert float(checkpoint.tensors["fc1.bias"].raw[0]) == 12.5


def test_an_address_need_not_be_aligned(tmp_path: Path) -> None:
    header = json.dumps(
        {
            "flag": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]},
            "x": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
        }
    ).encode()
    data = b"\1\0\1" + struct.pack("<ff", 1.5, -2.5)
    path = tmp_path / "odd.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    checkpoint = open_checkpoint(path)
    assert checkpoint.name == "odd"
    assert checkpoint.tensors["x"].raw.tolist() == [1.5, -2.5]
    assert len(checkpoint.digest()) == 64


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["model.safetensors", "other.safetensors"], "model.safetensors"),
        (["only.safetensors"], "only.safetensors"),
        (["only.safetensors", "config.json", "optimizer.bin"], "only.safetensors"),
    ],
)
def test_a_directory_is_searched(tmp_path: Path, files: list[str], expected: str) -> None:
    for name in files:
        if name.endswith(".safetensors"):
            save_file({"x": torch.full((2,), float(name == expected))}, tmp_path / name)
        else:
            (tmp_path / name).write_text("{}")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.tensors["x"].raw.tolist() == [1.0, 1.0]
    assert [file.path.name for file in checkpoint.files] == [expected]


def test_shards_make_one_checkpoint(tmp_path: Path) -> None:
    tensors = network(1)
    names = list(tensors)
    whole = opened(tmp_path / "whole", tensors)
    parts = [{n: tensors[n] for n in names[:2]}, {n: tensors[n] for n in names[2:]}]
    sharded = open_checkpoint(save_shards(tmp_path / "parts", parts))
    assert set(sharded.tensors) == set(tensors)
    assert len(sharded.files) == 2
    assert sharded.metadata == {"shard": "1", "all": "a"}
    assert sharded.digest() == whole.digest()


def test_an_index_of_another_name_serves_too(tmp_path: Path) -> None:
    save_shards(tmp_path, [{"a": torch.ones(2)}, {"b": torch.ones(3)}])
    index = tmp_path / "model.safetensors.index.json"
    index.rename(tmp_path / "diffusion_pytorch_model.safetensors.index.json")
    assert set(open_checkpoint(tmp_path).tensors) == {"a", "b"}


def test_a_hugging_face_cache_snapshot_opens(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--Some-Model"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / "abc123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    shards = save_shards(tmp_path / "made", [{"a": torch.ones(2)}, {"b": torch.ones(3)}])
    for number, path in enumerate(sorted(shards.iterdir())):
        path.rename(blobs / f"blob{number}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"blob{number}")
    checkpoint = open_checkpoint(snapshot)
    assert set(checkpoint.tensors) == {"a", "b"}
    assert checkpoint.name == "Some-Model"
    (tmp_path / "link").symlink_to(snapshot)
    assert open_checkpoint(tmp_path / "link").digest() == checkpoint.digest()


def test_links_inside_the_directory_and_links_that_the_user_names_are_followed(
    tmp_path: Path,
) -> None:
    save(tmp_path / "real", network(0))
    (tmp_path / "real/model.safetensors").rename(tmp_path / "real/weights.bin")
    (tmp_path / "real/model.safetensors").symlink_to("weights.bin")
    inside = open_checkpoint(tmp_path / "real")
    (tmp_path / "named.safetensors").symlink_to("real/weights.bin")
    assert open_checkpoint(tmp_path / "named.safetensors").digest() == inside.digest()


def test_digest_is_of_the_tensors_alone(tmp_path: Path) -> None:
    tensors = network(2)
    plain = opened(tmp_path / "plain", tensors)
    # Another file order: the library sorts by name, so write one by hand.
    header: dict[str, object] = {"__metadata__": {"some": "thing"}}
    data, position = b"", 0
    for name in sorted(plain.tensors, reverse=True):
        tensor = plain.tensors[name]
        end = position + tensor.raw.nbytes
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        data, position = data + tensor.raw.tobytes(), end
    text = json.dumps(header).encode()
    path = tmp_path / "reversed.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    other = open_checkpoint(path)
    assert list(other.tensors) != list(plain.tensors)
    assert other.digest() == plain.digest() == open_checkpoint(path).digest(threads=3)


def test_digest_changes_with_value_name_shape_and_dtype(tmp_path: Path) -> None:
    base = {"x": torch.arange(6, dtype=torch.float32), "y": torch.ones(2)}
    variants = [
        base,
        {**base, "x": torch.tensor([0.0, 1, 2, 3, 4, 5.5])},
        {"z": base["x"], "y": base["y"]},
        {**base, "x": base["x"].reshape(2, 3)},
        {**base, "x": base["x"].view(torch.int32)},
        {"x": base["y"], "y": base["x"]},
    ]
    digests = {opened(tmp_path / str(i), tensors).digest() for i, tensors in enumerate(variants)}
    assert len(digests) == len(variants)


def test_digest_of_large_tensors_does_not_depend_on_threads(tmp_path: Path) -> None:
    tensors = {"x": torch.arange(9_000_000, dtype=torch.float32), "y": torch.ones(3)}
    path = save(tmp_path, tensors)
    one = open_checkpoint(path).digest(threads=1)
    assert one == open_checkpoint(path).digest(threads=3)


def test_a_file_that_is_cut_short_later_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    path = save(tmp_path, network(0))
    checkpoint = open_checkpoint(path)
    checkpoint.check()
    os.truncate(path / "model.safetensors", 100)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: the file was cut to 100 bytes"):
        checkpoint.check()
    with pytest.raises(CheckpointError, match="cut to 100 bytes"):
        checkpoint.digest()


def test_a_file_that_is_deleted_or_replaced_later_stays_readable(tmp_path: Path) -> None:
    path = save(tmp_path, network(0))
    checkpoint = open_checkpoint(path)
    expected = open_checkpoint(path).digest()
    (path / "model.safetensors").unlink()
    assert checkpoint.digest() == expected


def test_parts_of_two_saves_and_parts_that_lack_are_told(tmp_path: Path) -> None:
    shards = [{"a": torch.ones(2)}, {"b": torch.ones(2)}, {"c": torch.ones(2)}]
    place = save_shards(tmp_path / "m", shards)
    assert open_checkpoint(place).notices == ()
    # An index that names all parts is whole, whatever else lies there.
    save_file({"z": torch.ones(2)}, place / "model-00001-of-00009.safetensors")
    assert open_checkpoint(place).notices == ()
    index = json.loads((place / "model.safetensors.index.json").read_text())
    del index["weight_map"]["b"]
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    (line,) = open_checkpoint(place).notices
    assert "names 2 of 3 parts of the model" in line
    save(place, {"a": torch.zeros(2)})
    opened = open_checkpoint(place)
    assert [*opened.tensors] == ["a"]
    (line,) = opened.notices
    assert "left over from an older save?" in line


def test_a_file_that_is_taken_without_its_configuration_is_told(tmp_path: Path) -> None:
    file = save(tmp_path / "m", {"a": torch.ones(2)}) / "model.safetensors"
    assert open_checkpoint(file).notices == ()
    (file.parent / "config.json").write_text("{}")
    (line,) = open_checkpoint(file).notices
    assert line.startswith(f"{file}: is given as a file, so that config.json")
    assert open_checkpoint(file.parent).notices == ()
    part = file.rename(file.with_name("model-00001-of-00002.safetensors"))
    assert len(open_checkpoint(part).notices) == 2
