"""The place where a command runs: its streams, its folder and its memory, as others left them."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import traceback
from collections.abc import Generator
from pathlib import Path
from typing import Any

from genepool.messages import cause, of_device_memory, one_line, some

# With what an output fails that can take no more; such an error names no file.
_LOST = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)

# Below this an address space counts as small: numba alone needs a good half of it.
_SMALL = 2 * 2**30


class _Patient(io.TextIOWrapper):
    """Standard error that may be full or gone: what it cannot take must not end a run."""

    def write(self, text: str, /) -> int:
        with self._patience():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._patience():
            super().flush()

    @contextlib.contextmanager
    def _patience(self) -> Generator[None, None, None]:
        try:
            yield
        except OSError:
            silence(self.fileno())


def mend_streams() -> None:
    """Make standard input, output and error such that a command can rely on them.

    Closed ones lead nowhere from now on: a pool that is opened next would get their numbers, and
    whatever prints would write into it. Characters that the output cannot show are escaped.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    sys.stdout = _text(1, sys.stdout, io.TextIOWrapper)
    sys.stderr = _text(2, sys.stderr, _Patient)


def _text(number: int, stream: Any, kind: type[io.TextIOWrapper]) -> io.TextIOWrapper:
    """The same stream, or a new one where Python found none, that escapes what it cannot show."""
    return kind(
        os.fdopen(number, "wb", closefd=False),
        encoding="utf-8" if stream is None else stream.encoding,
        errors="backslashreplace",
        line_buffering=number == 2 or (stream is not None and stream.isatty()),
    )


def silence(number: int) -> None:
    """From now on what goes to this descriptor goes nowhere, what is still buffered too."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, number)
    os.close(nowhere)


def blame(error: Exception) -> str | None:
    """What to say of an error that is the place's fault and not genepool's; None: it is a bug."""
    if isinstance(error, OSError) and error.errno in _LOST and error.filename is None:
        silence(1)
        return f"cannot write to standard output: {error.strerror}"
    if of_device_memory(error):
        return f"a device has no memory left ({cause(error)}); what was recorded so far is kept"
    if isinstance(error, FileNotFoundError) and not _somewhere():
        return "the current folder is gone: change to one that exists, and try again"
    if isinstance(error, PermissionError) and error.filename is not None:
        return f"{one_line(error.filename)}: you have no permission ({error.strerror})"
    if (names := [name for name in os.environ if name.startswith("NUMBA_")]) and _in_numba(error):
        return f"numba cannot be used ({one_line(error)}): unset {some(names)}, or set it otherwise"
    room = _room()
    starved = isinstance(error, (ImportError, OSError, RuntimeError, SystemError)) and room < _SMALL
    if starved or isinstance(error, MemoryError):
        limit = f" (ulimit -v allows {room // 2**20} MB of addresses)" if room < _SMALL else ""
        return f"there is not enough memory{limit}; what was recorded so far is kept"
    return None


def _in_numba(error: Exception) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and f"{os.sep}numba{os.sep}" in frames[-1].filename


def _somewhere() -> bool:
    try:
        return bool(Path.cwd())
    except OSError:
        return False


def _room() -> float:
    """Bytes of addresses that this process may have."""
    if sys.platform == "win32":
        return float("inf")
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return float("inf") if limit == resource.RLIM_INFINITY else limit
