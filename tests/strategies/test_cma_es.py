"""CMA-ES: what the package `cma` is told, and what is asked of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from genepool import CmaEs, Evolution, Problem
from genepool.core.archive import Member
from genepool.core.slerp import merge_vectors
from genepool.errors import ConfigError
from genepool.strategies.problem import Trial

pytest.importorskip("cma")


def go_on(evolution: Evolution, until: int, score: Any) -> list[Trial]:
    """Breed until there are so many children; what a pool would remember."""
    trials: list[Trial] = []
    while evolution.evaluations < until:
        while evolution.can_ask:
            evolution.ask()
        step, genome = evolution.waiting[0].step, evolution.waiting[0].genome
        scores = np.asarray(score(evolution.problem.express(genome)), dtype=np.float32)
        outcome = evolution.tell(step, scores)
        member = Member(evolution.member_id(step), genome, (), outcome.score or 0.0)
        kept = member if outcome.accepted else None
        trials.append(Trial(max(0, step), kept, outcome.slot, scores))
    return trials


def search_of(evolution: Evolution) -> Any:
    return evolution._versions[evolution.evaluations]  # pyright: ignore[reportPrivateUsage]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 8])
def test_the_step_size_adapts_in_many_dimensions_too(width: int) -> None:
    # Where the search begins there is nothing better to be found, but by smaller steps.
    problem = Problem.of_vectors([np.zeros(300)], 1, binary=False)
    np.random.seed(1)  # noqa: NPY002
    expected = np.random.random(3)  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    evolution = Evolution(problem, CmaEs(weights=True, sigma=1.0), in_flight=width)
    go_on(evolution, 800, lambda weights: [np.exp(-np.linalg.norm(weights) / 100)])
    assert search_of(evolution).model.sigma < 0.7
    assert np.array_equal(np.random.random(3), expected)  # noqa: NPY002


def test_one_ratio_is_searched_like_several() -> None:
    draws = np.random.default_rng(0)
    one, other = draws.standard_normal((2, 40))
    problem = Problem.of_vectors([one, other], 1, binary=False)
    evolution = Evolution(problem, CmaEs(population=6, sigma=0.5))
    goal = merge_vectors(one, other, 0.8, 40)
    go_on(evolution, 200, lambda weights: [np.exp(-np.linalg.norm(weights - goal))])
    assert evolution.champion is not None and evolution.champion.train > 0.99


def test_a_search_that_has_come_to_a_point_stays_there() -> None:
    problem = Problem.of_vectors(list(np.eye(2)), 1, binary=False)
    evolution = Evolution(problem, CmaEs(population=3, sigma=1e-305))
    go_on(evolution, 120, lambda weights: [np.exp(-abs(weights[0]))])
    assert evolution.evaluations == 120 and evolution.champion is not None


def test_equals_are_taken_in_the_order_of_their_steps() -> None:
    # More than 16: fewer are kept in order by many sorting algorithms.
    problem = Problem.of_vectors([np.zeros(3)], 2)
    evolution = Evolution(problem, CmaEs(weights=True, population=40))
    points = search_of(evolution).points[0].values
    best_first = np.argsort(points[:, 0] <= 0, kind="stable")
    go_on(evolution, 40, lambda values: [values[0] > 0, 1.0])
    model = search_of(evolution).model
    mean = model.sp.weights.positive_weights @ points[best_first[: model.sp.weights.mu]]
    np.testing.assert_allclose(model.mean, mean)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("width", [1, 3])
def test_what_was_drawn_otherwise_is_not_learnt_from(weights: bool, width: int) -> None:
    draws = np.random.default_rng(1)
    sizes = {f"layers.{number}.weight": 10 for number in range(4)}
    problem = Problem.of_vectors(list(draws.standard_normal((2, 40))), 6, tensors=sizes)
    strategy = CmaEs(population=8, weights=weights)
    evolution = Evolution(problem, strategy, in_flight=width)
    trials = go_on(evolution, 30, lambda values: values[:6] > 0)

    def taken_up(trials: list[Trial]) -> Evolution:
        new = Evolution(problem, strategy, in_flight=width)
        new.resume(evolution.members, evolution.champion)
        new.recall(trials)
        return new

    model, again = search_of(evolution).model, search_of(taken_up(trials)).model
    np.testing.assert_array_equal(model.mean, again.mean)
    late = max(number for number, trial in enumerate(trials) if trial.member is not None)
    seed = trials[0].member
    assert seed is not None and trials[late].member is not None and trials[late].step > 0
    trials[late] = replace(trials[late], member=seed)
    with pytest.raises(ConfigError, match=f"child {trials[late].step} as it is drawn now is not"):
        taken_up(trials)
