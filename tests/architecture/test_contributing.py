"""CONTRIBUTING.md knows the house: every file has a line, and no line is of one that is gone."""

from __future__ import annotations

import re
from pathlib import Path

from genepool.ui.docs import ROOMS
from tests.architecture.test_imports import ROOMS as ORDER

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src/genepool"
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_every_file_has_one_line_which_says_something() -> None:
    lines = re.findall(r"^- `([\w/]+\.py)`: (.*)$", PAGE, re.MULTILINE)
    files = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if path.name != "__init__.py" or path.parent == SOURCE
    }
    named = [name for name, _ in lines]
    assert sorted(named) == sorted(files), "run `make docs`"
    assert [name for name, text in lines if len(text) < 20] == []


def test_rooms_stand_in_the_order_of_the_arrows_and_say_what_they_are_for() -> None:
    assert list(ROOMS) == ORDER
    rooms = re.findall(r"^\*\*(\w+)/\*\* (.*)$", PAGE, re.MULTILINE)
    assert [name for name, text in rooms if len(text) > 30] == [*ORDER, "testing"]


def test_places_to_change_things_exist() -> None:
    table = PAGE.split("## Where do I change ...")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 11
    for name in re.findall(r"`([\w/.-]+(?:\.(?:py|md|toml)|/))`", table):
        assert (ROOT / name).exists() or (SOURCE / name).exists(), name
    for function, file in re.findall(r"`(\w+)` (?:of|in) `([\w/]+\.py)`", table):
        text = (SOURCE / file).read_text(encoding="utf-8")
        assert re.search(rf"\b(def|class) {function}\b", text), f"{function} of {file}"
