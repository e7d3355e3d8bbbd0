"""Machine code that is kept: loaded without numba, compiled anew where it does not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genepool.checkpoints.files.dtypes import FLOATING
from genepool.materialise import native as module
from genepool.materialise.cpu import express_into
from genepool.materialise.tensor_table import Terms, address_of

CODE = "from tests.materialise.test_native import report; report()"


def recipe() -> Terms:
    """Two float32 tensors in three segments, with noise."""
    rng = np.random.default_rng(0)
    sources = [rng.standard_normal(1000).astype(np.float32) for _ in range(2)]
    return Terms(
        np.array([0, 1000]),
        np.array([[address_of(source) for source in sources]]),
        np.full((1, 2), FLOATING.index("F32")),
        np.array([0, 300, 777, 1000]),
        np.array([[0.3, 0.7], [0, 0], [1.5, -0.25]], dtype=np.float32),
        sources,
        rng.integers(0, 2**16, 1000).astype(np.uint16),
        np.float32(0.1),
    )


def express(terms: Terms) -> bytes:
    """In bfloat16."""
    out = np.zeros(1000, dtype=np.uint16)
    codes = np.array([FLOATING.index("BF16")])
    express_into(terms, 0, 1000, np.array([address_of(out)]), codes)
    return out.tobytes()


def child() -> bytes:
    """The bytes of a child."""
    return express(recipe())


def report() -> None:
    """Print a child, and whether numba was needed."""
    print(child().hex(), "numba" in sys.modules)


def other_process(cache: Path, **environment: str) -> tuple[str, bool]:
    """A child as another process computes it, and whether that imported numba."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE],
        capture_output=True,
        text=True,
        env={**os.environ, "GENEPOOL_CACHE": str(cache), **environment},
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    found, numba = done.stdout.split()
    return found, numba == "True"


def kept(cache: Path) -> list[Path]:
    return sorted((cache / "compiled").iterdir())


def test_only_the_first_process_needs_numba(tmp_path: Path) -> None:
    expected = child().hex()
    assert other_process(tmp_path) == (expected, True)
    (file,) = kept(tmp_path)
    before = file.stat().st_mtime_ns
    assert other_process(tmp_path) == (expected, False)
    assert kept(tmp_path) == [file]
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["cut short", "another bit", "empty"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: str) -> None:
    expected, _ = other_process(tmp_path)
    (file,) = kept(tmp_path)
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    wrong = {"cut short": whole[:-100], "another bit": bytes(flipped), "empty": b""}
    file.write_bytes(wrong[damage])
    assert other_process(tmp_path) == (expected, True)
    assert kept(tmp_path) == [file]
    assert other_process(tmp_path) == (expected, False)


def test_it_works_where_nothing_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert other_process(tmp_path / "file") == (child().hex(), True)
    (tmp_path / "compiled").write_text("in the way")
    assert other_process(tmp_path) == (child().hex(), True)


@pytest.mark.skipif(os.name != "posix", reason="modes and owners are those of POSIX")
def test_code_that_others_could_have_written_is_not_run(tmp_path: Path) -> None:
    expected, _ = other_process(tmp_path)
    (tmp_path / "compiled").chmod(0o777)
    assert other_process(tmp_path) == (expected, True)
    (tmp_path / "compiled").chmod(0o700)
    assert other_process(tmp_path) == (expected, False)
    (tmp_path / "compiled").rename(tmp_path / "elsewhere")
    (tmp_path / "compiled").symlink_to("elsewhere")
    assert other_process(tmp_path) == (expected, True)


def test_a_compiler_that_does_it_otherwise_is_used_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = child()
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path))

    def nothing(name: str, arguments: str) -> None:
        """As if the machine code referred to something outside itself."""

    monkeypatch.setattr(module, "_assembly", nothing)
    ready: dict[str, Any] = {}
    monkeypatch.setattr(module, "_ready", ready)
    assert child() == expected
    assert list(ready) == ["express"]
    assert kept(tmp_path) == []


def test_memory_is_given_as_what_compiled_code_reads() -> None:
    terms = recipe()
    with pytest.raises(TypeError, match="int64"):
        express(replace(terms, codes=terms.codes.astype(np.int32)))
    with pytest.raises(TypeError, match="contiguous"):
        express(replace(terms, words=np.repeat(terms.words, 2)[::2]))
