"""Guards: the bound that follows from the seeds, and who is below it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from genepool.pool.guards import holds, least

SCORES = st.floats(0, 1)


def test_by_hand() -> None:
    assert least([0.5, 0.75], 0.25) == 0.5
    assert least([0.1], 0.5) == 0.0
    assert holds(0.5, 0.5)
    assert not holds(0.4999, 0.5)


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
