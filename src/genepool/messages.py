"""Parts of error messages: one line each, whatever a hostile file puts into a name."""

from __future__ import annotations

import contextlib
import os
import sysconfig
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path

from genepool.errors import TimeIsUp


def one_line(text: object) -> str:
    """`text` with line breaks and other control characters escaped, cut to a readable length."""
    plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words(text))
    return plain if len(plain) <= 400 else plain[:380] + "... (cut)"


def words(value: object, text: Callable[[object], str] = str) -> str:
    """`str(value)`, also of an object of a user's whose own text cannot be made."""
    try:
        return text(value)
    except BaseException as error:
        pass_on(error)
        return f"({type(value).__name__}, whose text cannot be made)"


def shown(value: object) -> str:
    """`repr(value)` in one line, also of an object of a user's whose own text cannot be made."""
    return one_line(words(value, repr))


def is_text(value: str) -> bool:
    """Whether it can be written as UTF-8: JSON and file systems also know halves of characters."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def some(names: Iterable[object], limit: int = 3) -> str:
    """The first few names, quoted, and how many more there are: `'a', 'b' and 5 more`."""
    listed = list(names)
    shown = ", ".join(f"'{one_line(name)}'" for name in listed[:limit])
    rest = len(listed) - limit
    return f"{shown} and {rest} more" if rest > 0 else shown


def count(number: int, noun: str, several: str = "") -> str:
    """`1 tensor`, `2 tensors`, `1,000 tensors`; `several` where more of them end otherwise."""
    return f"{number:,} {agreeing(number, noun, several or f'{noun}s')}"


def children(number: int) -> str:
    """`1 child`, `1,000 children`."""
    return count(number, "child", "children")


def agreeing(number: int, one: str, several: str) -> str:
    """The word that goes with a number: `is` or `are`."""
    return one if number == 1 else several


def percent(value: float | None) -> str:
    """A share in [0, 1] with three digits or so; a dash where it is not known.

    `0.0 %` is none and `100.0 %` is all, but for what comes of adding up; what is close to these is
    told as `< 0.1 %` and `> 99.9 %`.
    """
    if value is None:
        return "–"
    text = f"{100 * value:.1f} %"
    if text == "0.0 %" and value > 1e-9:
        return "< 0.1 %"
    return "> 99.9 %" if text == "100.0 %" and value < 1 - 1e-9 else text


def measured(values: Sequence[float | None]) -> list[str]:
    """The same measure of several models: in per cent, or as numbers where one is no share."""
    shares = all(value is None or -1e-6 <= value <= 1 + 1e-6 for value in values)
    return [
        percent(value)
        if value is None or shares
        else f"{value:,.0f}"
        if abs(value) >= 1000
        else f"{value:.4g}"
        for value in values
    ]


def at(path: Path) -> str:
    """A path, safe to print."""
    return one_line(path)


def cause(error: BaseException) -> str:
    """An exception in one line: its type and the first line of its message."""
    text = words(error).strip()
    first = text.splitlines()[0] if text else ""
    return f"{type(error).__name__}: {one_line(first)}" if first else type(error).__name__


def blamed(error: BaseException, function: object = None) -> str:
    """`cause` of what a user's code raised, and where in that code: file and line.

    With GENEPOOL_DEBUG in the environment the traceback is printed here: what becomes of the error,
    in workers too, is but its text.

    Args:
        error: as it was caught.
        function: that was called, for an error that came before its first line.
    """
    if os.environ.get("GENEPOOL_DEBUG"):
        traceback.print_exception(error)
    found = _line_of(error) or _beginning_of(function)
    return f"{cause(error)} (in {found})" if found else cause(error)


def _line_of(error: BaseException) -> str:
    """The innermost line that is neither ours nor of an installed package; "" if there is none."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{one_line(error.filename)}, line {error.lineno}"
    others = [
        str(Path(__file__).parent),
        *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")),
    ]
    found = ""
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith(("<", *(f"{place}{os.sep}" for place in others))):
            found = f"{one_line(file)}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return found


def _beginning_of(function: object) -> str:
    code = getattr(function, "__code__", None)
    return f"{one_line(code.co_filename)}, line {code.co_firstlineno}" if code else ""


def pass_on(error: BaseException) -> None:
    """Raise again what is no failure of the code that it came out of.

    That is Ctrl-C, and the end of a time limit or of a device's memory. Whatever else code of a
    user's or of a library raises is its failure, also what is no `Exception`: SystemExit, the
    CancelledError of asyncio, panics of libraries that are written in Rust.
    """
    if isinstance(error, (KeyboardInterrupt, GeneratorExit, TimeIsUp)) or of_device_memory(error):
        raise error


@contextlib.contextmanager
def failures_as(
    kind: Callable[[str], Exception],
    text: str,
    end: str = "",
    *,
    passing: type[BaseException] | tuple[()] = (),
    told: Callable[[BaseException], str] = cause,
) -> Generator[None, None, None]:
    """What code of a user's or of a library raises inside is told as an error of ours.

    Args:
        kind: of that error.
        text: what failed; a colon and the cause follow.
        end: what follows the cause.
        passing: errors of this kind are raised as they are.
        told: gives the cause in one line; `blamed` names the place in a user's code too.

    Raises:
        Exception: of that kind; but see `pass_on`.
    """
    try:
        yield
    except passing:
        raise
    except BaseException as error:
        pass_on(error)
        raise kind(f"{text}: {told(error)}{end}") from error


def of_device_memory(error: BaseException) -> bool:
    """Whether torch says that a device has no memory left; torch is not imported for it."""
    kind = type(error)
    return kind.__name__ == "OutOfMemoryError" and kind.__module__.split(".")[0] == "torch"


def spoken(error: BaseException) -> str:
    """An exception in one line: its type and all that it says, white space made single."""
    text = " ".join(words(error).split())
    return f"{type(error).__name__}: {one_line(text)}" if text else type(error).__name__
