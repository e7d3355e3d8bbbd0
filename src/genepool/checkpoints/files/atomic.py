"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from genepool.errors import WriteError
from genepool.messages import at


def temporary_sibling(path: Path) -> Path:
    """A hidden, unused name in the directory of `path`."""
    return path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.tmp")


def sync_directory(directory: Path) -> None:
    """Make renames in a directory durable, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put_directory(new: Path, target: Path) -> None:
    """Give a directory its name. One that has it is removed afterwards; until the new one has taken
    its place, it only has another name.

    Raises:
        OSError: it cannot be done; after this, as after Ctrl-C, the directory that had the name has
            it still.
    """
    old = temporary_sibling(target).with_suffix(".old")
    replaced = target.is_dir() and any(target.iterdir())
    try:
        if replaced:
            target.rename(old)
        new.rename(target)
    except BaseException:  # Ctrl-C too
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    if replaced:
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def new_directory(target: Path) -> Generator[Path, None, None]:
    """A directory beside `target`, to be filled and to be given that name; removed at the end where
    it was not. What others have left there that were killed is removed first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    temporary = temporary_sibling(target)
    making = temporary.with_suffix(".new")
    try:
        making.mkdir()
        # Locked before it has the name of a leftover.
        with _locked(making):
            making.rename(temporary)
            yield temporary
    finally:
        for left in (making, temporary):
            shutil.rmtree(left, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed have left on the way to a name: all that nobody has
    locked. Where there are no locks it stays."""
    name = re.compile(rf"\.{re.escape(path.name[:100])}\.[0-9a-f]{{12}}\.(tmp|old)")
    with contextlib.suppress(OSError):
        for left in path.parent.iterdir():
            # What had the name before is all that there is until another has it.
            if not name.fullmatch(left.name) or (left.suffix == ".old" and not path.exists()):
                continue
            with contextlib.suppress(OSError), _locked(left) as held:
                if held and left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                elif held:
                    left.unlink()


@contextlib.contextmanager
def _locked(place: Path) -> Generator[bool, None, None]:
    """Held until this process has left it or has ended, in whatever way.

    Yields:
        Whether it is held; not if another has it, or the file system has no locks.
    """
    if os.name != "posix":
        yield False
        return
    import fcntl

    handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        held = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            held = False
        yield held
    finally:
        os.close(handle)


@contextlib.contextmanager
def whole_file(path: Path) -> Generator[BinaryIO, None, None]:
    """A new file to write to, which takes its name, or the place of one of that name, when it is
    whole and on the disk; nothing is left of it where that fails."""
    temporary = temporary_sibling(path)
    try:
        with temporary.open("xb") as file, _locked(temporary):
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write or replace a file: a temporary sibling, fsync, rename; its mode is the umask's.

    Raises:
        WriteError: the file cannot be written (no space, no permission, no such directory).
    """
    try:
        with whole_file(path) as file:
            file.write(data)
    except OSError as error:
        raise WriteError(f"{at(path)}: cannot be written: {error.strerror}") from error
