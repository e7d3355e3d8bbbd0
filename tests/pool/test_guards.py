"""Guards: the bound that follows from the seeds, and who is below it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from genepool.core.archive import Verdict
from genepool.pool.guards import check, holds, least
from genepool.pool.pool_header import GuardEntry

SCORES = st.floats(0, 1)


def test_by_hand() -> None:
    assert least([0.5, 0.75], 0.25) == 0.5
    assert least([0.1], 0.5) == 0.0
    assert holds(0.5, 0.5)
    assert not holds(0.4999, 0.5)


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (1e-3, "scores 0.7500, and at least 0.7510 is needed (best seed 'a' 0.7510,"),
        (2e-5, "scores 0.75000, and at least 0.75002 is needed (best seed 'a' 0.75002,"),
        (3e-7, "scores 0.7500000, and at least 0.7500003 is needed (best seed 'a' 0.7500003,"),
    ],
)
def test_score_and_bound_are_told_apart(lost: float, said: str) -> None:
    guard = GuardEntry("safe", "", 0.0, 4)

    def score(indices: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.full(indices.size, 0.75, np.float32)

    found = check([guard], score, {"a": (0.75 + lost,)})
    assert found.verdict is Verdict.GUARDED
    assert said in (found.error or "")


@given(whole=st.integers(1, 1000), lost=st.integers(0, 1000), more=st.integers(1, 1000))
def test_exactly_the_tolerance_below_is_not_below(whole: int, lost: int, more: int) -> None:
    """Means of hundredths differ in the last places however they are written."""
    best, tolerance = whole / 1000, lost / 1000
    bound = least([best], tolerance)
    if lost <= whole:
        assert holds((whole - lost) / 1000, bound)
    if lost + more <= whole:
        assert not holds((whole - lost - more) / 1000, bound)


@given(seeds=st.lists(SCORES, min_size=1, max_size=5), tolerance=SCORES, mean=SCORES)
def test_what_holds_is_monotone(seeds: list[float], tolerance: float, mean: float) -> None:
    bound = least(seeds, tolerance)
    assert 0 <= bound <= max(seeds)
    assert holds(max(seeds), bound)
    if holds(mean, bound):
        assert holds(mean, least(seeds, min(1.0, tolerance + 0.1)))
        assert holds(min(1.0, mean + 0.1), bound)
