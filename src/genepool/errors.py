"""Everything genepool raises on purpose.

A `GenepoolError` is a user's error: the command line prints its message as one line and exits 1.
Anything else that escapes is a bug and keeps its traceback. Messages name what was wrong, what was
expected, what was got, and what to do.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path


class GenepoolError(Exception):
    """Base of every error that a user can cause and mend."""


class InputError(GenepoolError, ValueError):
    """An argument of a Python call has the wrong shape, range or type."""


class ConfigError(GenepoolError):
    """A run file cannot be used; the message names the file, the line and the field."""


class OptionError(ConfigError):
    """An option of a command cannot be used, whatever is in the files: the command exits 2."""


class RunFileErrors(ConfigError):
    """Several things are wrong with a run file; the message has a line for each."""


class CheckpointError(GenepoolError):
    """A checkpoint is unreadable, unsafe, or does not fit the others."""


class EvaluationError(GenepoolError):
    """A model could not be scored: no score was made up for it."""


class DeviceMemoryError(GenepoolError):
    """A device has no memory left; the message says what takes how much, and what would fit."""


class EpisodeError(GenepoolError):
    """An environment broke, or does not repeat itself. No model is to blame, so none is scored."""


class EnvironmentDown(EpisodeError):
    """An environment does not answer as it should, and may do so later: it is tried again."""


class PoolError(GenepoolError):
    """A pool cannot be opened, read or written."""


class PoolWarning(UserWarning):
    """A pool can be read, and something that was written to it is not there."""


class WriteError(GenepoolError):
    """A file cannot be written: no space, no permission, or no such directory."""


class TimeIsUp(BaseException):
    """Raised inside a call that takes too long; no Exception, so that user code lets it through."""


class MissingExtraError(GenepoolError):
    """A feature needs a package that is not installed; the message names the extra."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed: {installing(extra)}"
            + (_SMALL_TORCH if package == "torch" else "")
        )


def require_packages(extra: str, purpose: str, *packages: str) -> None:
    """Refuse before anything is read or run; importing them here would take seconds.

    Args:
        extra: of genepool, that installs them.
        purpose: what needs them.
        packages: as they are imported.

    Raises:
        MissingExtraError: one is not installed.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra, purpose)


_SMALL_TORCH = (
    "; on a machine without a GPU, first: pip install torch --index-url "
    "https://download.pytorch.org/whl/cpu (a fraction of the size)"
)


def installing(extra: str) -> str:
    """The command that installs one of genepool's extras, in the way that genepool came here."""
    return f"pip install '{_package().format(extra=extra)}'"


@cache
def _package() -> str:
    if (Path(__file__).parents[2] / "pyproject.toml").is_file():
        return ".[{extra}]"  # These are the sources of a checkout.
    # Late: few runs need to know it.
    import json
    from importlib import metadata
    from typing import Any

    try:
        text = metadata.distribution("genepool").read_text("direct_url.json")
        origin: Any = json.loads(text or "{}")
    except (metadata.PackageNotFoundError, OSError, ValueError):
        origin = {}
    if "dir_info" in origin:
        return ".[{extra}]"
    if "vcs_info" in origin:
        return "genepool[{extra}] @ git+" + str(origin["url"])
    return "genepool[{extra}]"
