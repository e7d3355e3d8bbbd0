"""Files and directories that users name for output: only what genepool wrote is ever replaced."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genepool.checkpoints.files.atomic import write_bytes
from genepool.checkpoints.files.safetensors import map_file
from genepool.checkpoints.model_files.side_files import is_licence
from genepool.documents import list_of, mapping_of, parse_json, read_bytes
from genepool.errors import CheckpointError, GenepoolError, InputError
from genepool.messages import at, one_line
from genepool.pool.database import DATABASE

# The file beside the weights that says what they were made from.
RECIPE = "genepool.json"
_LARGEST = 10**9

# Where in a file its mark is looked for.
_HEAD = 2**16

# Besides the database and its log, what a pool makes in its directory while it is written to.
_POOL = ("writer.lock", "writer.pid")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file that genepool writes.

    Attributes:
        name: with its article.
        start: what such a file begins with.
        mark: what stands in its first 64 KiB besides.
    """

    name: str
    start: bytes
    mark: bytes = b""


REPORT = Kind("a report", b"<!DOCTYPE html>", b'<meta name="generator" content="genepool')
PNG = Kind("a figure", b"\x89PNG", b"Software\0genepool")
SVG = Kind("a figure", b"<?xml", b">genepool<")
TABLE = Kind("a table", b"# Comparison of strategies")
CURVES = Kind("a table of runs", b"strategy,seed,evaluations,train,")


def require_replaceable(file: Path, kind: Kind, *, overwrite: bool = True) -> None:
    """Refuse to write where anything else lies than an empty file or what genepool wrote itself.

    Args:
        file: as the user names it.
        kind: of file that may be replaced.
        overwrite: if false, none is.

    Raises:
        InputError: naming the file.
        GenepoolError: it cannot be looked at.
    """
    _refuse_pool(file)
    try:
        if not (file.exists() or file.is_symlink()):
            return
        # Through links: what they lead to is what the user would miss.
        if not stat.S_ISREG(file.stat().st_mode):
            raise _other(file, kind)
        with file.open("rb") as opened:
            head = opened.read(_HEAD)
    except FileNotFoundError:
        raise _other(file, kind) from None
    except OSError as error:
        raise GenepoolError(f"{at(file)}: cannot be written: {one_line(error)}") from None
    if head and not (head.startswith(kind.start) and kind.mark in head):
        raise _other(file, kind)
    if head and not overwrite:
        raise InputError(f"{at(file)}: is there already; choose another name, or overwrite it")


def write_own(file: Path, data: bytes, kind: Kind) -> None:
    """Write or replace a file of a kind, and make its folder where that is missing.

    Raises:
        GenepoolError: it cannot be written; see `require_replaceable` and `write_bytes`.
    """
    require_replaceable(file, kind)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GenepoolError(f"{at(file)}: cannot be written: {error.strerror or error}") from error
    write_bytes(file, data)


def require_free(
    directory: Path, own: Callable[[Path], None] | None = None, instead: str = "remove it first"
) -> Path:
    """The resolved place of a new directory: missing, or empty; its parents exist after this.

    Args:
        directory: as the user names it.
        own: raises unless a directory that holds something may be replaced.
        instead: what the user may do to have it replaced.

    Raises:
        InputError: something is there.
        GenepoolError: it cannot be used.
    """
    _refuse_pool(directory)
    try:
        target = directory.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir() and own is not None and any(target.iterdir()):
            own(target)
        elif target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InputError(
                f"{at(directory)}: already exists and is not an empty directory; choose another "
                f"place, or {instead}"
            )
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise GenepoolError(f"{at(directory)}: cannot be used: {one_line(error)}") from error
    return target


def require_own_checkpoint(
    directory: Path, names: Collection[str], known: Callable[[str], bool]
) -> None:
    """Refuse to replace a directory, unless all in it is a checkpoint as genepool wrote it.

    Weights that were trained further in their place no longer say from which recipe they are.

    Args:
        directory: which holds something.
        names: of files that will be written anew, relative to it.
        known: whether a file of that name may be there besides: weights and their indices. Licences
            may, too, that its recipe says were written with it.

    Raises:
        InputError: naming what is not genepool's.
    """
    content: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        content = mapping_of(parse_json(read_bytes(directory / RECIPE, _LARGEST)))
    genome = content.get("genome")
    licences = [each for each in list_of(content.get("licences")) if is_licence(str(each))]
    if not isinstance(genome, str):
        raise _not_own(directory, f"a checkpoint that genepool wrote: it has no {RECIPE}")
    for place in sorted(directory.rglob("*")):
        name = place.relative_to(directory).as_posix()
        if place.is_dir() and not place.is_symlink():
            continue
        expected = name in names or name in licences or known(name)
        if not expected or place.is_symlink() or not place.is_file():
            raise _not_own(directory, f"all genepool's: '{one_line(name)}' would be lost")
        if name not in names and place.suffix == ".safetensors":
            try:
                written = map_file(place).metadata.get("genepool.genome")
            except CheckpointError:
                written = None
            if written != genome:
                raise _not_own(directory, f"as genepool wrote it: '{one_line(name)}' was changed")


def refuse_pool_directory(directory: Path) -> None:
    """Refuse a directory that is a pool, for what writes several files of its own into one.

    Raises:
        InputError: it is.
    """
    if (directory / DATABASE).exists():
        raise InputError(f"{at(directory)}: is a pool; choose another directory")


def _not_own(directory: Path, what: str) -> InputError:
    return InputError(
        f"{at(directory)}: is not {what}; only a checkpoint that genepool wrote is replaced: "
        "choose another place, or remove it first"
    )


def _other(file: Path, kind: Kind) -> InputError:
    return InputError(
        f"{at(file)}: is there already, and is not {kind.name} that genepool wrote; only such a "
        "one is replaced: choose another name, or remove it first"
    )


def _refuse_pool(path: Path) -> None:
    """Refuse the names that a pool uses itself, also while there is no such file."""
    try:
        target = path.resolve()
        taken = target.name.startswith(DATABASE) or target.name in _POOL
        if taken and (target.parent / DATABASE).exists():
            raise InputError(
                f"{at(path)}: is a file of the pool {at(target.parent)}; choose another name"
            )
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise GenepoolError(f"{at(path)}: cannot be used: {one_line(error)}") from error
