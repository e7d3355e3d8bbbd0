"""Regular expressions from users and files, matched in time that only grows with their length."""

from __future__ import annotations

from collections.abc import Callable

_LONGEST = 1000


def whole_match(pattern: str) -> Callable[[str], bool]:
    """A test whether a regular expression matches a whole text.

    Python's own engine can take for ever over a few dozen letters, as for `(a+)+b`. This is the one
    that pydantic brings, https://docs.rs/regex: its time is linear in the text, and it knows
    neither look-around nor back-references.

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
        raise ValueError(lines[-1].removeprefix("error: ")) from None
    return found.isinstance_python
