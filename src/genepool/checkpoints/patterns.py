"""Regular expressions from users and files, matched in bounded time."""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable
from typing import Any

from genepool.errors import InputError
from genepool.messages import one_line

_LONGEST = 1000
# For all names of a model together; matching one takes microseconds.
_SECONDS = 5.0


def whole_match(pattern: str) -> Callable[[str], bool]:
    """A test whether a regular expression matches a whole text.

    Python's own engine can take for ever over a few dozen letters, as for `(a+)+b`. This is the one
    that pydantic brings, https://docs.rs/regex: its time is linear in the text, and it knows
    neither look-around nor back-references. Patterns with these are matched by the package regex,
    where that is installed (transformers brings it), which gives up after a while: the test then
    raises InputError.

    Raises:
        ValueError: it is none, it is too long, or it cannot be matched in bounded time.
    """
    from pydantic_core import SchemaError, SchemaValidator, core_schema

    if len(pattern) > _LONGEST:
        raise ValueError(f"{len(pattern)} characters are too many; at most {_LONGEST}")
    try:
        # By itself first: a stray bracket could close the one that is put around it.
        for text in (pattern, rf"\A(?:{pattern})\z"):
            schema = core_schema.str_schema(pattern=text, regex_engine="rust-regex")
            found = SchemaValidator(schema)
    except SchemaError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1].removeprefix("error: ")
        if reason.startswith(("look-around", "backreferences")):
            return _guarded(pattern)
        raise ValueError(reason) from None
    return found.isinstance_python


def _guarded(pattern: str) -> Callable[[str], bool]:
    """By an engine that may take for ever, and is stopped then."""
    try:
        re.compile(pattern)  # What regex knows besides is no part of what is promised.
        compiled: Any = importlib.import_module("regex").compile(pattern)
    except ImportError:
        raise ValueError(
            "look-around and back-references need the package regex (pip install regex); without "
            "it, let a chromosome that comes first take what this pattern is to leave out"
        ) from None
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(one_line(error)) from None
    left = _SECONDS

    def test(text: str) -> bool:
        nonlocal left
        started = time.monotonic()
        try:
            return compiled.fullmatch(text, timeout=max(left, 1e-3)) is not None
        except (TimeoutError, MemoryError):
            raise InputError(
                f"the regular expression '{one_line(pattern)}' takes too long to match "
                f"'{one_line(text)}'; write it without look-around and back-references: a "
                "chromosome that comes first takes what a later one is to leave out"
            ) from None
        finally:
            left -= time.monotonic() - started

    return test
