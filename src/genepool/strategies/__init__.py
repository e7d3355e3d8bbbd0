"""Strategies: who mates with whom, how, and who survives. Pure: state in, state out."""

from genepool.strategies.base import (
    REJECTED,
    Drawn,
    Outcome,
    Past,
    Plan,
    Problem,
    Proposal,
    Strategy,
    breed,
)
from genepool.strategies.baselines import Blind
from genepool.strategies.m2n2 import Niches

__all__ = [
    "REJECTED",
    "Blind",
    "Drawn",
    "Niches",
    "Outcome",
    "Past",
    "Plan",
    "Problem",
    "Proposal",
    "Strategy",
    "breed",
]
