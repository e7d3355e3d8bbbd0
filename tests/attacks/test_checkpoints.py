"""Hostile and damaged checkpoints: each ends in one clear line that names the file."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.checkpoints.layout import build_layout
from genepool.errors import CheckpointError
from genepool.materialise.gram import load_or_build_gram

GOOD = {
    "a.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b.weight": {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]},
}


def raw(header: bytes, data: bytes = bytes(24), length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def made(header: dict[str, Any], data: bytes = bytes(24)) -> bytes:
    return raw(json.dumps(header).encode(), data)


def changed(name: str, **entry: Any) -> bytes:
    return made({**GOOD, name: {**GOOD[name], **entry}})


def torch_saved(legacy: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(2)}, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", b"x")
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return buffer.getvalue()


GOOD_BYTES = made(GOOD)
TWICE = b'{"a":{"dtype":"F32","shape":[6],"data_offsets":[0,24]},'

FILES: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "the file is empty"),
    "seven bytes": (b"1234567", "not a valid safetensors file"),
    "cut in the header": (GOOD_BYTES[:40], "not a valid safetensors file"),
    "cut in the data": (GOOD_BYTES[:-1], "not a valid safetensors file.*not fully covered"),
    "bytes at the end": (GOOD_BYTES + b"x", "not fully covered"),
    "length beyond the file": (raw(b"{}", length=500), "invalid header length"),
    "length of zero": (raw(b"{}", length=0), "not a valid safetensors file"),
    "length of 2**63": (raw(b"{}", length=2**63), "header too large"),
    "length of 2**64 - 1": (raw(b"{}", length=2**64 - 1), "header too large"),
    "not JSON": (raw(b"{hello"), "invalid JSON"),
    "a JSON list": (raw(b"[1, 2]"), "invalid JSON"),
    "JSON without end": (raw(b'{"a":' * 5000), "recursion limit"),
    "not UTF-8": (raw(b"{\xff\xfe}"), "invalid UTF-8"),
    "no tensors": (raw(b"{}", b""), "holds no tensors"),
    "a tensor without a name": (made({"": GOOD["a.weight"]}, bytes(16)), "without a name"),
    "metadata of numbers": (made({"__metadata__": {"a": 1}}, b""), "expected a string"),
    "overlap": (changed("b.weight", data_offsets=[8, 16]), "invalid offset"),
    "gap": (changed("b.weight", data_offsets=[20, 28]), "invalid offset"),
    "end before begin": (changed("b.weight", data_offsets=[24, 16]), "invalid offset"),
    "offset beyond 2**64": (changed("b.weight", data_offsets=[16, 2**64]), "invalid JSON"),
    "offset beyond the file": (changed("b.weight", data_offsets=[16, 2**62]), "invalid"),
    "negative offset": (changed("a.weight", data_offsets=[-8, 8]), "expected usize"),
    "shape larger than its bytes": (changed("b.weight", shape=[5]), "invalid shape"),
    "shape smaller than its bytes": (changed("b.weight", shape=[3]), "invalid shape"),
    "shape that overflows": (changed("b.weight", shape=[2**33, 2**33]), "overflow"),
    "negative shape": (changed("b.weight", shape=[-4]), "expected usize"),
    "fractional shape": (changed("b.weight", shape=[4.5]), "expected usize"),
    "shape of text": (changed("b.weight", shape="4"), "invalid JSON"),
    "no shape": (made({"a": {"dtype": "F32", "data_offsets": [0, 24]}}), "missing field"),
    "unknown dtype": (changed("b.weight", dtype="Q4_K"), "unknown variant"),
    "dtype of another size": (changed("b.weight", dtype="F64"), "invalid shape"),
    "float8": (
        changed("b.weight", dtype="F8_E4M3", shape=[8]),
        "'b.weight' has dtype F8_E4M3, which genepool does not read.*convert the model to BF16",
    ),
    "complex": (changed("b.weight", dtype="C64", shape=[1]), "has dtype C64"),
    "a name twice": (
        raw(TWICE + TWICE[1:-1] + b"}"),
        r"damaged safetensors header: the name 'a' occurs twice",
    ),
    "metadata twice": (
        raw(b'{"__metadata__":{"k":"1","k":"2"},' + TWICE[1:-1] + b"}"),
        "the name 'k' occurs twice",
    ),
    "line breaks in a name": (
        made({"a\nb\x1b[31m": {"dtype": "F8_E5M2", "shape": [24], "data_offsets": [0, 24]}}),
        r"tensor 'a\\nb\\x1b\[31m' has dtype F8_E5M2",
    ),
    "a name of a megabyte": (
        made({"x" * 10**6: {"dtype": "F8_E5M2", "shape": [24], "data_offsets": [0, 24]}}),
        r"tensor 'x+\.\.\. \(cut\)' has dtype",
    ),
    "pickle, protocol 4": (pickle.dumps({"a": 1}, protocol=4), "a pickle, which can run code"),
    "pickle, protocol 0": (pickle.dumps(os.system, protocol=0), "a pickle, which can run code"),
    "torch.save, old": (torch_saved(legacy=True), "a pickle, which can run code"),
    "torch.save": (torch_saved(legacy=False), "a zip archive, as torch.save writes it"),
    "zip": (zipped(), "a zip archive"),
    "tar": (tarred(), "a tar archive"),
    "numpy": (b"\x93NUMPY\x01\x00", "not a valid safetensors file"),
    "GGUF": (b"GGUF\x03\x00\x00\x00" + bytes(64), "a GGUF file"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file"),
    "Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "a Git LFS pointer, not the weights; run: git lfs pull",
    ),
    "web page": (b"<!DOCTYPE html><html></html>", "a web page"),
}


def refuse(path: Path, message: str, names: str | None = None) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text.isprintable()
    assert len(text) < 1500
    assert str(names or path) in text


def test_the_cases_start_from_a_file_that_opens(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    path.write_bytes(GOOD_BYTES)
    assert set(open_checkpoint(path).tensors) == set(GOOD)


@pytest.mark.parametrize("case", FILES)
def test_hostile_files_are_refused(tmp_path: Path, case: str) -> None:
    data, message = FILES[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    refuse(path, message)
    refuse(tmp_path, message, names="model.safetensors")


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return Path.touch, (tmp_path / "executed",)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / "model.safetensors"
        path.write_bytes(pickle.dumps(Trap(), protocol=protocol))
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            open_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_a_header_over_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 100_000_001) + b"{")
        file.truncate(200_000_000)
    refuse(path, "header too large")


def test_paths_that_are_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "dangling.safetensors").symlink_to("nowhere")
    (tmp_path / "loop.safetensors").symlink_to("loop.safetensors")
    (tmp_path / "loops").mkdir()
    (tmp_path / "loops" / "model.safetensors").symlink_to("model.safetensors")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors").mkdir()
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "line\nbreak").mkdir()
    refuse(tmp_path / "missing", "no such file or directory")
    refuse(tmp_path / "foldr", r"no such file or directory \('folder' is there\)")
    refuse(tmp_path / "none", "the directory holds no safetensors file; expected model.safetensors")
    refuse(tmp_path / "dangling.safetensors", "a symbolic link to nothing")
    refuse(tmp_path / "loop.safetensors", "link to nothing|cannot be read")
    refuse(tmp_path / "loops", "cannot be read|link to nothing")
    refuse(tmp_path / "folder", "expected a regular file")
    refuse(tmp_path / "pipe.safetensors", "expected a regular file")
    refuse(Path("/dev/null"), "expected a regular file")
    refuse(Path("nul\0byte"), "no such file|cannot be read", names="nul\\x00byte")
    refuse(tmp_path / "line\nbreak", r"line\\nbreak: the directory holds no", names="line\\nbreak")
    (tmp_path / "file.txt").write_text("x")
    refuse(tmp_path / "file.txt" / "deeper", "no such file|cannot be read")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "x.ckpt", "x.pkl"])
def test_a_directory_of_pickles_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(torch_saved(legacy=False))
    refuse(tmp_path, f"'{name}' may hold a pickle, which genepool does not load")
    refuse(tmp_path / name, "a zip archive, as torch.save writes it")


def test_several_files_without_an_index_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        save_file({name: torch.ones(2)}, tmp_path / f"{name}.safetensors")
    refuse(tmp_path, r"holds 4 safetensors files \('a.safetensors', .* and 1 more\)")


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    # Root may read everything, so the attempt is made by a child that has given up its rights.
    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD_BYTES)
    path.chmod(0)
    code = textwrap.dedent(
        """
        import os, sys
        from pathlib import Path
        from genepool.errors import CheckpointError
        from genepool.checkpoints.files.checkpoint import open_checkpoint

        os.chdir(sys.argv[1])
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        try:
            open_checkpoint(Path("model.safetensors"))
        except CheckpointError as error:
            print(error)
        """
    )
    tmp_path.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert done.stdout.startswith("model.safetensors: cannot be read: "), done
    assert "Permission denied" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_a_shard_with_more_than_the_index_places_in_it_is_refused(tmp_path: Path) -> None:
    sharded(tmp_path)
    save_file({"b": torch.ones(3), "x": torch.ones(1)}, tmp_path / "model-2.safetensors")
    refuse(tmp_path, r"model-2\.safetensors: holds 'x', which model\.safetensors\.index\.json does")
    # The same tensor twice over, in both shards.
    save_file({"b": torch.ones(3), "a": torch.ones(2)}, tmp_path / "model-2.safetensors")
    refuse(tmp_path, r"model-2\.safetensors: holds 'a', which")


def sharded(directory: Path, **changes: Any) -> Path:
    """Two good shards and an index; `changes` replace entries of its weight_map."""
    save_file({"a": torch.ones(2)}, directory / "model-1.safetensors")
    save_file({"b": torch.ones(3)}, directory / "model-2.safetensors")
    entries: dict[str, Any] = {"a": "model-1.safetensors", "b": "model-2.safetensors", **changes}
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": entries}))
    return index


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "..",
        "",
        ".hidden.safetensors",
        "back\\slash.safetensors",
        "nul\0byte.safetensors",
        "model.bin",
        7,
        ["model-1.safetensors"],
    ],
)
def test_an_index_that_names_no_plain_file_is_refused(tmp_path: Path, name: Any) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "outside.safetensors")
    index = sharded(directory, a=name)
    refuse(directory, "expected the plain name of a .safetensors file", names=str(index))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": "model-9.safetensors"}, "names the shard 'model-9.safetensors', which is missing"),
        ({"c": "model-2.safetensors"}, r"model-2\.safetensors: lacks 'c', which the index names"),
        ({"a": "model-2.safetensors"}, r"model-2\.safetensors: lacks 'a'"),
    ],
)
def test_an_index_that_contradicts_its_shards_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    sharded(tmp_path, **changes)
    refuse(tmp_path, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "expected a JSON object; got list"),
        ("{}", "expected an object 'weight_map'"),
        ('{"weight_map": []}', "expected an object 'weight_map'"),
        ('{"weight_map": {}}', "expected an object 'weight_map'"),
        ('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "name 'a' occurs twice"),
        ('{"weight_map": {"a": ' + "9" * 5000 + "}}", "JSON|expected the plain name"),
        ('{"weight_map": {"\\ud800": "model-1.safetensors"}}', "not text"),
        ("\udcff", "cannot be read as JSON"),
    ],
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    index = sharded(tmp_path)
    index.write_bytes(text.encode(errors="surrogateescape"))
    refuse(tmp_path, message)


def test_links_out_of_the_directory_are_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    save_file({"a": torch.ones(2)}, outside)
    directory = tmp_path / "snapshots" / "model"
    directory.mkdir(parents=True)
    link = directory / "model.safetensors"
    message = "refused, because it links out of its directory"
    for target in (outside, Path("../../outside.safetensors"), Path("/etc/passwd")):
        link.symlink_to(target)
        refuse(directory, message)
        link.unlink()
    # A neighbour whose name begins with the directory's, and a folder below `blobs`.
    for place in (tmp_path / "snapshots" / "model-2", tmp_path / "blobs" / "deeper"):
        place.mkdir(parents=True)
        save_file({"a": torch.ones(2)}, place / "x.safetensors")
        link.symlink_to(place / "x.safetensors")
        refuse(directory, message)
        link.unlink()
    # A shard that links out, and an index that does.
    index = sharded(directory)
    (directory / "model-1.safetensors").unlink()
    (directory / "model-1.safetensors").symlink_to(outside)
    refuse(directory, message)
    index.rename(tmp_path / "index.json")
    index.symlink_to(tmp_path / "index.json")
    refuse(directory, message)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    weights = torch.ones(3000)
    weights[2999] = value
    save_file({"a": torch.ones(5), "z": weights}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"tensor 'z' holds (NaN|infinity)") as caught:
        load_or_build_gram([checkpoint], build_layout([checkpoint]))
    assert str(tmp_path) in str(caught.value)
    assert np.isfinite(checkpoint.tensors["a"].raw).all()


def test_an_address_space_that_is_too_small(tmp_path: Path) -> None:
    """Files are mapped: `ulimit -v` counts them, though they take no memory."""
    size = 4 * 2**30
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    file = tmp_path / "large.safetensors"
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(header)) + header)
        out.truncate(8 + len(header) + size)  # a hole, which takes no disk
    script = (
        "import resource, sys; from pathlib import Path; "
        "from genepool.checkpoints.files.checkpoint import open_checkpoint; "
        "resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30)); "
        "open_checkpoint(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", script, file], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert "CheckpointError" in last
    assert "large.safetensors" in last and "`ulimit -v`" in last
