"""genepool breeds better models out of models that already exist.

Everything here is imported when first used, so that `import genepool` and commands that only read
a pool start at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genepool.core.niches import attraction, coverage, entropy, fitness, survivor
    from genepool.core.slerp import merge_vectors
    from genepool.errors import GenepoolError
    from genepool.evaluate.base import evaluator
    from genepool.run.evolve import evolve
    from genepool.run.export import export, rebuild
    from genepool.run.merge import blend, merge
    from genepool.run.pool import Pool

__version__ = "0.1.0"

_WHERE = {
    "GenepoolError": "genepool.errors",
    "Pool": "genepool.run.pool",
    "attraction": "genepool.core.niches",
    "blend": "genepool.run.merge",
    "coverage": "genepool.core.niches",
    "entropy": "genepool.core.niches",
    "evaluator": "genepool.evaluate.base",
    "evolve": "genepool.run.evolve",
    "export": "genepool.run.export",
    "fitness": "genepool.core.niches",
    "merge": "genepool.run.merge",
    "merge_vectors": "genepool.core.slerp",
    "rebuild": "genepool.run.export",
    "survivor": "genepool.core.niches",
}

__all__ = [
    "GenepoolError",
    "Pool",
    "attraction",
    "blend",
    "coverage",
    "entropy",
    "evaluator",
    "evolve",
    "export",
    "fitness",
    "merge",
    "merge_vectors",
    "rebuild",
    "survivor",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'genepool' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
