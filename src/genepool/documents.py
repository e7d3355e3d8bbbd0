"""Files from outside: bounded in size, depth and number, and wrong in one clear line."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any, cast

from genepool.errors import InputError
from genepool.messages import one_line

_DEPTH = 200
# Tokenizers' configurations write 10**30 for "no limit".
MAX_DIGITS = 40


class Unreadable(ValueError):
    """Why a document cannot be used, in one line, to be told behind its name.

    Attributes:
        line: on which line of the document, from 1; None where that is not known.
    """

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


def current_folder() -> Path:
    """Where relative paths of a call start from.

    Raises:
        InputError: it was removed while the process was in it.
    """
    try:
        return Path.cwd()
    except OSError:
        raise InputError(
            "the current folder is gone: change to one that exists, and try again"
        ) from None


def at_home(path: str | os.PathLike[str]) -> Path:
    """A path as a user writes it: what begins with ~ lies in a home directory.

    Raises:
        InputError: there is no such user, or no home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(
            f"'{one_line(os.fspath(path))}': there is no such home directory; a name that really "
            "begins with ~ is written ./~"
        ) from None


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a plain file of at most so many bytes.

    Raises:
        Unreadable: it is larger, or a pipe or device, which might never end, or no file can have
            such a name.
        OSError: it cannot be read.
    """
    try:
        # A pipe that nobody writes to would wait for ever to be opened.
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Unreadable("is a pipe or a device; expected a plain file")
            data = b"" if status.st_size > most else file.read(most + 1)
            if max(status.st_size, len(data)) > most:
                limit = f"{most // 10**6} MB" if most >= 10**6 else f"{most:,} bytes"
                raise Unreadable(f"is over {limit}; is this the right file?")
            return data
    except OSError:
        raise
    except ValueError as error:
        raise error if isinstance(error, Unreadable) else Unreadable(one_line(error)) from None


def read_text(path: Path, most: int) -> str:
    """The text of a plain file in UTF-8, with or without a byte order mark.

    Raises:
        Unreadable, OSError: as `read_bytes`; or it is not UTF-8.
    """
    data = read_bytes(path, most)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        kind = json.detect_encoding(data)
        what = f"is {kind.upper()}" if kind[:6] in ("utf-16", "utf-32") else "is not UTF-8 text"
        reason = f"{what} (byte {data[error.start]:#04x}); save it as UTF-8"
        raise Unreadable(reason, line) from None


def parse_json(text: str | bytes) -> Any:
    """A JSON document as plain values. An object may not repeat a key.

    Raises:
        Unreadable: it is no JSON, or nested or a number in it is out of all proportion.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text))
        value: Any = json.loads(text, object_pairs_hook=_object, parse_int=_whole_number)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            # Half of a surrogate pair, which no file or terminal takes.
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise Unreadable("is nested too deeply") from None
    except UnicodeError:
        raise Unreadable("holds characters that are not text") from None
    except ValueError as error:
        raise Unreadable(one_line(error)) from None
    _require_shallow(value)
    return value


def read_json(path: Path, most: int) -> Any:
    """A JSON file of at most so many bytes; see `parse_json`.

    Raises:
        Unreadable, OSError: as `read_bytes` and `parse_json`.
    """
    return parse_json(read_bytes(path, most))


def _require_shallow(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(_DEPTH):
        level = [part for each in level for part in _parts(each)]
        if not level:
            return
    raise Unreadable(f"is nested more than {_DEPTH} deep")


def _parts(value: Any) -> list[Any]:
    """The lists and objects in a list or object."""
    if isinstance(value, dict):
        value = list(cast("dict[str, Any]", value).values())
    if not isinstance(value, list):
        return []
    return [part for part in cast("list[Any]", value) if isinstance(part, (dict, list))]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise Unreadable(f"the name '{one_line(twice)}' occurs twice")
    return result


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise Unreadable(f"a whole number of {len(digits)} digits is too large")
    return int(digits)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def mapping_of(value: object) -> dict[str, Any]:
    """A value that should be a mapping; what is none counts as empty."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def list_of(value: object) -> list[Any]:
    """A value that should be a list; what is none counts as empty."""
    return cast("list[Any]", value) if isinstance(value, list) else []
