"""Strategies: who mates with whom, how, and who survives. Pure: state in, state out."""

from genepool.core.strategies.base import (
    REJECTED,
    Drawn,
    Group,
    Outcome,
    Past,
    Plan,
    Problem,
    Proposal,
    Strategy,
    breed,
)
from genepool.core.strategies.blind import Blind
from genepool.core.strategies.niches import Niches

__all__ = [
    "REJECTED",
    "Blind",
    "Drawn",
    "Group",
    "Niches",
    "Outcome",
    "Past",
    "Plan",
    "Problem",
    "Proposal",
    "Strategy",
    "breed",
]
