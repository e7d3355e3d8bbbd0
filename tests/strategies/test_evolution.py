"""Ask and tell: what a caller may do, what is refused, and that a run can be taken up anywhere."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import genepool
from genepool import GA, M2N2, CmaEs, Evolution, Problem, RandomMerge, Sweep
from genepool.core.archive import Member, Verdict
from genepool.core.examples import TaskExamples, lay_out
from genepool.core.genome import Recipe, digest
from genepool.errors import ConfigError, InputError
from genepool.strategies.base import Strategy
from genepool.strategies.problem import Trial
from tests.core.trial import Scorer, problem_of

STRATEGIES = [
    M2N2(archive=6),
    M2N2(archive=6, mutation=0.1),
    M2N2(archive=5, share=0.4, renew=8),
    M2N2(archive=5, share=0.4, renew=8, mutation=0.1),
    M2N2(archive=5, share=0.4, renew=8, baseline="worst"),
    GA(archive=4, splits=2),
    CmaEs(population=6, archive=4),
    CmaEs(population=6, archive=4, weights=True),
    Sweep(archive=4),
    RandomMerge(archive=4),
]


def problem_for(strategy: Strategy) -> tuple[Problem, Scorer]:
    draws = np.random.default_rng(21)
    problem, score = problem_of(draws, dense=strategy.dense)
    return replace(problem, tensors=("a.0", "a.1", "b.2")), score


def slots(evolution: Evolution) -> list[tuple[int, str] | None]:
    return [m and (m.id, digest(m.genome)) for m in evolution.archive.members]


def step_on(evolution: Evolution, score: Scorer, trials: list[Trial]) -> None:
    """One proposal more in flight, or the oldest told, as the driver does in turn."""
    while evolution.can_ask:
        evolution.ask()
    proposal = evolution.waiting[0]
    scores = score(proposal.genome)
    outcome = evolution.tell(proposal.step, scores)
    number = evolution.member_id(proposal.step)
    member = Member(number, proposal.genome, proposal.plan.parents, -1.0)
    accepted = outcome.verdict is Verdict.ACCEPTED
    step = max(0, proposal.step)
    trials.append(Trial(step, member if accepted else None, outcome.slot, scores))


def alive(trials: list[Trial]) -> list[Trial]:
    """Who is in the archive after these, by slot."""
    found = {trial.slot: trial for trial in trials if trial.slot is not None}
    return [found[slot] for slot in sorted(found)]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_run_is_taken_up_anywhere(strategy: Strategy, width: int) -> None:
    problem, score = problem_for(strategy)
    whole, trials = Evolution(problem, strategy, in_flight=width), list[Trial]()
    for _ in range(43):
        step_on(whole, score, trials)
    for cut in (0, 1, 3, 4, 11, 12, 20, 30):
        taken_up = Evolution(problem, strategy, in_flight=width)
        champion = None
        if strategy.subsets is None:
            for trial in trials[:cut]:
                scored = trial.scores is not None and trial.member is not None
                train = problem.examples.mean(trial.scores) if scored else -1.0
                if trial.member and (champion is None or train > champion.train):
                    champion = replace(trial.member, train=train)
        last = taken_up.resume(cut, champion)
        known = trials[: min(last + 1, cut)]
        before = known if strategy.remembers else alive(known)
        taken_up.recall([*before, *trials[last + 1 : cut]])
        rest: list[Trial] = []
        while taken_up.members < len(trials):
            step_on(taken_up, score, rest)
        assert slots(taken_up) == slots(whole)
        np.testing.assert_array_equal(taken_up.archive.scores, whole.archive.scores)
        assert taken_up.champion is not None and whole.champion is not None
        assert taken_up.champion.id == whole.champion.id
        assert taken_up.champion.train == whole.champion.train


def test_ids_steps_and_the_champion() -> None:
    problem, score = problem_for(M2N2())
    evolution = Evolution(problem, M2N2(archive=6))
    best: tuple[float, int] | None = None
    for number in range(30):
        assert evolution.members == number
        assert evolution.evaluations == max(0, number - 3)
        proposal = evolution.ask()
        assert proposal.step == number - 2 and evolution.member_id(proposal.step) == number
        assert (number < 3) == (proposal.plan.parents == ())
        scores = score(proposal.genome)
        outcome = evolution.tell(proposal.step, scores)
        mean = problem.examples.mean(scores)
        assert outcome.score == mean and outcome.accepted == (outcome.slot is not None)
        if outcome.accepted and (best is None or mean > best[0]):
            best = mean, number
            assert outcome.leads
        else:
            assert not outcome.leads
        assert evolution.champion is not None and best is not None
        assert (evolution.champion.train, evolution.champion.id) == best


@pytest.mark.parametrize("wrong", ["m2n2", M2N2, {"name": "m2n2"}, None, 3, [M2N2()]])
def test_a_strategy_is_a_value(wrong: Any) -> None:
    problem, _ = problem_for(M2N2())
    with pytest.raises(InputError, match=r"expected a strategy, such as M2N2\(\); got ") as caught:
        Evolution(problem, wrong)
    assert str(caught.value).endswith(f"; got {wrong!r}")


@pytest.mark.parametrize("wrong", [None, "run.yaml", np.zeros(3), Problem])
def test_a_problem_is_a_value(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"expected a problem, of Problem\.of_vectors; got "):
        Evolution(wrong, M2N2())


@pytest.mark.parametrize("wrong", [0, -1, None, "2", 1.5])
def test_a_number_of_proposals_is_in_flight(wrong: Any) -> None:
    problem, _ = problem_for(M2N2())
    with pytest.raises(InputError, match=f"at least one seed; got {wrong!r} and 3"):
        Evolution(problem, M2N2(), in_flight=wrong)


def test_proposals_are_told_in_order() -> None:
    problem, score = problem_for(M2N2())
    evolution = Evolution(problem, M2N2(archive=6), in_flight=2)
    with pytest.raises(InputError, match="expected nothing; got step 1"):
        evolution.tell(1, np.zeros(60))
    first, second = evolution.ask(), evolution.ask()
    assert repr(evolution) == "<Evolution by m2n2: 0 evaluations, 2 in flight>"
    assert evolution.waiting == (first, second) and not evolution.can_ask
    with pytest.raises(InputError, match="tell step -2, the oldest in flight, before asking again"):
        evolution.ask()
    with pytest.raises(InputError, match="expected step -2; got step -1"):
        evolution.tell(second.step, score(second.genome))
    evolution.tell(first.step, score(first.genome))
    third = evolution.ask()
    evolution.tell(second.step, score(second.genome))
    # The first child cannot be made while a seed is in flight.
    assert third.step == 0 and not evolution.can_ask
    evolution.tell(third.step, score(third.genome))
    assert evolution.ask().step == 1
    later = evolution.ask()
    plan = evolution.plan_for(later)
    for ask in (evolution.missing, evolution.weigh, evolution.tell):
        with pytest.raises(InputError, match="expected step 1; got step 2"):
            ask(later.step, plan.scores)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros(59), r"expected 60 scores, one per example; got shape \(59,\)"),
        (np.full(60, 2.0), r"scores must be in \[0, 1\]; got 2.0"),
        (np.full(60, 0.5), "scores must be 0 or 1"),
        (np.full(60, np.nan), "60 of 60 scores missing"),
        (np.r_[np.nan, np.zeros(59)], "1 of 60 scores missing"),
        (np.r_[np.nan, np.full(59, -1.0)], r"scores must be in \[0, 1\]; got -1.0"),
        (["1"] * 60, "scores must be numbers"),
        (np.full(60, 1j), "scores must be numbers"),
        ((n for n in range(60)), "scores must be numbers"),
        (np.ma.masked_array(np.ones(60), mask=[1] + [0] * 59), "some are masked"),
    ],
)
def test_what_is_no_score_is_refused(scores: Any, message: str) -> None:
    problem, score = problem_for(M2N2())
    evolution = Evolution(problem, M2N2(archive=6))
    for _ in range(5):
        proposal = evolution.ask()
        with pytest.raises(InputError, match=message):
            evolution.tell(proposal.step, scores)
        # Nothing has happened, and the scores can still be told.
        evolution.tell(proposal.step, score(proposal.genome))
    assert evolution.evaluations == 2


def _in_its_second_subset() -> tuple[Evolution, Scorer]:
    """About to be told, with members that were not asked the examples of the next subset."""
    strategy = M2N2(archive=5, share=0.4, renew=8)
    problem, score = problem_for(strategy)
    evolution = Evolution(problem, strategy)
    while evolution.evaluations < 8:
        proposal = evolution.ask()
        truth, plan = score(proposal.genome), evolution.plan_for(proposal)
        while not plan.done:
            at = plan.next()
            plan.record(at, truth[at])
        evolution.tell(proposal.step, plan.scores)
    return evolution, score


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (None, "must be scored on the examples of `renewal`"),
        (np.full(60, np.nan), "must be scored on the examples of `renewal`"),
        (np.full(60, 7.0), r"scores must be in \[0, 1\]; got 7.0"),
        (np.zeros(3), "expected 60 scores"),
        (["1"] * 60, "scores must be numbers"),
    ],
)
def test_what_is_no_renewal_is_refused(scores: Any, message: str) -> None:
    """NaN came into the archive, and every fitness was NaN from then on."""
    evolution, score = _in_its_second_subset()
    renewal = evolution.renewal
    assert renewal is not None and renewal.members
    given = {} if scores is None else {member.id: scores for member in renewal.members}
    with pytest.raises(InputError, match=message):
        evolution.renew(given)
    evolution.renew({member.id: score(member.genome).tolist() for member in renewal.members})
    assert np.isfinite(evolution.archive.fitness).all()


@pytest.mark.parametrize("strategy", [M2N2(archive=3), M2N2(archive=3, risk=0.3), Sweep(archive=3)])
@pytest.mark.parametrize("early_stop", [True, False])
def test_answers_that_are_no_scores_are_refused(strategy: Strategy, early_stop: bool) -> None:
    """A child whose scores were NaN was stopped, and a seed was asked again without end."""
    problem, score = problem_for(strategy)
    evolution = Evolution(problem, strategy, early_stop=early_stop)
    for step in range(6):
        proposal = evolution.ask()
        truth, plan = score(proposal.genome), evolution.plan_for(proposal)
        while not plan.done:
            at = plan.next()
            for wrong in (np.full(at.size, np.nan), 1.0, truth[at][:1], truth[at] + 2):
                if np.shape(wrong) != at.shape or not step % 2:
                    with pytest.raises(InputError):
                        plan.record(at, wrong)
            plan.record(at, truth[at])
        with pytest.raises(InputError):
            evolution.tell(proposal.step, np.full(60, np.nan))
        evolution.tell(proposal.step, plan.scores)


def test_what_was_weighed_may_change_before_it_is_told() -> None:
    problem, score = problem_for(M2N2())
    evolution = Evolution(problem, M2N2(archive=6))
    proposal = evolution.ask()
    scores = score(proposal.genome)
    evolution.weigh(proposal.step, scores)
    scores[:] = 1
    assert evolution.tell(proposal.step, scores).score == 1


def test_seeds_are_not_refused_and_only_the_oldest_is_weighed() -> None:
    """These ended in a traceback."""
    problem, score = problem_for(M2N2())
    evolution = Evolution(problem, M2N2(archive=6), in_flight=2)
    first, second = evolution.ask(), evolution.ask()
    for scores in (None, score(first.genome)):
        with pytest.raises(InputError, match=r"seed 0 must be scored; got (None|'refused')"):
            evolution.tell(first.step, scores, refused=True)
    for step in (second.step, 44):
        with pytest.raises(InputError, match=f"expected step {first.step}; got step {step}"):
            evolution.weigh(step, score(second.genome))
    weighed = evolution.weigh(first.step, score(first.genome).tolist())
    assert weighed.score == evolution.tell(first.step, score(first.genome)).score


@pytest.mark.parametrize(
    ("seeds", "examples", "message"),
    [
        ([["a", "b"], ["c", "d"]], 3, "seeds must be numbers"),
        ([[1j, 2], [3, 4]], 3, "seeds must be numbers"),
        ([np.ma.masked_array([1.0, 2.0], mask=[0, 1]), np.ones(2)], 3, "some are masked"),
        ([np.ones(2)], 0, "a number of examples, at least 1; got 0"),
        ([np.ones(2)], -3, "at least 1; got -3"),
        ([np.ones(2)], 2.5, "at least 1; got 2.5"),
    ],
)
def test_problems_that_are_none(seeds: Any, examples: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Problem.of_vectors(seeds, examples)


def test_a_number_of_examples_is_any_whole_number() -> None:
    """numpy's have a `size` of their own, and it is 1."""
    assert Problem.of_vectors([np.ones(2)], np.int64(7)).examples.size == 7  # type: ignore[arg-type]


