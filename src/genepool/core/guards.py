"""Guards: what a child must not lose, whatever it gains.

A guard is a task that nobody competes for. It only bounds how far a child may fall below the best
seed before it is turned away.
"""

from __future__ import annotations

from collections.abc import Sequence

# What two means of the same scores may differ by in the last places, such as 0.8 - 0.1 and 0.7.
_ROUNDING = 1e-9


def least(seeds: Sequence[float], tolerance: float) -> float:
    """Least mean score that an admitted child may have on a guard.

    Args:
        seeds: mean score of each seed on it, in [0, 1]; at least one.
        tolerance: how far below the best of them a child may fall, at least 0.
    """
    return max(0.0, max(seeds) - tolerance)


def holds(mean: float, bound: float) -> bool:
    """Whether a mean score is at least as high as a bound of `least`."""
    return mean >= bound - _ROUNDING
