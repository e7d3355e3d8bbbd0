"""Where genepool keeps what it can make again: folded adapters, digests, inner products."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from genepool.checkpoints.files.atomic import whole_file
from genepool.checkpoints.files.header import Entry, header
from genepool.errors import GenepoolError
from genepool.messages import at


def cache_directory() -> Path:
    """The folder for files that are safe to delete: they are made again when they are needed.

    `GENEPOOL_CACHE` if it is set, else `genepool` in `XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        GenepoolError: there is no home directory, and none of the variables is set.
    """
    if given := os.environ.get("GENEPOOL_CACHE"):
        return Path(given).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        home = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:
        raise GenepoolError(
            "no home directory is known, so there is no place for a cache; set GENEPOOL_CACHE"
        ) from error
    return home / "genepool"


def shared_cache() -> Path | None:
    """`cache_directory`, made if need be; None where it cannot be written, to go on without."""
    try:
        folder = cache_directory()
        folder.mkdir(parents=True, exist_ok=True)
    except (GenepoolError, OSError):
        return None
    return folder if os.access(folder, os.W_OK) else None


def write_cached(
    path: Path, entries: Sequence[Entry], produce: Callable[[str], bytes | memoryview]
) -> None:
    """Write a safetensors file of which one tensor at a time is in memory; whole or not at all.

    Args:
        path: to write or replace; its folder is made.
        entries: (name, dtype, shape) in the order of their bytes.
        produce: the bytes of a tensor by name; called once for each, in order.

    Raises:
        GenepoolError: the file cannot be written; nothing is left of it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(header(entries, {"format": "pt"})[0])
            for name, _, _ in entries:
                file.write(produce(name))
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> GenepoolError:
    """What to say when the cache cannot be written."""
    return GenepoolError(
        f"{at(path)}: the cache cannot be written: {error.strerror or error}; set GENEPOOL_CACHE "
        "to a folder with room"
    )
