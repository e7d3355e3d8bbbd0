"""What the sections of a run file have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Part of a run file: unknown keys and wrong types are errors, values never change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def as_recorded(options: BaseModel, exclude: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Options as a pool keeps them: what JSON holds, and of paths and dates the text.

    Args:
        options: with what stands for each.
        exclude: of them, as pydantic takes it.
    """

    def plain(value: Any) -> Any:
        return cast("Any", value).item() if isinstance(value, np.generic) else str(value)

    given = options.model_dump(exclude=None if exclude is None else dict(exclude))
    return json.loads(json.dumps(given, default=plain))
