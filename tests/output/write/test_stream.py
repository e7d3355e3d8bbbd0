"""Files written block by block: the right bytes, past the page cache and through it."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.output.write import stream
from genepool.output.write.stream import Bytes, write_file
from genepool.threads import Crew

PAGE = 4096


def content(size: int) -> bytes:
    return np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()


def written(path: Path, size: int, threads: int) -> list[int]:
    data = content(size)
    sizes: list[int] = []

    def fill(begin: int, stop: int, block: Bytes) -> None:
        block[:] = np.frombuffer(data[begin:stop], dtype=np.uint8)

    write_file(path, size, fill, Crew(threads), sizes.append)
    assert path.read_bytes() == data
    return sizes


@settings(deadline=None, max_examples=40)
@given(
    size=st.one_of(st.integers(0, 5 * PAGE), st.sampled_from([PAGE, 2 * PAGE, 2 * PAGE + 1])),
    block=st.sampled_from([8, 64, 1000, PAGE, 2 * PAGE, 2**20]),
    blocks=st.sampled_from([1, 3]),
    threads=st.sampled_from([1, 3]),
    direct=st.booleans(),
)
def test_the_bytes_are_right(
    tmp_path_factory: pytest.TempPathFactory,
    size: int,
    block: int,
    blocks: int,
    threads: int,
    direct: bool,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "BLOCK", block)
        patch.setattr(stream, "DIRECT_BYTES", 0 if direct else 2**40)
        patch.setattr(stream, "WRITE", blocks)
        sizes = written(tmp_path_factory.mktemp("file") / "f", size, threads)
    assert sum(sizes) == size


@pytest.mark.skipif(sys.platform != "linux", reason="writing past the page cache is for Linux")
def test_a_large_file_stays_out_of_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    original = os.open

    def watch(path: Path, flags: int, mode: int = 0o777) -> int:
        opened.append(flags)
        return original(path, flags, mode)

    monkeypatch.setattr(os, "open", watch)
    monkeypatch.setattr(stream, "DIRECT_BYTES", 3 * PAGE)
    written(tmp_path / "small", 3 * PAGE - 1, 1)
    written(tmp_path / "large", 3 * PAGE, 1)
    assert [bool(flags & os.O_DIRECT) for flags in opened[:1]] == [False]
    assert any(flags & os.O_DIRECT for flags in opened)


@pytest.mark.skipif(sys.platform != "linux", reason="writing past the page cache is for Linux")
def test_a_file_system_without_it_gets_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.open

    def refuse(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            # As Linux does: the file is made first.
            os.close(original(path, flags & ~os.O_DIRECT, mode))
            raise OSError(errno.EINVAL, "Invalid argument")
        return original(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(stream, "DIRECT_BYTES", 0)
    written(tmp_path / "f", 3 * PAGE + 5, 2)


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write_file(path, 5, lambda begin, stop, block: None, Crew(1), lambda size: None)
    assert path.read_bytes() == b"mine"
