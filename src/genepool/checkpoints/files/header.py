"""The head of a safetensors file that is written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from genepool.checkpoints.files.dtypes import DTYPES

Entry = tuple[str, str, tuple[int, ...]]


def header(entries: Sequence[Entry], metadata: Mapping[str, str]) -> tuple[bytes, tuple[int, ...]]:
    """The head of a file that holds these tensors one after another; equal input, equal bytes.

    Args:
        entries: (name, dtype, shape) in the order of their bytes; wider dtypes first keeps every
            tensor aligned.
        metadata: `__metadata__`, left out if empty.

    Returns:
        The head, a multiple of 8 bytes, and where in the file each tensor begins.
    """
    content: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    starts: list[int] = []
    position = 0
    for name, dtype, shape in entries:
        starts.append(position)
        stop = position + DTYPES[dtype].size * math.prod(shape)
        content[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [position, stop],
        }
        position = stop
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return head, tuple(len(head) + start for start in starts)
