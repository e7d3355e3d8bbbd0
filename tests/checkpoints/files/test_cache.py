"""What is made in the cache by two processes at once: threads stand for them here."""

from __future__ import annotations

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
from genepool.checkpoints.files.cache import cached_tensors
from genepool.checkpoints.files.safetensors import MappedFile


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

    def convert(_transformers: Any, _path: Path, _dtype: str, directory: Path) -> None:
        make("x")
        (directory / "config.json").write_text("{}")
        save_file({"x": np.zeros(2, np.float32)}, directory / "model.safetensors")

    def tensors() -> MappedFile:
        return cached_tensors(tmp_path / "cache/file.safetensors", [("x", "F32", (2,))], make)

    def unpacked() -> MappedFile:
        (file,) = gguf.open_gguf(tmp_path / "model.gguf").files
        return file

    monkeypatch.setattr(gguf, "_convert", convert)
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(64))
    opened: Callable[[], MappedFile] = tensors if kind == "tensors" else unpacked
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(opened), threads.submit(opened)]
        assert begun.acquire(timeout=60)
        time.sleep(0.2)
        go.set()
        files = [each.result() for each in both]
    # What the first has open is not replaced by the second.
    for file in files:
        file.look()
    assert made == ["x"]
    opened().look()
    assert made == ["x"]
