"""genepool breeds better models out of models that already exist.

Everything here is imported when first used, so that `import genepool` and commands that only read
a pool start at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genepool import core as core
    from genepool import errors as errors
    from genepool import testing as testing
    from genepool.core.competition import attraction, coverage, entropy, fitness, survivor
    from genepool.core.slerp import merge_vectors
    from genepool.errors import GenepoolError
    from genepool.output.by_hand import blend, merge
    from genepool.output.rebuild import rebuild
    from genepool.pool.reader import Pool
    from genepool.run.finished.verify import export
    from genepool.strategies.cma_es import CmaEs
    from genepool.strategies.evolution import Evolution
    from genepool.strategies.ga import GA
    from genepool.strategies.m2n2 import M2N2
    from genepool.strategies.map_elites import MapElites
    from genepool.strategies.problem import Problem
    from genepool.strategies.random import RandomMerge
    from genepool.strategies.sweep import Sweep
    from genepool.tasks.task import evaluator
    from genepool.ui.functions import compare, evolve, report, show, status

__version__ = "0.1.0"

_WHERE = {
    "CmaEs": "genepool.strategies.cma_es",
    "Evolution": "genepool.strategies.evolution",
    "GA": "genepool.strategies.ga",
    "GenepoolError": "genepool.errors",
    "M2N2": "genepool.strategies.m2n2",
    "MapElites": "genepool.strategies.map_elites",
    "Pool": "genepool.pool.reader",
    "Problem": "genepool.strategies.problem",
    "RandomMerge": "genepool.strategies.random",
    "Sweep": "genepool.strategies.sweep",
    "attraction": "genepool.core.competition",
    "blend": "genepool.output.by_hand",
    "compare": "genepool.ui.functions",
    "coverage": "genepool.core.competition",
    "entropy": "genepool.core.competition",
    "evaluator": "genepool.tasks.task",
    "evolve": "genepool.ui.functions",
    "export": "genepool.run.finished.verify",
    "fitness": "genepool.core.competition",
    "merge": "genepool.output.by_hand",
    "merge_vectors": "genepool.core.slerp",
    "rebuild": "genepool.output.rebuild",
    "report": "genepool.ui.functions",
    "show": "genepool.ui.functions",
    "status": "genepool.ui.functions",
    "survivor": "genepool.core.competition",
}

__all__ = [
    "GA",
    "M2N2",
    "CmaEs",
    "Evolution",
    "GenepoolError",
    "MapElites",
    "Pool",
    "Problem",
    "RandomMerge",
    "Sweep",
    "attraction",
    "blend",
    "compare",
    "coverage",
    "entropy",
    "evaluator",
    "evolve",
    "export",
    "fitness",
    "merge",
    "merge_vectors",
    "rebuild",
    "report",
    "show",
    "status",
    "survivor",
]

# Rooms that the documents speak of: `genepool.testing.check_task` needs no import of its own.
_ROOMS = ("core", "errors", "testing")


if not TYPE_CHECKING:  # A name that is not there is one that type checkers tell.

    def __getattr__(name: str) -> Any:
        if name in _ROOMS:
            return import_module(f"genepool.{name}")
        if name not in _WHERE:
            raise AttributeError(f"module 'genepool' has no attribute {name!r}")
        return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *_ROOMS])
