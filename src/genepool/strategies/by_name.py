"""Strategies by the names that users type.

A package adds a strategy with an entry point in the group `genepool.strategies`: its name, and a
subclass of `genepool.strategies.base.Strategy` whose field `name` has that default.
"""

from __future__ import annotations

import difflib
from importlib import metadata

from genepool.errors import ConfigError
from genepool.messages import failures_as
from genepool.strategies.base import Strategy
from genepool.strategies.cma_es import CmaEs
from genepool.strategies.ga import GA
from genepool.strategies.m2n2 import M2N2
from genepool.strategies.map_elites import MapElites
from genepool.strategies.random import RandomMerge
from genepool.strategies.sweep import Sweep

GROUP = "genepool.strategies"

BUILT_IN: dict[str, type[Strategy]] = {
    "m2n2": M2N2,
    "ga": GA,
    "map-elites": MapElites,
    "cma-es": CmaEs,
    "sweep": Sweep,
    "random": RandomMerge,
}


def strategy_names() -> tuple[str, ...]:
    """The names that `find_strategy` knows, built-in ones first."""
    others = {point.name for point in metadata.entry_points(group=GROUP)}
    return (*BUILT_IN, *sorted(others - set(BUILT_IN)))


def find_strategy(name: str) -> type[Strategy]:
    """The strategy of that name.

    Raises:
        ConfigError: there is none, or the package that claims the name does not hold one.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    points = {p.value: p for p in metadata.entry_points(group=GROUP) if p.name == name}
    if not points:
        known = strategy_names()
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise ConfigError(f"there is no strategy '{name}'; {hint}known are {', '.join(known)}")
    if len(points) > 1:
        raise ConfigError(f"strategy '{name}' is claimed by {', '.join(sorted(points))}")
    (point,) = points.values()
    with failures_as(ConfigError, f"strategy '{name}' ({point.value}) cannot be loaded"):
        found = point.load()
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise ConfigError(
            f"strategy '{name}' ({point.value}): expected a subclass of "
            "genepool.strategies.base.Strategy"
        )
    return found
