"""Digests of checkpoints, remembered by what the file system says of their files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, cast

from genepool.checkpoints.files.atomic import write_bytes
from genepool.checkpoints.files.cache import shared_cache
from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.files.safetensors import MappedFile, Stamp
from genepool.documents import read_json
from genepool.errors import CheckpointError, GenepoolError
from genepool.messages import at, one_line

FILE, _INSTEAD = "digests.json", "genepool-digests.json"
_MAX = 100_000_000
_MOST = 1000
_SAMPLES, _WIDTH = 16, 256
# Bytes from which on the digest of a file is remembered: smaller ones are read in no time.
_LARGE = 2**26
_lock = Lock()


def remember_digests(
    checkpoints: Sequence[Checkpoint], renames: Sequence[Mapping[str, str]], cache: Path
) -> list[str]:
    """The checkpoints' digests; read are only those whose files are new or have changed.

    Args:
        checkpoints: opened; from here on their `digest` costs nothing.
        renames: of each, the prefixes of tensor names that were replaced: renaming changes a
            digest and no file.
        cache: existing folder; in its file `digests.json` up to 1000 digests are known by path,
            size and dates of the files, and a sample of their bytes. It is safe to delete. Where
            that is somebody else's file, or damaged, they are in `genepool-digests.json`.

    Raises:
        CheckpointError: a file was changed while it was read, or is gone.
        WriteError: the cache cannot be written; the digests are known all the same.
    """
    place = _place(cache)
    known = _read(place) or {}
    kept = dict(known)
    for checkpoint, rename in zip(checkpoints, renames, strict=True):
        stamp = _stamp(checkpoint, rename)
        if stamp in kept:
            checkpoint.remember_digest(kept.pop(stamp))
        kept[stamp] = checkpoint.digest()
        checkpoint.look()
    if kept.keys() != known.keys():
        _write(place, kept)
    return [checkpoint.digest() for checkpoint in checkpoints]


def copies(names: Sequence[str], digests: Sequence[str]) -> tuple[str, ...]:
    """A line for each seed that holds the same tensors as one before it."""
    first: dict[str, str] = {}
    return tuple(
        f"seed '{one_line(name)}' holds the very tensors of '{one_line(first[digest])}': was "
        "another model meant?"
        for name, digest in zip(names, digests, strict=True)
        if first.setdefault(digest, name) != name
    )


def recall_digests(
    checkpoints: Sequence[Checkpoint], renames: Sequence[Mapping[str, str]], cache: Path
) -> None:
    """Let checkpoints know the digests that `remember_digests` left in a folder; writes nothing."""
    known = _read(_place(cache)) or {}
    for checkpoint, rename in zip(checkpoints, renames, strict=True):
        if digest := known.get(_stamp(checkpoint, rename)):
            checkpoint.remember_digest(digest)


def file_digest(path: Path | bytes) -> str:
    """SHA-256 of a whole file, or of what is to be in one, as 64 hex digits.

    A large one is read only where it is new or has changed: its digest is known by path, size and
    dates in the cache of all runs, if there is one that can be written.

    Raises:
        OSError: it cannot be read.
    """
    if isinstance(path, bytes):
        return hashlib.sha256(path).hexdigest()
    with path.open("rb") as file:
        stamp = Stamp.of(os.fstat(file.fileno()))
        cache = shared_cache() if stamp.size >= _LARGE else None
        key = f"file|{_known(path.absolute(), stamp, partial(_piece_of, file))}"
        if cache is not None and (found := (_read(_place(cache)) or {}).get(key)):
            return found
        file.seek(0)
        digest, block = hashlib.sha256(), bytearray(2**20)
        while size := file.readinto(block):
            digest.update(memoryview(block)[:size])
        whole = Stamp.of(os.fstat(file.fileno())) == stamp
    if cache is not None and whole:
        with _lock, contextlib.suppress(GenepoolError, OSError):
            place = _place(cache)
            _write(place, {**(_read(place) or {}), key: digest.hexdigest()})
    return digest.hexdigest()


def known_file(path: Path) -> str:
    """What a file is known by where something that was made of it is remembered: its path, size and
    dates, and a sample of its bytes.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        stamp = Stamp.of(os.fstat(file.fileno()))
        return _known(path.resolve(), stamp, partial(_piece_of, file))


def known_mapped(file: MappedFile) -> str:
    """As `known_file`, of a file that was opened, whatever lies at its path by now.

    Raises:
        CheckpointError: it has been cut short.
    """
    file.check()
    content = memoryview(file.mapping)
    return _known(file.place, file.stamp, lambda place: content[place : place + _WIDTH])


def _write(place: Path, digests: Mapping[str, str]) -> None:
    """Keep the latest digests."""
    latest = dict(list(digests.items())[-_MOST:])
    write_bytes(place, json.dumps(latest, indent=1).encode())


def _place(cache: Path) -> Path:
    return cache / (_INSTEAD if _read(cache / FILE) is None else FILE)


def _read(file: Path) -> dict[str, str] | None:
    """What a cache holds; None where something else is there under its name, or it is damaged."""
    try:
        content: Any = read_json(file, _MAX)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        return None
    entries = cast("dict[str, Any]", content if isinstance(content, dict) else {"": None})
    whole = all(isinstance(value, str) and len(value) == 64 for value in entries.values())
    return entries if whole else None


def _stamp(checkpoint: Checkpoint, rename: Mapping[str, str]) -> str:
    """Of the files that were opened, whatever lies at their paths by now."""
    parts: list[str] = [json.dumps(dict(rename))] if rename else []
    parts += map(known_mapped, checkpoint.files)
    if set(checkpoint.tensors) != {name for file in checkpoint.files for name in file.tensors}:
        # What was left out or renamed when it was opened changes a digest and no file, too.
        names = json.dumps(sorted(checkpoint.tensors)).encode()
        parts.append(hashlib.sha256(names).hexdigest()[:16])
    return "|".join(parts)


def _piece_of(file: BinaryIO, place: int) -> bytes:
    file.seek(place)
    return file.read(_WIDTH)


def _known(path: Path, stamp: Stamp, read: Callable[[int], bytes | memoryview]) -> str:
    """See `known_file`; `read` gives a few bytes at a place.

    Images of containers give all files one date, and fine-tunes of one model have one size.
    """
    places = [stamp.size * part // _SAMPLES for part in range(_SAMPLES)]
    sampled = b"".join(read(place) for place in (*places, max(0, stamp.size - _WIDTH)))
    sample = hashlib.sha256(sampled).hexdigest()[:16]
    return f"{path}:{stamp.size}:{stamp.modified}:{stamp.changed}:{sample}"


# Of the files of checkpoints, by absolute path.
Stamps = dict[Path, Stamp]


def stamps(checkpoints: Sequence[Checkpoint]) -> Stamps:
    """Which files were opened, to be compared where they are opened again."""
    return {file.place: file.stamp for checkpoint in checkpoints for file in checkpoint.files}


def require_stamps(checkpoints: Sequence[Checkpoint], expected: Stamps) -> None:
    """Refuse checkpoints that were not opened from the very same files.

    Raises:
        CheckpointError: naming the file that is another.
    """
    found = stamps(checkpoints)
    for place in sorted({*found, *expected}):
        if found.get(place) != expected.get(place):
            raise CheckpointError(
                f"{at(place)}: the file was changed or replaced while the run began; restore "
                "it and run again"
            )
