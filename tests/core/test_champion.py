"""Who is champion is one rule, whether asked one by one or of all at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from genepool.core.champion import first_best, leads


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.5000000000000001, 1.0]), min_size=1))
def test_one_by_one_and_all_at_once_agree(means: list[float]) -> None:
    champion, best = 0, None
    for member, mean in enumerate(means):
        if leads(mean, best):
            champion, best = member, mean
    assert champion == first_best(dict(enumerate(means)))
    # The order in which a database gives its rows does not matter.
    assert champion == first_best(dict(reversed(list(enumerate(means)))))


def test_of_equals_the_first() -> None:
    assert first_best({7: 0.5, 3: 0.5, 9: 0.25}) == 3
    assert not leads(0.5, 0.5)
    assert leads(0.0, None)
