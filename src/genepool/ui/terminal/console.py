"""The terminal: where results and errors go, and numbers as people read them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from genepool.messages import percent

# Where results go to a file or another program, no line is broken.
_WIDE = 10_000
# Tasks whose scores stand in one line.
_TASKS = 4


def console(*, errors: bool = False) -> Console:
    """For results (standard output), or for all that is not the result (standard error)."""
    file = sys.stderr if errors else sys.stdout
    return Console(
        file=file,
        width=None if errors or file.isatty() else _WIDE,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
    )


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def plain(text: object) -> str:
    """One line, with control characters escaped: names come from files, and files from anywhere."""
    joined = " ".join(str(text).split("\n"))
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in joined)


def command(*arguments: object) -> str:
    """What to type for `genepool ARGUMENTS`, from where this was typed."""
    program = Path(sys.argv[0])
    if shutil.which("genepool"):
        words = ["genepool"]
    elif program.name == "genepool":
        words = [str(program)]
    else:
        words = [sys.executable, "-m", "genepool"]
    return shlex.join([*words, *map(str, arguments)])


def number(value: float) -> str:
    """With commas between thousands; a decimal below ten."""
    return f"{value:,.1f}" if value < 10 and value != int(value) else f"{value:,.0f}"


def pace(items: int, seconds: float) -> str:
    """How fast children are scored: `47 a second`, or `5.7 s a child`."""
    took = seconds / items
    return f"{number(1 / took)} a second" if 0 < took <= 1 else f"{duration(took)} a child"


def near(path: str) -> str:
    """A path as it is seen from the folder in which one is, if it lies there."""
    try:
        from_here = os.path.relpath(path)
        inside = not from_here.startswith(os.pardir) and Path(from_here).samefile(path)
    except (OSError, ValueError):
        return path
    return from_here if inside else path


def duration(seconds: float) -> str:
    """`2.5 ms`, `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, and beyond 99 hours `4 d 5 h`."""
    if 0 < seconds < 0.1:
        return f"{1000 * seconds:.1f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 100 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400:,} d {whole % 86_400 // 3600} h"


def by_task(scores: Sequence[tuple[str, float]]) -> str:
    """`maths 61.0 %, shopping 48.2 %`, and how many more there are; empty for a single task."""
    if len(scores) < 2:
        return ""
    shown = ", ".join(f"{plain(name)} {percent(score)}" for name, score in scores[:_TASKS])
    rest = len(scores) - _TASKS
    return f"{shown}, {rest} more" if rest > 0 else shown
