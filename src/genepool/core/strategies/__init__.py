"""Strategies: who mates with whom, how, and who survives. Pure: state in, state out."""

from genepool.core.strategies.base import (
    REJECTED,
    Outcome,
    Plan,
    Problem,
    Proposal,
    Strategy,
    breed,
)
from genepool.core.strategies.niches import Niches

__all__ = [
    "REJECTED",
    "Niches",
    "Outcome",
    "Plan",
    "Problem",
    "Proposal",
    "Strategy",
    "breed",
]
