"""The command line, called as the console script calls it, in this process."""

from __future__ import annotations

import contextlib
import io

from genepool.ui.cli.main import main


def run_cli(arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `genepool ARGUMENTS`."""
    out, error = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            main(arguments)
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else (1 if exit_.code else 0)
    return code, out.getvalue(), error.getvalue()
