"""How a command breeds and ends: standard output is kept for the result, errors are one line."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import click

from genepool.errors import PoolWarning


def complain(*texts: str) -> None:
    """Print a line each on standard error, whatever stands in the texts."""
    from genepool.ui.terminal.console import plain

    for text in texts:
        click.echo(f"genepool: {plain(text)}", err=True)


@contextlib.contextmanager
def telling() -> Generator[None, None, None]:
    """What readers of pools are warned of is a line on standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", PoolWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if issubclass(category, PoolWarning):
                from genepool.ui.terminal.console import plain

                click.echo(f"note: {plain(str(message))}", err=True)
            else:
                others(message, category, *place)

        warnings.showwarning = show
        yield


# What the system calls must outlive the function that registers it.
_REGISTERED: list[Any] = []


def tell_of_cut_files() -> None:
    """From now on a file that is cut short while it is read ends the command with 1 and a line.

    Seeds are mapped, and where a file no longer stands behind memory the system sends SIGBUS to
    the thread that reads it. A handler of Python's would wait for that thread to go on, which it
    cannot: so this one is called by the system itself, and ends the process.
    """
    import ctypes

    first = threading.Lock()

    def end(_number: int) -> None:
        if first.acquire(blocking=False):
            try:
                names = ", ".join(_cut_files()) or "a file"
                text = f"genepool: {names}: cut short while it was read; restore it and run again"
                os.write(2, text.encode(errors="backslashreplace") + b"\n")
            finally:
                os._exit(1)
        signal.pause()  # Another thread is about to end the process.

    kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
    handler = kind(end)
    _REGISTERED.append(handler)
    register = ctypes.CDLL(None).signal
    register.argtypes, register.restype = [ctypes.c_int, kind], ctypes.c_void_p
    register(signal.SIGBUS, handler)


def _cut_files() -> list[str]:
    """Shared files of which this process maps more than there is, where the system says so."""
    from genepool.messages import at

    found: set[str] = set()
    page = os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            area = re.fullmatch(r"(\w+)-(\w+) r--s (\w+) \S+ [1-9]\d* +(/.*)", line)
            if area is None:
                continue
            begin, end, offset = (int(number, 16) for number in area.groups()[:3])
            with contextlib.suppress(OSError):
                # The last page may be begun.
                path = Path(area[4])
                if offset + end - begin - page >= path.stat().st_size:
                    found.add(at(path))
    return sorted(found)


@contextlib.contextmanager
def breeding() -> Generator[None, None, None]:
    """Run what a user's functions are called in.

    Whatever they print, in worker processes too, goes to standard error: standard output is for the
    result alone. Ctrl-C ends the command with 130, and says that the same command goes on.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr), _diverted():
            yield
    except KeyboardInterrupt:
        complain("interrupted; what was scored is kept, and the same command goes on")
        raise click.exceptions.Exit(130) from None


@contextlib.contextmanager
def _diverted() -> Generator[None, None, None]:
    """Descriptor 1, which workers inherit and compiled code writes to, leads to descriptor 2."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # One of them is closed.
        yield
        return
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