def test_nothing_is_told_twice() -> None:
    evolution = Evolution(problem_for(M2N2())[0], M2N2(archive=6))
    for step in (None, 0, 7):
        with pytest.raises(InputError, match="expected nothing"):
            evolution.tell(step, np.zeros(60))  # type: ignore[arg-type]


def test_a_plan_that_is_not_done_is_no_excuse() -> None:
    problem, score = problem_for(M2N2())
    evolution = Evolution(problem, M2N2(archive=3))
    for _ in range(20):
        step_on(evolution, score, [])
    stopped = 0
    for _ in range(30):
        proposal = evolution.ask()
        truth, plan = score(proposal.genome), evolution.plan_for(proposal)
        while not plan.done:
            with pytest.raises(InputError, match="must be asked more examples"):
                evolution.tell(proposal.step, plan.scores)
            block = plan.next()
            plan.record(block, truth[block])
        outcome = evolution.tell(proposal.step, plan.scores)
        assert (outcome.verdict is Verdict.STOPPED) == bool(np.isnan(plan.scores).any())
        stopped += outcome.verdict is Verdict.STOPPED
    assert stopped > 5


def test_children_that_fail_or_are_refused_take_no_part() -> None:
    problem, score = problem_for(M2N2())
    one, two = (Evolution(problem, M2N2(archive=6)) for _ in range(2))
    proposal = one.ask()
    with pytest.raises(InputError, match="seed 0 must be scored; got None"):
        one.tell(proposal.step, None)
    one.tell(proposal.step, score(proposal.genome))
    proposal = two.ask()
    two.tell(proposal.step, score(proposal.genome))
    for number in range(30):
        proposals = one.ask(), two.ask()
        assert digest(proposals[0].genome) == digest(proposals[1].genome)
        scores = score(proposals[0].genome)
        if number % 3 < 2:
            outcomes = [e.tell(p.step, scores) for e, p in zip((one, two), proposals, strict=True)]
            assert outcomes[0] == outcomes[1]
            continue
        weighed = two.weigh(proposals[1].step, scores)
        failed = one.tell(proposals[0].step, None)
        refused = two.tell(proposals[1].step, scores, refused=True)
        assert failed.verdict is Verdict.FAILED and refused.verdict is Verdict.GUARDED
        assert failed.slot is None and refused.slot is None and not refused.leads
        assert refused.fitness == weighed.fitness is not None
    assert slots(one) == slots(two)


