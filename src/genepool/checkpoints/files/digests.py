"""Digests of checkpoints, remembered by what the file system says of their files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from genepool.checkpoints.files.atomic import write_bytes
from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.documents import read_json
from genepool.errors import CheckpointError
from genepool.messages import at, one_line

FILE = "digests.json"
_MAX = 100_000_000
_MOST = 1000


def remember_digests(
    checkpoints: Sequence[Checkpoint], renames: Sequence[Mapping[str, str]], cache: Path
) -> list[str]:
    """The checkpoints' digests; read are only those whose files are new or have changed.

    Args:
        checkpoints: opened; from here on their `digest` costs nothing.
        renames: of each, the prefixes of tensor names that were replaced: renaming changes a
            digest and no file.
        cache: existing folder; in its file `digests.json` up to 1000 digests are known by path,
            size and dates of the files. It is safe to delete.

    Raises:
        CheckpointError: a file has been cut short, or is gone.
        WriteError: the cache cannot be written; the digests are known all the same.
    """
    known = _read(cache / FILE)
    kept = dict(known)
    for checkpoint, rename in zip(checkpoints, renames, strict=True):
        stamp = _stamp(checkpoint, rename)
        if stamp in kept:
            checkpoint.remember_digest(kept.pop(stamp))
        digest = checkpoint.digest()
        # Files that were written to while they were read are read again the next time.
        if _stamp(checkpoint, rename) == stamp:
            kept[stamp] = digest
    if kept.keys() != known.keys():
        latest = dict(list(kept.items())[-_MOST:])
        write_bytes(cache / FILE, json.dumps(latest, indent=1).encode())
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
    known = _read(cache / FILE)
    for checkpoint, rename in zip(checkpoints, renames, strict=True):
        if digest := known.get(_stamp(checkpoint, rename)):
            checkpoint.remember_digest(digest)


def _read(file: Path) -> dict[str, str]:
    """What a cache holds; nothing, where there is none or it is damaged."""
    try:
        content: Any = read_json(file, _MAX)
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    entries = cast("dict[str, Any]", content)
    return {
        stamp: value
        for stamp, value in entries.items()
        if isinstance(value, str) and len(value) == 64
    }


def _stamp(checkpoint: Checkpoint, rename: Mapping[str, str]) -> str:
    parts: list[str] = [json.dumps(dict(rename))] if rename else []
    for file in checkpoint.files:
        try:
            stat = file.path.stat()
        except OSError as error:
            raise CheckpointError(
                f"{at(file.path)}: cannot be read ({error.strerror}); restore the file"
            ) from None
        # The date of the last change of any kind shows files that were put in place with the
        # date of others, as `cp -p` does.
        dates = f"{stat.st_mtime_ns}:{stat.st_ctime_ns}"
        parts.append(f"{file.path.absolute()}:{stat.st_size}:{dates}")
    return "|".join(parts)
