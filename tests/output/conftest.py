"""Fixtures of the tests of what goes out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two pipelines of one shape, of which nothing is to be changed."""
    from tests.pipelines import tiny_pipeline  # imports diffusers, which takes seconds

    folder = tmp_path_factory.mktemp("pair")
    return tiny_pipeline(folder / "a", seed=1), tiny_pipeline(folder / "b", seed=2)


@pytest.fixture
def own(pair: tuple[Path, Path], tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Copies of the two, for tests that change them; what was written first is left alone."""
    for path in pair:
        shutil.copytree(path, tmp_path / path.name)
    yield tmp_path / "a", tmp_path / "b"
    assert not list(tmp_path.glob(".*")), "a half-written directory was left"
