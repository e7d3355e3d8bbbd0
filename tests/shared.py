"""Where tests find the reference numbers and data that lie outside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_CHECKOUT = Path(__file__).resolve().parents[1]


def shared(path: str) -> Path:
    """The file or folder `path` of shared/, or skip the test where it is absent.

    shared/ is the folder that GENEPOOL_SHARED names, else the one beside the checkout.
    """
    root = Path(os.environ.get("GENEPOOL_SHARED") or _CHECKOUT.parent / "shared")
    found = root / path
    if not found.exists():
        pytest.skip(f"needs {path} of the shared folder (set GENEPOOL_SHARED); looked in {root}")
    return found
