"""What lies beside the weights, read as plain JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from genepool.errors import CheckpointError
from genepool.weights.mapped import refuse_duplicates
from genepool.weights.wording import at, one_line

_MAX = 200_000_000


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
    """
    try:
        if path.stat().st_size > _MAX:
            raise CheckpointError(f"{at(path)}: over {_MAX // 10**6} MB; is this the right file?")
        content: Any = json.loads(path.read_bytes(), object_pairs_hook=refuse_duplicates)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{at(path)}: cannot be read as JSON: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{at(path)}: expected a JSON object; got {type(content).__name__}")
    return cast("dict[str, Any]", content)
