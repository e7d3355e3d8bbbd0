"""Parts of error messages: one line each, whatever a hostile file puts into a name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def one_line(text: object) -> str:
    """`text` with line breaks and other control characters escaped, cut to a readable length."""
    plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
    return plain if len(plain) <= 400 else plain[:380] + "... (cut)"


def some(names: Iterable[object], limit: int = 3) -> str:
    """The first few names, quoted, and how many more there are: `'a', 'b' and 5 more`."""
    listed = list(names)
    shown = ", ".join(f"'{one_line(name)}'" for name in listed[:limit])
    rest = len(listed) - limit
    return f"{shown} and {rest} more" if rest > 0 else shown


def count(number: int, noun: str) -> str:
    """`1 tensor`, `2 tensors`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def at(path: Path) -> str:
    """A path, safe to print."""
    return one_line(path)


def cause(error: BaseException) -> str:
    """An exception in one line: its type and the first line of its message."""
    text = str(error).strip()
    first = text.splitlines()[0] if text else ""
    return f"{type(error).__name__}: {one_line(first)}" if first else type(error).__name__
