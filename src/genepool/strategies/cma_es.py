"""CMA-ES (Hansen, Ostermeier 2001) over merging ratios, or over raw weights; by package `cma`.

Over ratios the tensors are divided into groups, by layer unless patterns say otherwise, and
each group is merged at ratios of its own: for seeds A, B, C the group is
`slerp(t2; slerp(t1; A, B), C)`, its angles measured over the group.

Child t belongs to generation (t - 1) // population. It is drawn from the distribution that the
generations before it have shaped, with draws of (seed, t); with children in flight, from the
one before the last, since the last may not be complete. So a run repeats like any other. Late
children teach where they stood in their own distribution: taken where they are, the step made
meanwhile would count twice, and the step size grow without end.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from genepool.core.archive import Archive, Member, empty_archive
from genepool.core.genome import Genome, Recipe, Vector, compose, recipe
from genepool.core.rng import generator
from genepool.core.slerp import slerp_weights
from genepool.errors import ConfigError, require_packages
from genepool.strategies.base import Strategy, put_back, survival
from genepool.strategies.problem import Outcome, Problem, Proposal, Trial

Float64 = NDArray[np.float64]

_STREAM = 2

_POINT = 1e-100


@dataclass(frozen=True, slots=True)
class Sample:
    """What was drawn: ratios per group and further seed (none over raw weights)."""

    parents: tuple[int, ...]
    ratios: tuple[float, ...]
    mutation: float = 0.0

    def as_json(self) -> str:
        """For people and reports."""
        return json.dumps({"parents": self.parents, "ratios": self.ratios})


@dataclass(frozen=True, eq=False, slots=True)
class Points:
    """The points of a generation, and the distribution that they were drawn from.

    Attributes:
        values: float64[population, D].
        mean: float64[D], in the coordinates in which `cma` draws (without bounds).
        sigma: step size.
    """

    values: Float64
    mean: Float64
    sigma: float


@dataclass(frozen=True, eq=False, slots=True)
class Search:
    """State: what was found, and the distribution that is searched.

    Attributes:
        archive: the best members, without competition.
        model: the distribution (`cma.CMAEvolutionStrategy`); never changed, only copied.
        generation: number of complete generations.
        points: of the next one, and of one more with children in flight (a lag of 1). They are
            drawn all at once, since copying the distribution takes longer than most else.
        results: (step, score or None) of the next one, so far.
        problem: what is searched.
        groups: int64[T], the group of each tensor; empty over raw weights.
        grams: float64[G, K, K], inner products of the seeds over each group.
    """

    archive: Archive
    model: Any
    generation: int
    points: tuple[Points, ...]
    results: tuple[tuple[int, float | None], ...]
    problem: Problem
    groups: NDArray[np.int64]
    grams: Float64


class CmaEs(Strategy, frozen=True):
    """CMA-ES over merging ratios by layer (as mergekit-evolve), or over raw weights.

    With children in flight the distribution is one generation behind.
    """

    # The distribution follows from every score there was, and the better half of each generation,
    # be it accepted or not, moves it.
    remembers: ClassVar[bool] = True
    learns_from_rejected: ClassVar[bool] = True

    name: Literal["cma-es"] = Field(
        default="cma-es", description="This strategy makes the children."
    )
    population: int = Field(
        default=20, ge=3, le=10_000, description="A generation has so many children."
    )
    sigma: float = Field(
        default=0.2,
        gt=0,
        allow_inf_nan=False,
        description="The search begins with steps of this size, of a ratio or a weight.",
    )
    weights: bool = Field(
        default=False,
        description="The raw weights are searched (separable) instead of merging ratios.",
    )
    groups: list[str] | None = Field(
        default=None,
        min_length=1,
        description="The tensors that fit each of these patterns of names are merged at ratios of "
        "their own; without patterns those of each layer are.",
    )
    archive: int = Field(
        default=20, ge=2, le=100_000, description="So many of the best members are kept."
    )

    @property
    def dense(self) -> bool:
        """Over raw weights."""
        return self.weights

    def check(self, in_flight: int) -> None:
        """Refuse more than a generation in flight."""
        require_packages("strategies", f"strategy '{self.name}'", "cma")
        if in_flight > self.population:
            raise ConfigError(
                f"in_flight: cma-es can have at most one generation in flight (population "
                f"{self.population}); got {in_flight}"
            )

    def begin(self, problem: Problem, in_flight: int) -> Search:
        """The distribution before anything is known: ratios 1/2, 1/3, ... give every seed alike."""
        archive = empty_archive(self.archive, problem.examples, 0.0)
        lag = int(in_flight > 1)
        none = np.zeros(0, dtype=np.int64)
        if self.weights:
            seeds = [genome.values for genome in problem.seeds if isinstance(genome, Vector)]
            start = np.stack(seeds).mean(axis=0, dtype=np.float64)
            model = _model(start, self.sigma, self.population, ratios=False)
            points = self._first(model, problem, lag)
            return Search(archive, model, 0, points, (), problem, none, np.zeros((0, 0, 0)))
        if len(problem.seeds) < 2 or problem.gram is None:
            raise ConfigError("strategy 'cma-es' merges: it needs at least two seeds")
        groups = group_tensors(problem.tensors, self.groups)
        parts = problem.gram.between(problem.axis.tensors)
        grams = np.stack([parts[groups == g].sum(axis=0) for g in range(int(groups.max()) + 1)])
        even = 1.0 / np.arange(2, len(problem.seeds) + 1)
        start = np.tile(even, len(grams))
        model = _model(start, self.sigma, self.population, ratios=True)
        points = self._first(model, problem, lag)
        return Search(archive, model, 0, points, (), problem, groups, grams)

    def propose(self, problem: Problem, state: Search, step: int) -> Proposal:
        """The child of step `step`, a function of its arguments alone."""
        drawn = self._draw(state, step)
        if self.weights:
            return Proposal(step, Sample((), ()), None, Vector(drawn.astype(np.float32)))
        rows = _rows(drawn, state.grams)[state.groups]
        merge = recipe(problem.axis.tensors, rows)
        parents = [genome for genome in problem.seeds if isinstance(genome, Recipe)]
        plan = Sample(tuple(range(len(parents))), tuple(drawn.tolist()))
        return Proposal(step, plan, merge, compose(merge, parents))

    def absorb(
        self, state: Search, member: Member, step: int, scores: NDArray[np.float32]
    ) -> tuple[Search, Outcome]:
        """Keep the best, and learn once a generation is complete."""
        archive, outcome = survival(state.archive, member, scores)
        return self._learn(replace(state, archive=archive), step, member.train), outcome

    def skip(self, state: Search, step: int) -> Search:
        """A child that failed takes its place in the generation, and teaches nothing."""
        return self._learn(state, step, None)

    def recall(self, state: Search, trial: Trial) -> Search:
        """Go through what was learnt.

        Raises:
            ConfigError: the points of this generation are others than those that were scored.
        """
        if trial.step and trial.member is not None:
            drawn = self.propose(state.problem, state, trial.step).genome
            if not _alike(drawn, trial.member.genome, 1e-3 * state.points[0].sigma):
                raise ConfigError(
                    f"strategy 'cma-es': child {trial.step} as it is drawn now is not the one that "
                    "the pool holds, so that nothing can be learnt from its score. Another release "
                    "of cma or genepool began the pool: go on with that one, or begin a new pool"
                )
        state = replace(state, archive=put_back(state.archive, trial))
        scores = trial.scores
        known = None if scores is None or np.isnan(scores).any() else scores
        train = None if known is None else state.problem.examples.mean(known)
        return self._learn(state, trial.step, train)

    def archive_of(self, state: Search) -> Archive:
        """The best members."""
        return state.archive

    def _first(self, model: Any, problem: Problem, lag: int) -> tuple[Points, ...]:
        """The points that are drawn before anything is known."""
        return tuple(self._drawn(model, problem, generation) for generation in range(1 + lag))

    def _drawn(self, model: Any, problem: Problem, generation: int) -> Points:
        """The points of a generation, each of the random numbers of its step.

        Drawing changes the model, though not the distribution: it must not be anybody else's yet.
        """
        first = generation * self.population + 1
        rows: list[Float64] = []
        for step in range(first, first + self.population):
            _seeded(model, problem.seed, step, _STREAM)
            rows.append(np.asarray(model.ask(1)[0], dtype=np.float64))
        # What cma remembers of old points serves only to find those that were repaired or injected;
        # over raw weights it would be most of what there is to copy.
        model.sent_solutions.clear()
        model.archive.clear()
        values = np.stack(rows)
        values.setflags(write=False)
        return Points(values, np.array(model.mean, dtype=np.float64), float(model.sigma))

    def _draw(self, state: Search, step: int) -> Float64:
        """The point of child `step`."""
        generation, number = divmod(step - 1, self.population)
        return state.points[generation - state.generation].values[number]

    def _learn(self, state: Search, step: int, score: float | None) -> Search:
        if step == 0:
            return state
        results = (*state.results, (step, score))
        if len(results) < self.population:
            return replace(state, results=results)
        told = [(at, value) for at, value in results if value is not None]
        # The best first, of equals the earliest: how cma orders equals depends on the processor.
        told.sort(key=lambda found: -found[1])
        points = [self._draw(state, at) for at, _ in told]
        model, problem, lag = copy.deepcopy(state.model), state.problem, len(state.points) - 1
        # It learns from the better half; with fewer children than that it learns nothing. Nor does
        # it once it has come to a point: smaller and smaller steps would end in NaN.
        if len(told) > self.population // 2 and max(model.stds) > _POINT:
            _seeded(model, problem.seed, step, _STREAM + 1)
            model.ask()  # cma counts an iteration only between asking and telling
            if lag:
                points = [_brought_up(model, point, state.points[0]) for point in points]
            with warnings.catch_warnings():
                # With children in flight the covariance has moved on; cma may find points far out.
                warnings.simplefilter("ignore")
                model.tell(points, list(range(len(points))), check_points=False)
        following = self._drawn(model, problem, state.generation + 1 + lag)
        return replace(
            state,
            results=(),
            model=model,
            points=(*state.points[1:], following),
            generation=state.generation + 1,
        )


def group_names(names: Sequence[str], patterns: Sequence[str] | None) -> list[str]:
    """What the group of each tensor is called: its layer, its pattern, or 'the rest'.

    Args:
        names: of the tensors, in axis order.
        patterns: globs, one group each; what matches none is a group of its own. None: by layer,
            that is the name up to its first number, or else without its last part.
    """
    if patterns is None:
        return [_layer(name) or "the rest" for name in names]
    return [
        next((pattern for pattern in patterns if fnmatchcase(name, pattern)), "the rest")
        for name in names
    ]


def group_tensors(names: Sequence[str], patterns: Sequence[str] | None) -> NDArray[np.int64]:
    """The group of each tensor, numbered from 0 in order of first appearance; see `group_names`.

    Raises:
        ConfigError: a pattern matches nothing that an earlier one does not.
    """
    keys = group_names(names, patterns)
    for index, pattern in enumerate(patterns or ()):
        if pattern not in keys or pattern in (patterns or ())[:index]:
            raise ConfigError(f"strategy.groups: no tensor is left that matches '{pattern}'")
    order = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([order[key] for key in keys], dtype=np.int64)


def _layer(name: str) -> str:
    numbered = re.match(r"(?:.*?\.)?\d+(?=\.|$)", name)
    return numbered.group() if numbered else name.rpartition(".")[0]


def _rows(ratios: Float64, grams: Float64) -> Float64:
    """Coefficients of the seeds in each group, float64[G, K], by merging one seed after another."""
    groups, seeds = grams.shape[:2]
    rows = np.zeros((groups, seeds))
    for group, steps in enumerate(ratios.reshape(groups, seeds - 1).tolist()):
        row = np.zeros(seeds)
        row[0] = 1.0
        for seed, ratio in enumerate(steps, 1):
            across = grams[group] @ row
            products = (float(row @ across), float(across[seed]), float(grams[group, seed, seed]))
            of_row, of_seed = slerp_weights(ratio, products)
            row = of_row * row
            row[seed] += of_seed
        rows[group] = row
    return rows


def _brought_up(model: Any, point: Float64, drawn: Points) -> Float64:
    """The point that lies in a distribution as another did in the one that it was drawn from."""
    handler = model.boundary_handler
    own = np.asarray(model.gp.geno(point.copy(), from_bounds=handler.inverse), dtype=np.float64)
    moved = model.mean + (own - drawn.mean) * (model.sigma / drawn.sigma)
    return np.asarray(model.gp.pheno(moved, into_bounds=handler.repair), dtype=np.float64)


def _alike(one: Genome, other: Genome, within: float) -> bool:
    """Whether two genomes are the same but for the last bits of another processor."""
    if isinstance(one, Vector) and isinstance(other, Vector):
        return np.allclose(one.values, other.values, rtol=0, atol=within)
    if isinstance(one, Recipe) and isinstance(other, Recipe):
        same = np.array_equal(one.bounds, other.bounds)
        return same and np.allclose(one.coefs, other.coefs, rtol=0, atol=within)
    return False


def _seeded(model: Any, seed: int, step: int, stream: int) -> None:
    """Let a model draw from the random numbers of (seed, step) from now on."""
    # No function within this one: who copies a run in the middle could not pickle it.
    model.sm.randn = partial(_normal, generator(seed, step, stream))


def _normal(draws: np.random.Generator, *shape: int) -> Float64:
    return draws.standard_normal(shape)


def _model(start: Float64, sigma: float, population: int, *, ratios: bool) -> Any:
    import cma  # pyright: ignore[reportMissingTypeStubs]

    options: dict[str, Any] = {
        "popsize": population,
        "verbose": -9,
        "seed": np.nan,  # leave numpy's global generator alone
        "CMA_diagonal": not ratios,
        # From 300 dimensions on cma would adapt the step size by two points that it adds to those
        # of a generation, which are drawn one by one here: without them the step size drifts.
        "AdaptSigma": cma.sigma_adaptation.CMAAdaptSigmaCSA,
    }
    if ratios:
        options["bounds"] = [0.0, 1.0]
        if start.size == 1:
            options["maxstd"] = np.inf  # cma cannot limit the steps of a single number
    return cma.CMAEvolutionStrategy(start, sigma, options)
