"""The code of genepool as the tests of this folder read it: each file parsed once."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import genepool

PACKAGE = Path(genepool.__file__).parent


@cache
def all_files() -> tuple[Path, ...]:
    """All files of genepool."""
    return tuple(sorted(PACKAGE.rglob("*.py")))


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file."""
    return tuple(ast.walk(ast.parse(path.read_text("utf-8"))))


def called(node: ast.Call) -> str:
    """The name that is called, with its dots; "" for what is no name."""
    parts: list[str] = []
    function: ast.expr = node.func
    while isinstance(function, ast.Attribute):
        parts.insert(0, function.attr)
        function = function.value
    return ".".join([function.id, *parts]) if isinstance(function, ast.Name) else ""
