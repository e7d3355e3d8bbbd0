"""Who is champion: the best by mean selection score, the first of equals. Nobody else decides it.

What follows members in the order of their ids asks with `leads` of one after the other, all else
with `first_best` of several at once; both give the same member.
"""

from __future__ import annotations

from collections.abc import Mapping


def leads(train: float, champion: float | None) -> bool:
    """Whether a later member is better than the champion so far.

    Args:
        train: mean selection score of the later member, in [0, 1].
        champion: that of the champion so far; None where there is none.
    """
    return champion is None or train > champion


def first_best(means: Mapping[int, float]) -> int:
    """The id of the member with the highest mean; of equals the one with the lowest id.

    Args:
        means: mean selection scores by id, at least one.
    """
    return min(means, key=lambda member: (-means[member], member))
