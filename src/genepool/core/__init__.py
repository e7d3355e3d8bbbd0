"""Pure core: what a merge is, who competes, who mates, who survives. numpy only, no I/O."""

from genepool.core.competition import (
    attraction,
    best_capacity,
    coverage,
    entropy,
    fitness,
    survivor,
)
from genepool.core.slerp import merge_vectors

__all__ = [
    "attraction",
    "best_capacity",
    "coverage",
    "entropy",
    "fitness",
    "merge_vectors",
    "survivor",
]
