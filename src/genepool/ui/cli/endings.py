"""How a command breeds and ends: standard output is kept for the result, errors are one line."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator

import click


def complain(*texts: str) -> None:
    """Print a line each on standard error, whatever stands in the texts."""
    from genepool.ui.terminal.console import plain

    for text in texts:
        click.echo(f"genepool: {plain(text)}", err=True)


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