def test_what_is_weighed_is_what_is_told() -> None:
    problem, score = problem_for(M2N2())
    evolution = Evolution(problem, M2N2(archive=6))
    for _ in range(40):
        proposal = evolution.ask()
        scores = score(proposal.genome)
        weighed = evolution.weigh(proposal.step, scores)
        before = evolution.archive
        told = evolution.tell(proposal.step, scores)
        assert (weighed.verdict, weighed.slot, weighed.evicted, weighed.score) == (
            *(told.verdict, told.slot, told.evicted, told.score),
        )
        assert (before is evolution.archive) == (not told.accepted)


# Subsets


def test_who_scores_everything_need_not_know_of_subsets() -> None:
    problem, score = problem_for(M2N2())
    evolution = Evolution(problem, M2N2(archive=5, share=0.4, renew=8), in_flight=2)
    seen = set[int]()
    for _ in range(60):
        step_on(evolution, score, [])
        subset = evolution.subset
        seen.add(subset.number)
        assert subset.indices is not None and 20 <= subset.indices.size <= 26
        assert evolution.archive.examples.size == subset.indices.size
        for slot, member in enumerate(evolution.archive.members):
            if member is not None:
                own = score(member.genome)[subset.indices]
                np.testing.assert_array_equal(evolution.archive.scores[slot], own)
                assert member.train == subset.examples.mean(own)
    assert seen == set(range(8))


