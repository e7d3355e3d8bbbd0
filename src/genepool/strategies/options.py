"""The options of every strategy, and the registry that finds a strategy by its name.

A package adds a strategy with an entry point in the group `genepool.strategies`: its name, and a
subclass of `StrategyOptions`. The contract of what `build` returns is
`genepool.strategies.Strategy`.
"""

from __future__ import annotations

import difflib
import importlib.util
from abc import ABC, abstractmethod
from importlib import metadata
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from genepool.core.slerp import Angle
from genepool.core.subsets import Rounds
from genepool.errors import ConfigError, MissingExtraError
from genepool.messages import cause, pass_on
from genepool.strategies import Blind, Niches, Strategy

GROUP = "genepool.strategies"


class StrategyOptions(BaseModel, ABC):
    """Base of the options of a strategy; every field has its default, range and help."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str = Field(description="which strategy")

    @property
    @abstractmethod
    def dense(self) -> bool:
        """Whether genomes are dense vectors, because noise is added or weights are drawn."""

    @property
    def rounds(self) -> Rounds | None:
        """How members compete for a part of the examples at a time; None: for all, always.

        Only where the strategy's state is an archive, and nothing hangs on where in it a member is.
        """
        return None

    @abstractmethod
    def build(self, in_flight: int) -> Strategy[Any]:
        """The strategy that these options describe, for this many children in flight.

        Raises:
            ConfigError: the options do not go together.
            MissingExtraError: it needs a package that is not installed.
        """


class _Merging(StrategyOptions):
    split_point: bool = Field(
        default=True, description="draw a split point per chromosome; false: one ratio throughout"
    )
    splits: int = Field(
        default=1,
        ge=1,
        le=100,
        description="split points per chromosome, between which the ratio and its complement take "
        "turns; 1 is the paper's",
    )
    angle: Angle = Field(
        default="global", description="SLERP angle over the whole axis, each side, or each tensor"
    )
    mutation: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="standard deviation of the noise added to a child; above 0, genomes are dense",
    )
    warmup: int = Field(
        default=0, ge=0, description="number of first children bred from random pairs of seeds"
    )

    @property
    def dense(self) -> bool:
        """With mutation."""
        return self.mutation > 0

    @property
    def drawn_splits(self) -> int:
        """Split points per chromosome; 0 for none.

        Raises:
            ConfigError: splits without split points.
        """
        if self.split_point:
            return self.splits
        if self.splits > 1:
            raise ConfigError(
                f"strategy.splits: split_point is false, so there are none; got {self.splits}"
            )
        return 0


class _Breeding(_Merging):
    archive: int = Field(default=20, ge=2, le=100_000, description="number of members that compete")
    crossover: bool = Field(default=True, description="merge two parents; false: copy one")
    risk: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="with early_stop, at most this chance that a child that belongs in the archive "
        "is turned away, to save examples; 0: never",
    )
    share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="part of the examples that members compete for at a time; below 1, others are "
        "drawn every 'renew' children, on which the whole archive is scored, and the best five of "
        "the last archive are scored on all",
    )
    renew: int = Field(
        default=100, ge=1, description="with share below 1: children until other examples are drawn"
    )

    @property
    def rounds(self) -> Rounds | None:
        """With a share."""
        return Rounds(self.share, self.renew) if self.share < 1 else None

    def _check_rounds(self, in_flight: int) -> None:
        if self.rounds is not None and self.renew < in_flight:
            raise ConfigError(
                f"strategy.renew: at least as many children as are in flight ({in_flight}) must "
                f"share their examples; got {self.renew}"
            )

    def _niches(self, alpha: float, attraction: bool) -> Niches:
        return Niches(
            size=self.archive,
            alpha=alpha,
            attraction=attraction,
            crossover=self.crossover,
            splits=self.drawn_splits,
            angle=self.angle,
            mutation=self.mutation,
            warmup=self.warmup,
            risk=self.risk,
        )


class M2N2Options(_Breeding):
    """M2N2: competition for limited examples, and attraction."""

    alpha: float = Field(
        default=1.0,
        ge=0,
        allow_inf_nan=False,
        description="strength of competition; 0 none, 1 sharing, above 1 fighting",
    )
    attraction: bool = Field(
        default=True, description="choose the second parent for what the first cannot do"
    )

    def build(self, in_flight: int) -> Strategy[Any]:
        """Competition and attraction."""
        self._check_rounds(in_flight)
        return self._niches(self.alpha, self.attraction)


class GAOptions(_Breeding):
    """A plain genetic algorithm: parents and survivors by mean score, no competition."""

    def build(self, in_flight: int) -> Strategy[Any]:
        """The same without either."""
        self._check_rounds(in_flight)
        return self._niches(0.0, False)


class MeasureOptions(BaseModel):
    """A dimension of MAP-Elites' grid: mean score on a task, or on some of its examples."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    task: str = Field(description="name of the task")
    labels: list[str] = Field(default=[], description="only examples with these labels; none: all")


