"""The command line: the group of all commands, and how they end.

Everything but click is imported inside the command that needs it, so that commands which only read
a pool start at once. Exit codes: 0 done; 1 failed, with the reason in one line on standard error,
or one for each mistake in a run file; 2 wrong usage; 130 interrupted. An exception that is not a
`GenepoolError` is a bug and keeps its traceback; with `GENEPOOL_DEBUG=1` in the environment every
error shows one.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from genepool.errors import GenepoolError, OptionError, RunFileErrors
from genepool.ui.cli import checkpoint_commands, pool_commands, run_commands
from genepool.ui.cli.endings import complain, tell_of_cut_files, telling
from genepool.ui.cli.place import blame, mend_streams, silence


def script() -> NoReturn:
    """Run the command that was typed: the console script `genepool`."""
    from genepool.run.executors.interrupt import end_like_ctrl_c

    # Importing transformers makes a million objects that stay. Looking through them as often as
    # Python does by itself is a sixth of that import.
    gc.set_threshold(10_000)
    # They are of no use to who types a command; workers inherit it.
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    end_like_ctrl_c()
    tell_of_cut_files()
    mend_streams()
    main()


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        with telling():
            code = cli.main(args=arguments, prog_name="genepool", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        path = "genepool"
        if isinstance(error, click.UsageError) and error.ctx is not None:
            path = error.ctx.command_path
        complain(f"{error.format_message().rstrip('.')} (see `{path} --help`)")
        return error.exit_code
    except BrokenPipeError:
        # The reader has left, as `| head` does. What is still buffered must not fail at exit.
        silence(1)
        return 1
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted")
        return 130
    except GenepoolError as error:
        if os.environ.get("GENEPOOL_DEBUG"):
            traceback.print_exc()
        complain(*(str(error).split("\n") if isinstance(error, RunFileErrors) else [str(error)]))
        return 2 if isinstance(error, OptionError) else 1
    except Exception as error:
        found = blame(error)
        if found is None or os.environ.get("GENEPOOL_DEBUG"):
            raise
        # Not by `complain`, which may need more memory than there is.
        sys.stderr.write(f"genepool: {found}\n")
        return 1
    # A command returns nothing; click returns the code that `Exit` carries.
    return code if isinstance(code, int) else 0


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="genepool", message="genepool %(version)s")
def cli() -> None:
    """Breed better models out of models that already exist.

    genepool merges checkpoints of one architecture, scores the children example by example, and
    keeps those that solve what others do not: evolution by forward passes alone.
    """


for room in (run_commands, pool_commands, checkpoint_commands):
    for command in room.COMMANDS:
        cli.add_command(command)
