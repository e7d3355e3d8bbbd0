"""Whole runs: with the early stop they end exactly as without it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from genepool.core.genome import Genome
from genepool.strategies.base import Strategy
from genepool.strategies.ga import GA
from genepool.strategies.m2n2 import M2N2
from genepool.strategies.random import RandomMerge
from genepool.strategies.sweep import Sweep
from tests.core.trial import Trial, problem_of, run
from tests.quick import quick

STEPS = 150


def assert_same(one: Trial, two: Trial) -> None:
    assert one.slots == two.slots
    np.testing.assert_array_equal(one.archive.scores, two.archive.scores)
    assert one.accepted == two.accepted
    for a, b in zip(one.outcomes, two.outcomes, strict=True):
        # A child that was stopped has no fitness; one that was not has the same.
        assert b.fitness is not None and a.fitness in (None, b.fitness)
    assert [proposal.plan for proposal in one.proposals] == [p.plan for p in two.proposals]


@pytest.mark.parametrize("width", quick([1, 4], (1,)))
@pytest.mark.parametrize("weighted", quick([False, True], (1,)))
@pytest.mark.parametrize("alpha", quick([1.0, 0.0, 0.5, 3.0]))
@pytest.mark.parametrize("binary", [True, False])
def test_the_early_stop_changes_nothing(
    binary: bool, alpha: float, weighted: bool, width: int
) -> None:
    draws = np.random.default_rng([binary, int(10 * alpha), weighted])
    problem, score = problem_of(draws, binary=binary, weighted=weighted)
    strategy = M2N2(archive=8, alpha=alpha)
    stopped = run(strategy, problem, score, STEPS, width, stop=True)
    whole = run(strategy, problem, score, STEPS, width, stop=False)
    assert_same(stopped, whole)
    assert sum(whole.asked) == STEPS * 60
    assert sum(outcome.accepted for outcome in whole.outcomes) >= 8
    # Without competition everybody becomes the same, and a clone always enters.
    assert alpha == 0 or sum(stopped.asked) < 0.9 * STEPS * 60


@pytest.mark.parametrize(
    "strategy",
    quick(
        [
            M2N2(archive=5, attraction=False),
            M2N2(archive=5, alpha=0.0, attraction=False),
            M2N2(archive=5, split_point=False, angle="side"),
            M2N2(archive=5, angle="tensor", warmup=20),
            M2N2(archive=5, splits=3),
            M2N2(archive=2),
            M2N2(archive=5, baseline="worst"),
            M2N2(archive=5, baseline="worst", risk=1e-12),
            GA(archive=5, baseline="worst"),
            RandomMerge(archive=5),
            Sweep(archive=5, grid=7),
        ],
        (4,),
    ),
    ids=[
        "no attraction",
        "plain",
        "no split point",
        "warm-up",
        "three splits",
        "two slots",
        "baseline",
        "baseline and next to no risk",
        "plain with a baseline",
        "random",
        "grid",
    ],
)
@pytest.mark.parametrize("asking", quick([{}, {"blocks": np.arange(60) * 7 % 11}], (1,)))
def test_the_early_stop_changes_nothing_for_other_strategies(
    strategy: Strategy, asking: dict[str, Any]
) -> None:
    problem, score = problem_of(np.random.default_rng(8), seeds=4)
    problem = replace(problem, examples=replace(problem.examples, **asking))
    for width in (1, 3):
        stopped = run(strategy, problem, score, STEPS, width, stop=True)
        assert_same(stopped, run(strategy, problem, score, STEPS, width, stop=False))


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0, 3.0])
def test_the_early_stop_changes_nothing_with_scores_that_lie_close_together(
    alpha: float, width: int
) -> None:
    problem, score = problem_of(np.random.default_rng(10), binary=False)

    def close(genome: Genome) -> np.ndarray:
        # Above the half, up to all: what nobody does badly, and a child can do worse than all.
        return (0.5 + score(genome) / 2).astype(np.float32)

    strategy = M2N2(archive=6, alpha=alpha, baseline="worst")
    stopped = run(strategy, problem, close, STEPS, width, stop=True)
    assert_same(stopped, run(strategy, problem, close, STEPS, width, stop=False))
    assert alpha != 1 or sum(stopped.asked) < STEPS * 60
    # It is another run than without the baseline.
    plain = run(strategy.model_copy(update={"baseline": "none"}), problem, close, STEPS, width)
    assert plain.slots != stopped.slots


def test_with_a_baseline_nothing_but_who_competes_hangs_on_it() -> None:
    problem, score = problem_of(np.random.default_rng(3), binary=False)
    trial = run(M2N2(archive=5, baseline="worst"), problem, score, 60)
    for member in trial.archive.members:
        assert member is not None
        assert member.train == problem.examples.mean(score(member.genome))
    for outcome, proposal in zip(trial.outcomes, trial.proposals, strict=True):
        mean = problem.examples.mean(score(proposal.genome))
        assert outcome.score in (None, mean)


@pytest.mark.parametrize("crossover", [True, False])
@pytest.mark.parametrize("binary", quick([True, False], (1,)))
def test_the_early_stop_changes_nothing_with_mutation(crossover: bool, binary: bool) -> None:
    problem, score = problem_of(np.random.default_rng(9), binary=binary, dense=True)
    strategy = M2N2(archive=6, crossover=crossover, mutation=0.2)
    for width in (1, 3):
        stopped = run(strategy, problem, score, STEPS, width, stop=True)
        assert_same(stopped, run(strategy, problem, score, STEPS, width, stop=False))
        assert sum(stopped.asked) < STEPS * 60


def test_runs_repeat_and_differ_by_seed_and_width() -> None:
    problem, score = problem_of(np.random.default_rng(1))
    strategy = M2N2(archive=6)
    first = run(strategy, problem, score, 60)
    again = run(strategy, problem, score, 60)
    assert_same_stopped(first, again)
    wide = run(strategy, problem, score, 60, width=4)
    assert wide.slots != first.slots


def assert_same_stopped(one: Trial, two: Trial) -> None:
    assert one.slots == two.slots and one.asked == two.asked and one.outcomes == two.outcomes


def test_a_run_breeds_something_better_than_its_seeds() -> None:
    problem, score = problem_of(np.random.default_rng(3))
    trial = run(M2N2(archive=10), problem, score, 300)
    best_seed = max(problem.examples.mean(score(genome)) for genome in problem.seeds)
    best = max(member.train for member in trial.archive.members if member is not None)
    assert best > best_seed + 0.1
    # Ids grow with age, parents are older than their children, and no slot is empty any more.
    for member in trial.archive.members:
        assert member is not None
        assert all(parent < member.id for parent in member.parents)
        assert member.train == problem.examples.mean(score(member.genome))
