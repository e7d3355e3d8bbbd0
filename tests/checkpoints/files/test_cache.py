"""What is made in the cache by two processes at once (threads stand for them here), or by others
than before."""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from genepool.checkpoints.files import gguf
from genepool.checkpoints.files.atomic import new_directory, put_directory, remove_leftovers
from genepool.checkpoints.files.cache import cached_tensors
from genepool.checkpoints.files.safetensors import MappedFile
from genepool.errors import GenepoolError


def convert(_transformers: Any, _path: Path, _dtype: str, directory: Path) -> None:
    (directory / "config.json").write_text("{}")
    save_file({"x": np.zeros(2, np.float32)}, directory / "model.safetensors")


@pytest.mark.parametrize("kind", ["tensors", "gguf"])
def test_what_two_make_at_once_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "cache"))
    begun, go = threading.Semaphore(0), threading.Event()
    made: list[str] = []

    def make(name: str) -> bytes:
        made.append(name)
        begun.release()
        assert go.wait(60)
        return bytes(8)

    def slowly(*given: Any) -> None:
        make("x")
        convert(*given)

    def tensors() -> MappedFile:
        return cached_tensors(tmp_path / "cache/file.safetensors", [("x", "F32", (2,))], make)

    def unpacked() -> MappedFile:
        (file,) = gguf.open_gguf(tmp_path / "model.gguf").files
        return file

    monkeypatch.setattr(gguf, "_convert", slowly)
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(64))
    opened: Callable[[], MappedFile] = tensors if kind == "tensors" else unpacked
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(opened), threads.submit(opened)]
        assert begun.acquire(timeout=240)
        time.sleep(0.2)
        go.set()
        files = [each.result() for each in both]
    # What the first has open is not replaced by the second.
    for file in files:
        file.look()
    assert made == ["x"]
    opened().look()
    assert made == ["x"]


def test_another_release_unpacks_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gguf, "_convert", convert)
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(64))
    (first,), (again,) = (gguf.open_gguf(tmp_path / "model.gguf").files for _ in range(2))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"{name} 99")
    (other,) = gguf.open_gguf(tmp_path / "model.gguf").files
    assert first.path == again.path != other.path


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_cache_where_nothing_can_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """As on some file systems of clusters; a broken disk is another thing."""

    def refuse(*_: Any) -> None:
        raise OSError(number, "no lock")

    def opened(name: str) -> MappedFile:
        return cached_tensors(tmp_path / name, [("x", "F32", (2,))], lambda _: bytes(8))

    monkeypatch.setattr(fcntl, "flock", refuse)
    if number == errno.EIO:
        with pytest.raises(GenepoolError, match="cannot be written"):
            opened("one")
        return
    left = tmp_path / ".one.0123456789ab.tmp"
    left.touch()
    opened("one").look()
    opened("two").look()
    assert [
        record.getMessage() for record in caplog.records if "locked" in record.getMessage()
    ] == [
        f"{tmp_path}: files cannot be locked there; begin runs that need the same files one after "
        "another, or set GENEPOOL_CACHE to a folder on another file system"
    ]
    assert left.exists()


def test_what_others_have_left_that_were_killed_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "out"
    dead, old = tmp_path / ".out.0123456789ab.tmp", tmp_path / ".out.0123456789ab.old"
    others = [tmp_path / name for name in (".out.x.0123456789ab.tmp", ".out.tmp", "out.tmp")]
    for place in (dead, old, *others):
        place.mkdir()
        (place / "weights").touch()
    with new_directory(target) as alive, new_directory(target) as also_alive:
        assert alive.exists() and also_alive.exists()
        # What had the name before is all that there is.
        assert old.exists() and not dead.exists()
        (also_alive / "new").touch()
        put_directory(also_alive, target)
    dead.touch()
    remove_leftovers(target)
    assert sorted(tmp_path.iterdir()) == sorted([target, *others])
    assert (target / "new").exists()


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    text = (
        "import os, pathlib, sys; from genepool.checkpoints.files.atomic import new_directory\n"
        "with new_directory(pathlib.Path(sys.argv[1])) as made: print(made), os.kill(0, 9)"
    )
    command = [sys.executable, "-u", "-c", text, str(tmp_path / "out")]
    for _ in range(2):
        killed = subprocess.run(
            command, stdout=subprocess.PIPE, start_new_session=True, check=False
        )
        assert [str(file) for file in tmp_path.iterdir()] == [killed.stdout.decode().strip()]