def test_of_equals_the_first_is_champion_whatever_its_slot() -> None:
    draws = np.random.default_rng(0)
    problem = Problem.of_vectors(list(np.eye(3, 4) + 1), 8)
    evolution, ties = Evolution(problem, M2N2(archive=4, share=0.5, renew=5)), 0
    while evolution.evaluations < 60:
        number = evolution.subset.number
        evolution.tell(evolution.ask().step, draws.integers(0, 2, size=8))
        members = [member for member in evolution.archive.members if member is not None]
        ties += number != evolution.subset.number
        champion = evolution.champion
        assert champion is not None
        best = [m.id for m in members if m.train == champion.train]
        assert champion.id <= min(best, default=champion.id)
    assert ties == 11


def test_a_renewal_asks_what_is_new_and_lets_go_of_who_fails() -> None:
    problem, score = problem_for(M2N2())
    evolution = Evolution(problem, M2N2(archive=5, share=0.4, renew=8))
    while evolution.renewal is None:
        proposal = evolution.ask()
        truth, plan = score(proposal.genome), evolution.plan_for(proposal)
        while not plan.done:
            block = plan.next()
            plan.record(block, truth[block])
        evolution.tell(proposal.step, plan.scores)
    assert evolution.evaluations == 8
    with pytest.raises(InputError, match="members compete for other examples from now on"):
        evolution.ask()
    renewal = evolution.renewal
    seeds = {0, 1, 2}  # were asked everything
    assert {member.id for member in renewal.members}.isdisjoint(seeds) and renewal.members
    answers: dict[int, Any] = {}
    for member, known, plan in zip(renewal.members, renewal.known, renewal.plans(), strict=True):
        wanted = renewal.subset.indices
        assert wanted is not None
        block = plan.next()
        assert set(block.tolist()) == set(wanted[np.isnan(known[wanted])].tolist())
        plan.record(block, score(member.genome)[block])
        assert plan.done
        answers[member.id] = plan.scores
    gone = renewal.members[0].id
    evolution.renew({**answers, gone: None})
    assert evolution.renewal is None and evolution.subset.number == renewal.subset.number == 1
    assert gone not in evolution.archive.slots
    assert set(answers) - {gone} <= set(evolution.archive.slots)
    best = max((m.train for m in evolution.archive.members if m is not None), default=0.0)
    assert evolution.champion is not None and evolution.champion.train == best


