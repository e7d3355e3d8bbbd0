"""Digests remembered by files: right after every change, and read only where something is new."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from genepool.checkpoints.files import digests as module
from genepool.checkpoints.files.checkpoint import Checkpoint, open_checkpoint
from genepool.checkpoints.files.digests import (
    FILE,
    copies,
    file_digest,
    recall_digests,
    remember_digests,
)
from genepool.errors import CheckpointError


def made(path: Path, value: float) -> Path:
    save_file({"w": np.full(5, value, np.float32)}, path)
    return path


def poisoned(cache: Path, *others: Path) -> None:
    """Put a digest into the cache that shows when it is used; `others` are none of its files."""
    (file,) = {cache / "genepool-digests.json", cache / FILE} & {*cache.iterdir()} - set(others)
    text = file.read_text()
    (digest,) = {part for part in text.split('"') if len(part) == 64}
    file.write_text(text.replace(digest, "f" * 64))


def digest_of(path: Path, cache: Path, rename: dict[str, str] | None = None) -> str:
    (digest,) = remember_digests([open_checkpoint(path)], [rename or {}], cache)
    return digest


def test_the_second_time_nothing_is_read(tmp_path: Path) -> None:
    path = made(tmp_path / "a.safetensors", 1)
    assert digest_of(path, tmp_path) == open_checkpoint(path).digest()
    poisoned(tmp_path)
    assert digest_of(path, tmp_path) == "f" * 64
    recalled = open_checkpoint(path)
    recall_digests([recalled], [{}], tmp_path)
    assert recalled.digest() == "f" * 64


def test_a_changed_file_is_read_even_with_the_size_and_date_of_before(tmp_path: Path) -> None:
    path = made(tmp_path / "a.safetensors", 1)
    digest_of(path, tmp_path)
    poisoned(tmp_path)
    before = path.stat()
    made(tmp_path / "b.safetensors", 2)
    shutil.copyfile(tmp_path / "b.safetensors", path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert digest_of(path, tmp_path) == open_checkpoint(path).digest() != "f" * 64


def test_another_file_of_the_same_size_and_dates_is_read(tmp_path: Path) -> None:
    """As in images of containers, where all files have one date."""
    path = made(tmp_path / "a.safetensors", 1)
    digest_of(path, tmp_path)
    poisoned(tmp_path)
    stamp = open_checkpoint(path).files[0].stamp
    other = open_checkpoint(made(path, 2))
    dated = replace(other, files=(replace(other.files[0], stamp=stamp),))
    recall_digests([dated], [{}], tmp_path)
    assert dated.digest() == open_checkpoint(path).digest() != "f" * 64


def test_another_rename_is_another_digest(tmp_path: Path) -> None:
    path = made(tmp_path / "a.safetensors", 1)
    digest_of(path, tmp_path)
    poisoned(tmp_path)
    assert digest_of(path, tmp_path, {"w": "v"}) != "f" * 64


@pytest.mark.parametrize("content", ["", "no JSON", "[1]", '{"a": 1}', "[" * 100_000])
def test_a_damaged_cache_is_done_without(tmp_path: Path, content: str) -> None:
    path = made(tmp_path / "a.safetensors", 1)
    (tmp_path / FILE).write_text(content)
    assert digest_of(path, tmp_path) == open_checkpoint(path).digest()
    # It could be somebody's own.
    assert (tmp_path / FILE).read_text() == content
    poisoned(tmp_path, tmp_path / FILE)
    assert digest_of(path, tmp_path) == "f" * 64
    (tmp_path / "genepool-digests.json").write_text(content)
    assert digest_of(path, tmp_path) == open_checkpoint(path).digest()
    poisoned(tmp_path, tmp_path / FILE)
    assert digest_of(path, tmp_path) == "f" * 64


def test_recalling_writes_nothing(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(made(tmp_path / "a.safetensors", 1))
    recall_digests([checkpoint], [{}], tmp_path)
    assert not (tmp_path / FILE).exists()
    assert len(checkpoint.digest()) == 64


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    checkpoint: Checkpoint = open_checkpoint(made(tmp_path / "a.safetensors", 1))
    (tmp_path / "a.safetensors").unlink()
    with pytest.raises(CheckpointError, match="file was deleted or moved while in use"):
        remember_digests([checkpoint], [{}], tmp_path)


def test_copies_are_told() -> None:
    assert copies(["a", "b", "c"], ["1", "2", "3"]) == ()
    (first, second) = copies(["a", "b", "c", "d"], ["1", "2", "1", "1"])
    assert first.startswith("seed 'c' holds the very tensors of 'a'")
    assert second.startswith("seed 'd' holds the very tensors of 'a'")


def test_large_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGE", 100)
    cache = tmp_path / "cache"
    monkeypatch.setenv("GENEPOOL_CACHE", str(cache))
    path, small = tmp_path / "whole.safetensors", tmp_path / "config.json"
    small.write_bytes(b"{}")
    path.write_bytes(bytes(range(256)))
    assert file_digest(small) == hashlib.sha256(b"{}").hexdigest()
    assert not (cache / FILE).exists()
    for content in (bytes(range(256)), bytes(range(255, -1, -1))):
        # Of equal size, and with the date of before.
        before = path.stat().st_mtime_ns
        path.write_bytes(content)
        os.utime(path, ns=(before, before))
        assert file_digest(path) == hashlib.sha256(content).hexdigest()
        poisoned(cache)
        assert file_digest(path) == "f" * 64
        (cache / FILE).unlink()
    (cache / FILE).mkdir()
    assert file_digest(path) == hashlib.sha256(content).hexdigest()
    monkeypatch.setenv("GENEPOOL_CACHE", str(small))
    assert file_digest(path) == hashlib.sha256(content).hexdigest()


def test_a_file_that_is_written_to_while_it_is_read_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LARGE", 100)
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "whole.safetensors"
    path.write_bytes(bytes(200))
    real, looks = os.fstat, list[int]()

    def fstat(number: int) -> os.stat_result:
        looks.append(number)
        if len(looks) == 2:
            with path.open("ab") as file:
                file.write(b"more")
        return real(number)

    monkeypatch.setattr(module.os, "fstat", fstat)
    file_digest(path)
    assert len(looks) >= 2 and not (tmp_path / "cache" / FILE).exists()
