"""Weights that sum to 0 but for rounding, as 0.1, 0.2 and -0.3 do: no divisor."""

from __future__ import annotations

import math
from collections.abc import Sequence

CANCELLED = 1e-6
"""Weights whose sum is at most this share of the sum of their absolute values sum to zero."""


def cancels(weights: Sequence[float]) -> bool:
    """Whether finite numbers sum to 0, give or take `CANCELLED`."""
    # Relative to the largest, so that no sum overflows.
    largest = max(map(abs, weights)) or 1.0
    shares = [weight / largest for weight in weights]
    return abs(math.fsum(shares)) <= CANCELLED * math.fsum(map(abs, shares))