class MapElitesOptions(_Merging):
    """MAP-Elites: the best member for each combination of measures."""

    measures: list[MeasureOptions] = Field(
        min_length=1, max_length=4, description="dimensions of the grid"
    )
    cells: int = Field(default=10, ge=2, le=100, description="cells along each dimension")

    def build(self, in_flight: int) -> Strategy[Any]:
        """A grid."""
        from genepool.strategies.map_elites import MapElites, Measure

        _require("ribs", self.name)

        measures = tuple(Measure(m.task, tuple(m.labels)) for m in self.measures)
        if self.cells ** len(measures) > 100_000:
            raise ConfigError("strategy.cells: a grid may have at most 100,000 cells")
        return MapElites(
            measures=measures,
            cells=(self.cells,) * len(measures),
            splits=self.drawn_splits,
            angle=self.angle,
            mutation=self.mutation,
            warmup=self.warmup,
        )


class CmaEsOptions(StrategyOptions):
    """CMA-ES over merging ratios by layer (as mergekit-evolve), or over raw weights."""

    population: int = Field(default=20, ge=3, le=10_000, description="children per generation")
    sigma: float = Field(
        default=0.2, gt=0, allow_inf_nan=False, description="initial step, of a ratio or a weight"
    )
    weights: bool = Field(
        default=False, description="search the raw weights (separable) instead of merging ratios"
    )
    groups: list[str] | None = Field(
        default=None,
        min_length=1,
        description="patterns of tensor names, each merged at ratios of its own; none: by layer",
    )
    archive: int = Field(default=20, ge=2, le=100_000, description="number of best members kept")

    @property
    def dense(self) -> bool:
        """Over raw weights."""
        return self.weights

    def build(self, in_flight: int) -> Strategy[Any]:
        """The distribution is one generation behind where children are in flight."""
        from genepool.strategies.cma_es import CmaEs

        _require("cma", self.name)

        if in_flight > self.population:
            raise ConfigError(
                f"in_flight: cma-es can have at most one generation in flight (population "
                f"{self.population}); got {in_flight}"
            )
        return CmaEs(
            population=self.population,
            sigma=self.sigma,
            weights=self.weights,
            groups=None if self.groups is None else tuple(self.groups),
            lag=int(in_flight > 1),
            size=self.archive,
        )


class _Baseline(StrategyOptions):
    archive: int = Field(default=20, ge=2, le=100_000, description="number of best members kept")
    angle: Angle = Field(
        default="global", description="SLERP angle over the whole axis, each side, or each tensor"
    )

    @property
    def dense(self) -> bool:
        """Never."""
        return False


class SweepOptions(_Baseline):
    """One SLERP ratio for all weights, on a grid, for every pair of seeds."""

    grid: int = Field(default=101, ge=2, le=10**6, description="ratios from 0 to 1; then halved")

    def build(self, in_flight: int) -> Strategy[Any]:
        """A grid of ratios."""
        return Blind(grid=self.grid, size=self.archive, angle=self.angle)


class RandomOptions(_Baseline):
    """Random merges of random pairs of seeds."""

    def build(self, in_flight: int) -> Strategy[Any]:
        """No plan at all."""
        return Blind(grid=0, size=self.archive, angle=self.angle)


BUILT_IN: dict[str, type[StrategyOptions]] = {
    "m2n2": M2N2Options,
    "ga": GAOptions,
    "map-elites": MapElitesOptions,
    "cma-es": CmaEsOptions,
    "sweep": SweepOptions,
    "random": RandomOptions,
}


def _require(package: str, strategy: str) -> None:
    """Refuse before anything is read or run; importing it here would take seconds."""
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(package, "strategies", f"strategy '{strategy}'")


def strategy_names() -> tuple[str, ...]:
    """The names that `find_strategy` knows, built-in ones first."""
    others = {point.name for point in metadata.entry_points(group=GROUP)}
    return (*BUILT_IN, *sorted(others - set(BUILT_IN)))


def find_strategy(name: str) -> type[StrategyOptions]:
    """The options of the strategy of that name.

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
    try:
        found = point.load()
    except BaseException as error:
        pass_on(error)
        raise ConfigError(
            f"strategy '{name}' ({point.value}) cannot be loaded: {cause(error)}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, StrategyOptions)):
        raise ConfigError(f"strategy '{name}' ({point.value}): expected a StrategyOptions class")
    return found
