"""Which cases of a test run in `make test`; `make test-all` runs the others as well."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def quick(values: Iterable[Any], chosen: Iterable[int] = (0,)) -> list[Any]:
    """Values for `parametrize`: those at the chosen positions, and all others marked as slow."""
    kept = set(chosen)
    return [
        value if number in kept else pytest.param(value, marks=pytest.mark.slow)
        for number, value in enumerate(values)
    ]
