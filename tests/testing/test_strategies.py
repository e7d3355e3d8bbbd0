"""The strategies keep the shipped contract, and the contract finds every promise broken."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from genepool import GA, M2N2, CmaEs, MapElites, Problem, RandomMerge, Sweep
from genepool.core.early_stop.evaluation_plan import FullPlan
from genepool.strategies.base import Strategy
from genepool.strategies.by_name import BUILT_IN
from genepool.strategies.map_elites import Measure
from genepool.strategies.problem import Trial
from genepool.testing import check_strategy
from tests.quick import quick

MEASURES = [Measure(task="one"), Measure(task="two")]

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "m2n2": lambda: M2N2(archive=6),
    "m2n2 with mutation": lambda: M2N2(archive=6, mutation=0.1),
    "m2n2 without crossover": lambda: M2N2(archive=6, mutation=0.1, crossover=False),
    "m2n2 with three splits": lambda: M2N2(archive=5, splits=3, angle="tensor", warmup=9),
    "m2n2 with a baseline": lambda: M2N2(archive=5, baseline="worst"),
    "m2n2 with subsets": lambda: M2N2(archive=5, share=0.4, renew=8),
    "ga": lambda: GA(archive=5),
    "map-elites": lambda: MapElites(measures=MEASURES, cells=4),
    "cma-es": lambda: CmaEs(archive=4, population=6),
    "cma-es over weights": lambda: CmaEs(archive=4, population=6, weights=True),
    "sweep": lambda: Sweep(archive=5),
    "random": lambda: RandomMerge(archive=5),
}


@pytest.mark.parametrize("name", quick(STRATEGIES, (5,)))
def test_every_strategy_keeps_the_contract(name: str) -> None:
    if name.startswith("cma-es"):
        pytest.importorskip("cma")
    check_strategy(STRATEGIES[name], steps=20)


def test_no_strategy_is_left_out() -> None:
    assert {make().name for make in STRATEGIES.values()} == set(BUILT_IN)


@pytest.mark.slow
def test_one_that_takes_a_risk_keeps_the_rest() -> None:
    check_strategy(lambda: M2N2(archive=6, risk=0.3), steps=20, lossless=False)


class Gambling(M2N2, frozen=True):
    def propose(self, problem: Any, state: Any, step: int) -> Any:
        return super().propose(problem, state, step + random.randrange(1000) * 1000)


class Dicing(M2N2, frozen=True):
    """Numbers that everybody shares, one per step and run."""

    seen: dict[int, int] = {}  # noqa: RUF012

    def propose(self, problem: Any, state: Any, step: int) -> Any:
        drawn = self.seen.setdefault(step, int(np.random.randint(1000)))  # noqa: NPY002
        proposal = super().propose(problem, state, 1000 * step + drawn)
        return replace(proposal, step=step)


class Overwriting(M2N2, frozen=True):
    """Changes the state that it was given."""

    def absorb(self, state: Any, member: Any, step: int, scores: Any) -> Any:
        after, outcome = super().absorb(state, member, step, scores)
        object.__setattr__(state, "members", after.members)
        return after, outcome


class Clipping(M2N2, frozen=True):
    def absorb(self, state: Any, member: Any, step: int, scores: Any) -> Any:
        found = super().absorb(state, member, step, scores.copy())
        scores.setflags(write=True)
        scores[0] = 0.5
        return found


class Counting(M2N2, frozen=True):
    """Depends on how often it was asked."""

    calls: list[int] = []  # noqa: RUF012

    def propose(self, problem: Any, state: Any, step: int) -> Any:
        self.calls.append(step)
        return replace(super().propose(problem, state, step + 100 * len(self.calls)), step=step)


class Elsewhere(M2N2, frozen=True):
    """Names another slot than the one that it takes."""

    def absorb(self, state: Any, member: Any, step: int, scores: Any) -> Any:
        after, outcome = super().absorb(state, member, step, scores)
        if outcome.slot is not None:
            outcome = replace(outcome, slot=(outcome.slot + 1) % 6)
        return after, outcome


class Silent(M2N2, frozen=True):
    """Does not say who was replaced."""

    def absorb(self, state: Any, member: Any, step: int, scores: Any) -> Any:
        after, outcome = super().absorb(state, member, step, scores)
        return after, replace(outcome, evicted=None)


class Hasty(M2N2, frozen=True):
    """Stops after a few examples."""

    def evaluation_plan(self, state: Any, proposal: Any, known: Any) -> Any:
        class Plan(FullPlan):
            @property
            def done(self) -> bool:
                return int((~np.isnan(self.scores)).sum()) >= 5

            def next(self) -> Any:
                return super().next()[:5]

        return Plan(known)


class Rounding(M2N2, frozen=True):
    """Takes in scores between 0 and 1 as if they were 0 or 1."""

    def recall(self, state: Any, trial: Trial) -> Any:
        scores = None if trial.scores is None else np.round(trial.scores)
        return super().recall(state, replace(trial, scores=scores))


class Forgetful(M2N2, frozen=True):
    """Does not take in what an earlier session decided."""

    def recall(self, state: Any, trial: Trial) -> Any:
        return state if trial.step else super().recall(state, trial)


class Unrepeatable(M2N2, frozen=True):
    """Hands out a merge that does not make the child."""

    def propose(self, problem: Any, state: Any, step: int) -> Any:
        other = super().propose(problem, state, step + 1)
        return replace(super().propose(problem, state, step), merge=other.merge)


class Orphaned(M2N2, frozen=True):
    def propose(self, problem: Any, state: Any, step: int) -> Any:
        found = super().propose(problem, state, step)
        return replace(found, plan=replace(found.plan, parents=(999, 999)))


class Mumbling(M2N2, frozen=True):
    def propose(self, problem: Any, state: Any, step: int) -> Any:
        found = super().propose(problem, state, step)
        plan: Any = found.plan

        class Told:
            parents, mutation = plan.parents, plan.mutation

            def __eq__(self, other: object) -> bool:
                return True

            __hash__ = None  # type: ignore[assignment]

            def as_json(self) -> str:
                return "two parents"

        return replace(found, plan=Told())


class Unequal(M2N2, frozen=True):
    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = None  # type: ignore[assignment]


class Greedy(M2N2, frozen=True):
    """Stopped and failed children shape what comes next, by way of a list that is its own."""

    bred: list[int] = []  # noqa: RUF012

    def skip(self, state: Any, step: int) -> Any:
        self.bred.append(step)
        return state

    def propose(self, problem: Any, state: Any, step: int) -> Any:
        late = 5000 if self.bred else 0
        return replace(super().propose(problem, state, step + late), step=step)


@pytest.mark.slow
def test_a_problem_of_ones_own_is_scored_as_it_says() -> None:
    seeds = list(np.random.default_rng(0).standard_normal((3, 20)))
    one, other = (Problem.of_vectors(seeds, 30, binary=binary) for binary in (True, False))
    check_strategy(lambda: M2N2(archive=6), problem=other, steps=20)
    check_strategy(lambda: Rounding(archive=6), problem=one, steps=20)
    with pytest.raises(AssertionError, match="taken up after"):
        check_strategy(lambda: Rounding(archive=6), problem=other, steps=20)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Gambling, "gave step"),
        (Dicing, "as late as can be: child"),
        (Counting, "gives another child when asked twice"),
        (Overwriting, "changed the old state"),
        (Clipping, "wrote into the scores"),
        (Elsewhere, "the archive holds|was replaced, but slot"),
        (Silent, "says that None was replaced"),
        (Hasty, "asks only what its plans ask|must be asked more"),
        (Forgetful, "taken up after"),
        (Unrepeatable, "cannot be made again"),
        (Orphaned, "names parents that are not there"),
        (Mumbling, "its plan is no JSON"),
        (Unequal, "must be equal"),
        (Greedy, "asks only what its plans ask|children that fail, again"),
    ],
)
def test_a_broken_promise_is_found(broken: type[M2N2], words: str) -> None:
    # What a class keeps for all of its instances is emptied by nobody: here it is the fault.
    with pytest.raises(AssertionError, match=words):
        check_strategy(lambda: broken(archive=6), steps=20)
