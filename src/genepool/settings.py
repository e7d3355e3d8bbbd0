"""What the sections of a run file have in common."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from genepool.errors import InputError
from genepool.faults import in_a_line
from genepool.messages import shown


def made_in_python(self: BaseModel, /, *unnamed: object, **given: Any) -> None:
    """`__init__` of settings: what is wrong with them is told in one line, as of a run file.

    Raises:
        InputError: there is no such setting, its value does not fit, or it has no name.
    """
    what = type(self).__name__
    if unnamed:
        known = ", ".join(type(self).model_fields)
        raise InputError(f"{what}: expected options by name ({known}); got {shown(unnamed[0])}")
    try:
        BaseModel.__init__(self, **{name: _number(value) for name, value in given.items()})
    except ValidationError as error:
        raise InputError(in_a_line(error, type(self), given, what)) from None


# `model_validate` does not call it: of a run file every mistake is told.
made_in_python.__pydantic_base_init__ = True  # pyright: ignore[reportFunctionMemberAccess]


def _number(value: Any) -> Any:
    """numpy's numbers as Python's, which are all that a strict setting takes."""
    return cast("Any", value).item() if isinstance(value, np.generic) else value


def as_in_a_file(value: Any) -> Any:
    """What a script says in place of a run file, as a file would say it: paths as text, numpy's
    numbers as plain ones, tuples as lists, and a strategy or another setting as its options."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, Mapping):
        given = cast("Mapping[Any, Any]", value)
        return {key: as_in_a_file(each) for key, each in given.items()}
    if isinstance(value, (list, tuple)):
        return [as_in_a_file(each) for each in cast("list[Any]", value)]
    if isinstance(value, os.PathLike):
        return os.fspath(cast("os.PathLike[str]", value))
    return _number(value)


class Section(BaseModel):
    """Part of a run file: unknown keys and wrong types are errors, values never change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    __init__ = made_in_python


def as_recorded(options: BaseModel, exclude: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Options as a pool keeps them: what JSON holds, and of paths and dates the text.

    Args:
        options: with what stands for each.
        exclude: of them, as pydantic takes it.
    """

    def plain(value: Any) -> Any:
        return _number(value) if isinstance(value, np.generic) else str(value)

    given = options.model_dump(exclude=None if exclude is None else dict(exclude))
    return json.loads(json.dumps(given, default=plain))
