"""One word, one meaning: what users read holds none of the words that were given up.

The table of words is in CONTRIBUTING.md. Looked at are the texts that are printed (strings with a
blank in them, help of commands and options, descriptions of settings) and the documents; names in
the code, keys of JSON and the pool's schema are not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.architecture.source import PACKAGE, all_files, nodes

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "examples/README.md"]

# What was said, and what is said now.
GIVEN_UP = {
    r"\bresources?\b": "example",
    r"\bcompanion": "model files",
    r"\bside[ -]files?\b": "model files",
    r"\btraining (score|example)": "selection score, selection example",
    r"\btrain score": "selection score",
    r"\brounds?\b(?! of\b)": "subset",
    r"(?<!parameter )\b(the|an|whole|one) axis\b(?! of children| of values)": "parameter axis",
    r"\brandomness\b": "random seed",
    r"\bniches?\b": "competition",
    r"\bexams?\b": "early stop, evaluation plan",
    r"\basked again\b": "re-evaluated",
}
# Statements, and lists of columns.
SQL = re.compile(r"^\s*(SELECT|CREATE|INSERT|DELETE|UPDATE|AND|DROP)\b|^\w+(, \w+)+$")


@cache
def printed(path: Path) -> tuple[tuple[int, str], ...]:
    """Line and text of all that a file may show to users."""
    return tuple(_printed(path))


def _printed(path: Path) -> Iterator[tuple[int, str]]:
    hidden: set[int] = set()
    for node in nodes(path):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            decorators = [ast.unparse(each) for each in getattr(node, "decorator_list", ())]
            if not any("command" in each for each in decorators):
                hidden.add(id(body[0].value))
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            if id(node) not in hidden and " " in text.strip() and not SQL.match(text):
                yield node.lineno, text


@pytest.mark.slow
@pytest.mark.parametrize(("word", "now"), GIVEN_UP.items())
def test_words_that_were_given_up_are_not_printed(word: str, now: str) -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {text.strip()[:80]!r} (say: {now})"
        for path in all_files()
        # What writes a task, a strategy or an executor reads the words of the code.
        if "testing" not in path.parts
        for line, text in printed(path)
        if re.search(word, text, re.IGNORECASE)
    ]
    for page in PAGES:
        text = re.sub(r"`[^`]*`|^```.*?^```", "", page.read_text("utf-8"), flags=re.S | re.M)
        found += [
            f"{page.relative_to(ROOT)}: {hit[0]!r} (say: {now})"
            for hit in re.finditer(word, text, re.IGNORECASE)
        ]
    assert not found


# What docstrings say of a thing has one word as well; names of code in backticks are not looked at.
DOCSTRINGS = {
    r"\bresources?\b": "example",
    r"\bcompanion": "model files",
    r"\bside[ -]files?\b": "model files",
    r"\btraining (score|example)": "selection score, selection example",
    r"(?<!parameter )\b(the|an|whole|one) axis\b(?! of children| of values)": "parameter axis",
    r"\brandomness\b": "random seed, random numbers",
    r"\bexams?\b": "early stop, evaluation plan",
    r"\basked again\b": "re-evaluated",
}


def test_docstrings_hold_no_words_that_were_given_up() -> None:
    found: list[str] = []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in all_files():
        texts = [ast.get_docstring(node) or "" for node in nodes(path) if isinstance(node, kinds)]
        said = "\n\n".join(re.sub(r"`[^`]*`", "", text) for text in texts)
        found += [
            f"{path.relative_to(PACKAGE)}: {hit[0]!r} (say: {now})"
            for word, now in DOCSTRINGS.items()
            # Of a chart, whose axes are axes.
            if path.name != "graphics.py"
            for hit in re.finditer(word, said, re.IGNORECASE)
        ]
    assert not found
