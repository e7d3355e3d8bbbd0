"""Models by URL (s3://, gs://, https:// and what else fsspec opens), copied once into the cache.

The only file that imports fsspec. A copy is named by what the store says of all files (ETag, date,
size), so that a model that changes there is another copy here; who opens it compares digests.
"""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import importlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from genepool.checkpoints.fetching import fetching
from genepool.checkpoints.files import hub
from genepool.checkpoints.files.atomic import sync_directory
from genepool.checkpoints.files.cache import cache_directory, cannot_write, held_alone
from genepool.errors import CheckpointError, GenepoolError, MissingExtraError
from genepool.messages import failures_as, one_line, spoken

_FORMAT = "genepool copy of a url 1"
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://[^\s?#]+", re.ASCII)
_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")
# What the last part of a file's URL ends in; all others are folders.
_FILES = (".safetensors", ".gguf")
# Parts of names, as they become names here: neither hidden, nor "..", nor with a separator.
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+ -]*", re.ASCII)
_MOST_LISTED, _MOST_FILES, _MOST_FOLDERS = 10_000, 1000, 50
# What stores call that which tells one content of a file from another, in small letters alone.
_MARKS = {
    "etag", "md5hash", "contentmd5", "crc32c", "generation", "versionid", "lastmodified", "updated",
    "modified", "modify", "mtime", "created", "checksum", "digest", "blobid",
}  # fmt: skip
_ABREAST = 8
# A disk that is full to the last byte stops more than this.
_SPARE = 2**30
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_SECONDS = 120.0

_T = TypeVar("_T")


def is_url(text: str) -> bool:
    """Whether a text is meant as a URL; a path never holds `://`."""
    return "://" in text


def require_url(text: str) -> None:
    """Refuse what is no URL of a store, and what pools would keep though it is secret.

    Raises:
        CheckpointError: saying what is expected.
    """
    quoted = f"'{one_line(text)}'"
    if re.match(r"hf://|https?://(www\.)?(huggingface\.co|hf\.co)/", text):
        raise CheckpointError(
            f"{quoted}: is an address of the Hugging Face Hub; give the model's id there as "
            "org/name or org/name@revision"
        )
    if _PASSWORD.search(text) or "?" in text:
        # What stands behind a question mark is a signature as a rule: the text is not repeated.
        raise CheckpointError(
            f"the URL '{one_line(re.sub('[^/]*@', '', text).partition('?')[0])}' holds a password, "
            "or a question mark, behind which signatures stand, and pools keep the paths of seeds; "
            "give credentials in the environment, as fsspec takes them"
        )
    if "::" in text or _URL.fullmatch(text) is None:
        raise CheckpointError(
            f"{quoted}: is no path and no URL; expected one such as s3://BUCKET/FOLDER or "
            "https://HOST/model.safetensors"
        )


def fetch(url: str, variant: str) -> Path:
    """The folder of a model, or the file, copied into the cache unless it is there as it is now.

    Several processes may ask at once: one copies, the others wait. What was copied whole before a
    crash is not copied again.

    Args:
        url: of a folder as `hub.fetch` knows them, or of a file that ends in `.safetensors` or
            `.gguf`.
        variant: of a pipeline's weights, such as "fp16".

    Raises:
        CheckpointError: there is nothing, it may not be read or changes meanwhile, or the store
            cannot be reached.
        MissingExtraError: fsspec, or its package for this kind of store, is not installed.
        GenepoolError: the cache cannot be written, or has no room.
    """
    require_url(url)
    what = f"'{url}': cannot be fetched"
    with failures_as(CheckpointError, what, passing=GenepoolError, told=spoken):
        return _Store(url.rstrip("/")).copy(variant)


@dataclass(frozen=True, slots=True)
class _File:
    """What a store says of a file."""

    path: str
    size: int
    marks: tuple[tuple[str, str], ...]


