"""Ask and tell as scripts and notebooks use it: what callers change, copy, repeat and mix up."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from genepool import M2N2, Evolution, Problem
from genepool.errors import InputError
from genepool.strategies.base import Strategy
from genepool.tasks.checks import checked_scores
from tests.strategies.test_evolution import STRATEGIES, problem_for, slots, step_on


def _asked_by_plans(strategy: Strategy, *, rude: bool) -> list[tuple[int, str] | None]:
    """The archive after 40 children; a rude caller sorts, and changes all that it is given."""
    problem, score = problem_for(strategy)
    evolution = Evolution(problem, strategy)
    while evolution.evaluations < 40:
        proposal = evolution.ask()
        truth, plan = score(proposal.genome), evolution.plan_for(proposal)
        while not plan.done:
            at = plan.next()
            if rude:
                at.sort()
            given = truth[at]
            plan.record(at, given)
            if rude:
                at[:], given[:] = 0, 1
        evolution.tell(proposal.step, plan.scores)
        if rude:
            plan.scores[:] = 1
            archive = evolution.archive
            arrays = [archive.contest, archive.best, archive.average, archive.price]
            for array in (*arrays, archive.fitness, archive.occupied, archive.offers(0)):
                with pytest.raises(ValueError, match="read-only"):
                    array[:] = 0
    return slots(evolution)


@pytest.mark.parametrize("strategy", [M2N2(archive=3), M2N2(archive=3, risk=0.3)], ids=str)
def test_callers_who_change_what_they_are_given_change_nothing(strategy: Strategy) -> None:
    """Fitness scaled for a figure chose other parents; sorted examples were answered by others."""
    assert _asked_by_plans(strategy, rude=True) == _asked_by_plans(strategy, rude=False)


@pytest.mark.parametrize("strategy", [M2N2(archive=3), M2N2(archive=3, risk=0.3)], ids=str)
@pytest.mark.parametrize("early_stop", [True, False])
def test_answers_are_recorded_once(strategy: Strategy, early_stop: bool) -> None:
    """They counted twice, and a child was rejected that belonged in the archive."""
    problem, score = problem_for(strategy)
    evolution = Evolution(problem, strategy, early_stop=early_stop)
    for _ in range(3):
        step_on(evolution, score, [])
    plan = evolution.plan_for(evolution.ask())
    at = plan.next()
    plan.record(at, np.zeros(at.size, dtype=np.float32))
    for again in (at, at[:1], at[::-1]):
        with pytest.raises(InputError, match="recorded once"):
            plan.record(again, np.ones(again.size, dtype=np.float32))
    assert not np.nan_to_num(plan.scores).any()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_copies_in_the_middle_come_to_the_same_end(
    strategy: Strategy, copied: Callable[[Any], Any]
) -> None:
    """Dense genomes could not be sent to other processes, nor could CMA-ES be kept."""
    problem, score = problem_for(strategy)
    ends: list[Any] = []
    for each in (copied, lambda value: value):
        evolution = Evolution(problem, strategy, in_flight=2)
        for step in range(30):
            step_on(evolution, score, [])
            if step in (1, 12, 13):
                evolution = each(evolution)
        assert evolution.champion is not None
        ends.append((slots(evolution), evolution.champion.id, evolution.champion.train))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("step", [np.int64(1), np.int32(1), 1.0])
def test_members_have_plain_numbers_whatever_a_step_is_told_by(step: Any) -> None:
    """JSON knows no numbers of numpy."""
    problem, _ = problem_for(M2N2())
    evolution = Evolution(problem, M2N2(archive=6))
    for _ in problem.seeds:
        evolution.tell(evolution.ask().step, np.zeros(60))
    evolution.ask()
    outcome = evolution.tell(step, np.ones(60))
    assert evolution.champion is not None and type(evolution.champion.id) is int
    assert outcome.leads is True


def test_what_is_no_genome_no_seed_and_no_scores_is_told() -> None:
    """These ended in a traceback, some of them only when the first child was made."""
    vectors = [np.ones(4), np.arange(4.0)]
    for seed in (1.5, None, "a", np.random.default_rng(0)):
        with pytest.raises(InputError, match="the random seed must be a whole number; got"):
            Problem.of_vectors(vectors, 3, seed=seed)  # type: ignore[arg-type]
    problem = Problem.of_vectors(vectors, 3, seed=np.int64(4))  # type: ignore[arg-type]
    assert type(problem.seed) is int
    evolution = Evolution(problem, M2N2())
    proposal = evolution.ask()
    for genome in (proposal, None, vectors[0]):
        with pytest.raises(InputError, match=r"expected a genome, such as proposal.genome; got"):
            problem.express(genome)  # type: ignore[arg-type]
    for step in (proposal, "-1"):
        with pytest.raises(InputError, match=r"expected step -1; got step ('-1'|Proposal)"):
            evolution.tell(step, np.ones(3))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="scores must be numbers"):
        evolution.missing(proposal.step, None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="in rows of one length; got object"):
        evolution.tell(proposal.step, [None] * 3)  # type: ignore[list-item]


def test_tensors_that_are_no_arrays_say_why() -> None:
    torch = pytest.importorskip("torch")
    problem = Problem.of_vectors([np.ones(4), np.arange(4.0)], 3)
    evolution = Evolution(problem, M2N2())
    step = evolution.ask().step
    with pytest.raises(InputError, match=r"scores must be numbers, .* requires grad"):
        evolution.tell(step, torch.ones(3, requires_grad=True))
    with pytest.raises(InputError, match=r"scores must be numbers, .*BFloat16"):
        evolution.tell(step, torch.ones(3, dtype=torch.bfloat16))
    assert evolution.tell(step, torch.ones(3)).score == 1


def test_numbers_too_small_for_float32_are_zero_whatever_numpy_was_told() -> None:
    """Probabilities of 1e-50 ended a run in a traceback, after `np.seterr(all="raise")`."""
    with np.errstate(all="raise"):
        vectors = [np.full(4, 1e-50), np.arange(4.0)]
        problem = Problem.of_vectors(vectors, 3, binary=False)
        assert not problem.vectors[0].any()
        evolution = Evolution(problem, M2N2(archive=3, risk=0.2))
        tiny = np.array([1e-50, 1e-40, 0.5])
        for tell in (True, False, True):
            proposal = evolution.ask()
            plan = evolution.plan_for(proposal)
            while not plan.done and not tell:
                at = plan.next()
                plan.record(at, tiny[at])  # type: ignore[arg-type]
            evolution.tell(proposal.step, tiny if tell else plan.scores)
        assert checked_scores(tiny, 3)[0] == 0
        with pytest.raises(InputError, match="seed 0 holds NaN or infinity"):
            Problem.of_vectors([np.full(4, 1e300)], 3)
