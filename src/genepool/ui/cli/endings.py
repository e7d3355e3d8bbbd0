"""How a command ends when it does not succeed: one line on standard error, and an exit code."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import click


def complain(text: str) -> None:
    """Print one line on standard error, whatever stands in the text."""
    from genepool.ui.terminal.console import plain

    click.echo(f"genepool: {plain(text)}", err=True)


@contextlib.contextmanager
def resumable() -> Generator[None, None, None]:
    """Ctrl-C inside ends the command with 130, and says that the same command goes on."""
    try:
        yield
    except KeyboardInterrupt:
        complain("interrupted; what was scored is kept, and the same command goes on")
        raise click.exceptions.Exit(130) from None
