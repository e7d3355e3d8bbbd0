"""The command that installs an extra fits the way in which genepool was installed."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from genepool import errors


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'genepool[llm]'"),
        ("not json", "pip install 'genepool[llm]'"),
        ('{"url": "file:///x/genepool.whl", "archive_info": {}}', "pip install 'genepool[llm]'"),
        ('{"url": "file:///x", "dir_info": {"editable": true}}', "pip install '.[llm]'"),
        ('{"url": "file:///x", "dir_info": {}}', "pip install '.[llm]'"),
        (
            '{"url": "https://a/b.git", "vcs_info": {"vcs": "git"}}',
            "pip install 'genepool[llm] @ git+https://a/b.git'",
        ),
    ],
)
def test_how_it_came_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str | None, command: str
) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            return origin if name == "direct_url.json" else None

    def find(name: str) -> Any:
        return Installed()

    monkeypatch.setattr(metadata, "distribution", find)
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "lib/site-packages/genepool/errors.py"))
    errors._package.cache_clear()  # pyright: ignore[reportPrivateUsage]
    try:
        assert errors.installing("llm") == command
    finally:
        errors._package.cache_clear()  # pyright: ignore[reportPrivateUsage]


def test_of_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "src/genepool/errors.py"))
    errors._package.cache_clear()  # pyright: ignore[reportPrivateUsage]
    assert errors.installing("torch") == "pip install '.[torch]'"
    errors._package.cache_clear()  # pyright: ignore[reportPrivateUsage]
    text = str(errors.MissingExtraError("torch", "llm", "a language model"))
    assert "whl/cpu" in text and len(text.splitlines()) == 1