# Beginning


def test_options_are_checked_when_a_run_begins() -> None:
    problem, _ = problem_for(M2N2())
    with pytest.raises(ConfigError, match=r"strategy.splits: split_point is false"):
        Evolution(problem, M2N2(split_point=False, splits=2))
    with pytest.raises(ConfigError, match=r"strategy.renew: at least as many"):
        Evolution(problem, M2N2(share=0.5, renew=3), in_flight=4)
    with pytest.raises(ConfigError, match="at most one generation in flight"):
        Evolution(problem, CmaEs(population=3), in_flight=4)
    with pytest.raises(InputError, match="at least one proposal in flight"):
        Evolution(problem, M2N2(), in_flight=0)
    with pytest.raises(InputError, match="does not hold the weights of its seeds"):
        Evolution(problem, M2N2(mutation=0.1))


def test_a_problem_of_vectors() -> None:
    draws = np.random.default_rng(5)
    seeds = [draws.standard_normal(10_000) for _ in range(3)]
    problem = Problem.of_vectors(seeds, 7, seed=4, tensors={"a": 100, "b": 9_900})
    assert problem.axis.tensors.tolist() == [0, 100, 10_000] and problem.tensors == ("a", "b")
    assert (problem.examples.size, problem.examples.binary, problem.seed) == (7, True, 4)
    for genome, weights in zip(problem.seeds, seeds, strict=True):
        assert isinstance(genome, Recipe)
        np.testing.assert_array_equal(problem.express(genome), weights.astype(np.float32))
    dense = problem.densely()
    assert dense.gram is None and dense.densely() is dense
    for one, two in zip(dense.seeds, problem.seeds, strict=True):
        np.testing.assert_array_equal(dense.express(one), problem.express(two))
    own = lay_out([TaskExamples("a", 2), TaskExamples("b", 3)], binary=False)
    assert Problem.of_vectors(seeds, own).examples is own
    for bad, message in (
        ([], "vectors of one length"),
        ([np.zeros(3), np.zeros(4)], "vectors of one length"),
        ([np.zeros((2, 2))], "vectors of one length"),
        ([np.array([1.0, np.nan])], "seed 0 holds NaN"),
    ):
        with pytest.raises(InputError, match=message):
            Problem.of_vectors(bad, 3)
    with pytest.raises(InputError, match=r"tensors must fill 10000 weights; got the sizes \[3\]"):
        Problem.of_vectors(seeds, 3, tensors={"a": 3})


def test_dense_strategies_take_vectors_as_they_are() -> None:
    draws = np.random.default_rng(7)
    seeds = [draws.standard_normal(40).astype(np.float32) for _ in range(2)]
    problem = Problem.of_vectors(seeds, 20)
    for strategy in (M2N2(archive=4, mutation=0.2), CmaEs(population=4, weights=True)):
        evolution = Evolution(problem, strategy)
        for _ in range(20):
            proposal = evolution.ask()
            weights = problem.express(proposal.genome)
            evolution.tell(proposal.step, (weights[:20] > 0).astype(np.float32))
        assert evolution.champion is not None


# The examples


@pytest.mark.parametrize(
    ("script", "package"),
    [("arrays.py", "numpy"), pytest.param("network.py", "torch", marks=pytest.mark.slow)],
)
def test_the_examples_run_and_are_short(script: str, package: str) -> None:
    pytest.importorskip(package)
    file = Path(__file__).parents[2] / "examples/ask_tell" / script
    assert len(file.read_text().splitlines()) <= 30
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=True)
    before, _, after = done.stdout.partition(" -> ")
    assert float(after) > max(float(value) for value in before.split()) + 0.1


def test_the_public_names() -> None:
    for name in ("CmaEs", "Evolution", "GA", "M2N2", "MapElites", "Problem", "RandomMerge"):
        assert name in genepool.__all__ and getattr(genepool, name).__name__ == name
