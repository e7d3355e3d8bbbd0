"""Parts of error messages: one line each, whatever a hostile file puts into a name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from genepool.errors import TimeIsUp


def one_line(text: object) -> str:
    """`text` with line breaks and other control characters escaped, cut to a readable length."""
    plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words(text))
    return plain if len(plain) <= 400 else plain[:380] + "... (cut)"


def words(value: object) -> str:
    """`str(value)`, also of an object of a user's whose own text cannot be made."""
    try:
        return str(value)
    except BaseException as error:
        pass_on(error)
        return f"({type(value).__name__}, whose text cannot be made)"


def shown(value: object) -> str:
    """`repr(value)` in one line, also of an object of a user's whose own text cannot be made."""
    try:
        return one_line(repr(value))
    except BaseException as error:
        pass_on(error)
        return f"({type(value).__name__}, whose text cannot be made)"


def is_text(value: str) -> bool:
    """Whether it can be written as UTF-8: JSON and file systems also know halves of characters."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


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
    text = words(error).strip()
    first = text.splitlines()[0] if text else ""
    return f"{type(error).__name__}: {one_line(first)}" if first else type(error).__name__


def pass_on(error: BaseException) -> None:
    """Raise again what is no failure of the code that it came out of.

    That is Ctrl-C and the end of a time limit. Whatever else code of a user's or of a library
    raises is its failure, also what is no `Exception`: SystemExit, the CancelledError of asyncio,
    panics of libraries that are written in Rust.
    """
    if isinstance(error, (KeyboardInterrupt, GeneratorExit, TimeIsUp)):
        raise error


def spoken(error: BaseException) -> str:
    """An exception in one line: its type and all that it says, white space made single."""
    text = " ".join(words(error).split())
    return f"{type(error).__name__}: {one_line(text)}" if text else type(error).__name__