class _Store:
    """A file system of fsspec, at one URL."""

    def __init__(self, url: str) -> None:
        try:
            fsspec: Any = importlib.import_module("fsspec")
        except ImportError:
            raise MissingExtraError("fsspec", "url", f"the seed '{url}'") from None
        self._url, self._callback = url, fsspec.callbacks.Callback
        self._stopped = threading.Event()
        protocol = url.partition("://")[0]
        configured: dict[str, Any] = fsspec.config.conf.get(protocol, {})
        options: dict[str, Any] = {}
        try:
            if protocol in ("http", "https") and "client_kwargs" not in configured:
                # Its own limit is five minutes for a whole file.
                aiohttp: Any = importlib.import_module("aiohttp")
                limit = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=_SECONDS)
                options["client_kwargs"] = {"timeout": limit}
            found: tuple[Any, str] = fsspec.core.url_to_fs(url, **options)
        except ImportError as error:
            raise CheckpointError(
                f"'{url}': fsspec needs another package for '{protocol}://': {one_line(error)}"
            ) from None
        except ValueError as error:
            raise CheckpointError(f"'{url}': {one_line(error)}") from None
        self._system, self._root = found

    def copy(self, variant: str) -> Path:
        """See `fetch`."""
        name = self._root.rstrip("/").rpartition("/")[2]
        name = name if _PART.fullmatch(name) else "model"
        if self._url.endswith(_FILES):
            files = {name: self._root}
        else:
            files = {f"{name}/{part}": path for part, path in self._listed().items()}
        if len(files) > _MOST_FILES:
            raise CheckpointError(f"'{self._url}': holds {len(files)} files; is this one model?")
        known = dict(zip(files, self._each(self._look, list(files.values())), strict=True))
        key = json.dumps(
            [_FORMAT, self._url, [[n, f.size, f.marks] for n, f in sorted(known.items())]]
        )
        home = cache_directory() / "urls" / hashlib.sha256(key.encode()).hexdigest()[:32]
        if self._url.endswith(_FILES):
            self._get(home, known)
            return home / name

        def get(wanted: Sequence[str], unwanted: Sequence[str]) -> Path:
            chosen = {n: f for n, f in known.items() if _fits(n.partition("/")[2], wanted)}
            self._get(
                home,
                {n: f for n, f in chosen.items() if not _fits(n.partition("/")[2], unwanted)},
            )
            return home / name

        return hub.fetch_model(get, variant)

    def _listed(self) -> dict[str, str]:
        """Name -> path of the files in the folder and in the folders in it, as far as they matter.

        Raises:
            CheckpointError: there are none, or too many.
        """
        self._system.invalidate_cache()
        found: dict[str, str] = {}
        # A server of pages lists a folder where its address ends in a slash.
        waiting, seen = [self._root.rstrip("/") + "/"], 0
        for depth in (0, 1):
            folders: list[str] = []
            for folder in waiting:
                try:
                    entries: list[Mapping[str, Any]] = self._system.ls(folder, detail=True)
                except (FileNotFoundError, NotADirectoryError):
                    entries = []
                seen += len(entries)
                if seen > _MOST_LISTED:
                    raise CheckpointError(
                        f"'{self._url}': holds over {_MOST_LISTED} entries; is this one model?"
                    )
                for entry in entries:
                    path = str(entry["name"])
                    name = self._name(path)
                    if name is None or name.count("/") != depth:
                        continue
                    if entry.get("type") == "directory":
                        folders.append(path.rstrip("/") + "/")
                    elif _fits(name, hub.PATTERNS):
                        found[name] = path
            waiting = folders[:_MOST_FOLDERS]
        if not found:
            raise CheckpointError(
                f"'{self._url}': no such folder, or it holds no model that can be listed; a single "
                f"file ends in {' or '.join(_FILES)}"
            )
        return found

    def _name(self, path: str) -> str | None:
        """Of a path that is listed: what it is called below the root; None for a strange one."""
        root = self._root.rstrip("/") + "/"
        name = path.rstrip("/").removeprefix(root)
        parts = name.split("/")
        safe = path.startswith(root) and all(_PART.fullmatch(part) for part in parts)
        return name if safe else None

    def _look(self, path: str) -> _File:
        self._system.invalidate_cache()
        try:
            told: Mapping[str, Any] = self._system.info(path)
        except FileNotFoundError:
            raise CheckpointError(f"'{self._url}': there is no {one_line(path)}") from None
        marks = {
            name: str(value)
            for key, value in told.items()
            if (name := re.sub("[^a-z0-9]", "", key.lower())) in _MARKS and value
        }
        size = told.get("size")
        if not isinstance(size, int) or not marks:
            raise CheckpointError(
                f"'{self._url}': the server says neither ETag nor date of {one_line(path)}, or not "
                "its size, so that a copy could not be told from an older one; download it"
            )
        return _File(path, size, tuple(sorted(marks.items())))

    def _get(self, home: Path, files: Mapping[str, _File]) -> None:
        """Copy what is not there yet."""

        def missing() -> dict[str, _File]:
            return {n: file for n, file in files.items() if _size(home / n) != file.size}

        if not missing():
            return
        try:
            home.parent.mkdir(parents=True, exist_ok=True)
            with held_alone(home, f"'{self._url}' is being copied"):
                wanted = missing()
                needed = sum(file.size for file in wanted.values())
                if (free := shutil.disk_usage(home.parent).free) < needed + _SPARE:
                    raise GenepoolError(
                        f"'{self._url}' takes {needed / 1e9:.1f} GB, and {home.parent} has "
                        f"{free / 1e9:.1f} GB free; delete copies there that no run uses, or set "
                        "GENEPOOL_CACHE to a folder with room"
                    )
                for name in wanted:
                    (home / name).parent.mkdir(parents=True, exist_ok=True)

                received, one = dict.fromkeys(wanted, 0), threading.Lock()
                with fetching(f"fetching {self._url}") as advance:

                    def copy(name: str) -> None:
                        def tell(size: int) -> None:
                            with one:
                                received[name] = size
                                advance(sum(received.values()) / needed)

                        self._get_file(home / name, wanted[name], tell)

                    self._each(copy, list(wanted))
        except OSError as error:
            place = home if home.is_dir() else home.parent
            writable = place.is_dir() and os.access(place, os.W_OK)
            if error.errno not in _NO_ROOM and writable:
                raise
            raise cannot_write(home, error) from error

    def _get_file(self, target: Path, file: _File, tell: Callable[[int], None]) -> None:
        def check(_: object, received: int) -> None:
            if self._stopped.is_set():
                raise InterruptedError("the copying of another file has failed")
            if received > file.size:
                raise self._changed(file)
            if received:
                tell(received)

        partial = target.with_name(f".{target.name[:100]}.part")
        bounded = self._callback(hooks={"check": check})
        try:
            self._system.get_file(file.path, str(partial), callback=bounded)
            if self._look(file.path) != file or _size(partial) != file.size:
                raise self._changed(file)
            with partial.open("rb") as handle:
                os.fsync(handle.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        sync_directory(target.parent)

    def _changed(self, file: _File) -> CheckpointError:
        return CheckpointError(
            f"'{self._url}': {one_line(file.path)} was changed while it was fetched, or came with "
            "another size than the server says; run the same command again"
        )

    def _each(self, do: Callable[[str], _T], items: list[str]) -> list[_T]:
        """Several at a time; the first that fails, or Ctrl-C, ends the others."""
        self._stopped = threading.Event()
        with ThreadPoolExecutor(_ABREAST) as threads:
            try:
                running = [threads.submit(do, item) for item in items]
                done, _ = wait(running, return_when=FIRST_EXCEPTION)
                for one in done:
                    one.result()
                return [one.result() for one in running]
            except BaseException:
                self._stopped.set()
                threads.shutdown(wait=False, cancel_futures=True)
                raise


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _size(path: Path) -> int:
    """Bytes of a file; -1 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
