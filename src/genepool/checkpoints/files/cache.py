"""Where genepool keeps what it can make again: folded adapters, digests, inner products."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Generator, Sequence
from functools import cache
from pathlib import Path

from genepool.checkpoints.files.atomic import remove_leftovers, whole_file
from genepool.checkpoints.files.header import Entry, header
from genepool.checkpoints.files.safetensors import MappedFile, map_file
from genepool.errors import CheckpointError, GenepoolError
from genepool.messages import at

# Seconds after which waiting for another process is told.
_PATIENCE = 2.0
_LOG = logging.getLogger("genepool.cache")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


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


@contextlib.contextmanager
def held_alone(place: Path, doing: str) -> Generator[None, None, None]:
    """Held by one process at a time, which makes what is to lie at a place of the cache. Others
    wait, and find it there: replaced, it would be another file than those have open.

    Args:
        place: in a folder that is there.
        doing: what is told where another process has it for long, such as "'x' is being copied".

    Raises:
        OSError: no file can be made there.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(place.with_name(f"{place.name}.lock"))
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout:
        _LOG.warning("%s by another process; waiting for it", doing)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        _tell_of_no_locks(at(place.parent))
    try:
        yield
    finally:
        lock.release()


@cache
def _tell_of_no_locks(folder: str) -> None:
    _LOG.warning(
        "%s: files cannot be locked there; begin runs that need the same files one after another, "
        "or set GENEPOOL_CACHE to a folder on another file system",
        folder,
    )


def cached_tensors(
    path: Path, entries: Sequence[Entry], produce: Callable[[str], bytes | memoryview]
) -> MappedFile:
    """A safetensors file of the cache, written unless it is there; whole or not at all.

    Of what is written, one tensor at a time is in memory.

    Args:
        path: its place; the folder is made.
        entries: (name, dtype, shape) in the order of their bytes.
        produce: the bytes of a tensor by name; called once for each, in order.

    Raises:
        GenepoolError: the file cannot be written; nothing is left of it.
    """
    if (file := _held(path, entries)) is not None:
        return file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with held_alone(path, f"{at(path)} is being written"):
            if (file := _held(path, entries)) is not None:
                return file
            remove_leftovers(path)
            with whole_file(path) as out:
                out.write(header(entries, {"format": "pt"})[0])
                for name, _, _ in entries:
                    out.write(produce(name))
    except OSError as error:
        raise cannot_write(path, error) from error
    return map_file(path)


def _held(path: Path, entries: Sequence[Entry]) -> MappedFile | None:
    """The file, if it is there and holds these tensors."""
    try:
        file = map_file(path)
    except CheckpointError:
        return None
    held = sorted((t.name, t.dtype, t.shape) for t in file.tensors.values())
    return file if held == sorted(entries) else None


def cannot_write(path: Path, error: OSError) -> GenepoolError:
    """What to say when the cache cannot be written."""
    return GenepoolError(
        f"{at(path)}: the cache cannot be written: {error.strerror or error}; set GENEPOOL_CACHE "
        "to a folder with room"
    )
