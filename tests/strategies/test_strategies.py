"""Who mates with whom and how: every switch, every fall-back, every frequency."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from genepool.core.archive import Archive, Member, empty_archive
from genepool.core.axis import Axis, axis
from genepool.core.competition import Baseline, attraction, best_capacity, fitness
from genepool.core.early_stop.lossless import LosslessPlan
from genepool.core.examples import TaskExamples, examples_of, lay_out
from genepool.core.genome import (
    Recipe,
    Vector,
    breed,
    compose,
    encode,
    express,
    recipe,
    seed_recipe,
)
from genepool.core.rng import noise, noise_words
from genepool.core.slerp import Angle, merge_recipe, products_of
from genepool.errors import InputError
from genepool.strategies.ga import GA
from genepool.strategies.m2n2 import M2N2
from genepool.strategies.problem import Problem, Proposal
from genepool.strategies.random import RandomMerge
from genepool.strategies.sweep import Sweep, grid_ratio
from tests.core.dense import DenseProducts
from tests.core.trial import problem_of, run

SIZE = 24
TWO = Axis(np.array([0, 4, 10, SIZE]), np.array([0, 10, SIZE]), ("attention", "rest"))


def vectors(count: int, size: int = SIZE) -> list[Vector]:
    draws = np.random.default_rng(count)
    return [Vector(draws.standard_normal(size).astype(np.float32)) for _ in range(count)]


def dense_problem(count: int, examples: int, along: Axis | None = None) -> Problem:
    scored = examples_of(examples, binary=True)
    return Problem(along or axis(SIZE), None, scored, tuple(vectors(count)), seed=3)


def archive_of(scores: list[list[float]], alpha: float = 1.0, empty: int = 0) -> Archive:
    """Members 10, 11, ... with these scores, then empty slots."""
    matrix = np.array(scores + [[0.0] * len(scores[0])] * empty, dtype=np.float64)
    members = [
        Member(10 + slot, genome, (), 0.0) for slot, genome in enumerate(vectors(len(scores)))
    ]
    scored = examples_of(matrix.shape[1], binary=True)
    return Archive((*members, *([None] * empty)), matrix, scored, alpha)


def propose(
    strategy: M2N2, archive: Archive, steps: int, along: Axis | None = None
) -> list[Proposal]:
    problem = dense_problem(3, archive.scores.shape[1], along)
    return [strategy.propose(problem, archive, step) for step in range(1, steps + 1)]


def assert_in_proportion(counts: np.ndarray, weights: np.ndarray) -> None:
    expected = counts.sum() * weights / weights.sum()
    assert bool((counts[weights == 0] == 0).all())
    assert bool((np.abs(counts - expected) <= 4.5 * np.sqrt(expected)).all())


# Members that differ in fitness, and of which each lacks something.
SCORES = [[1, 1, 1, 1, 0, 0], [1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0]]


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_parents_follow_fitness_and_attraction(alpha: float) -> None:
    archive = archive_of(SCORES, alpha, empty=2)
    pairs = np.zeros((6, 6))
    for proposal in propose(M2N2(archive=6, alpha=alpha), archive, 6000):
        first, second = proposal.plan.parents
        pairs[first - 10, second - 10] += 1
    assert_in_proportion(pairs.sum(axis=1), fitness(archive.scores, None, alpha))
    for first in range(4):
        assert_in_proportion(pairs[first], attraction(archive.scores, first, None, alpha))


def test_without_attraction_both_parents_follow_fitness() -> None:
    archive = archive_of(SCORES)
    pairs = np.zeros((4, 4))
    for proposal in propose(M2N2(archive=4, attraction=False), archive, 6000):
        first, second = proposal.plan.parents
        pairs[first - 10, second - 10] += 1
    share = fitness(archive.scores)
    assert_in_proportion(pairs.ravel(), np.outer(share, share).ravel())


@pytest.mark.slow
def test_ratio_and_splits_are_uniform() -> None:
    proposals = propose(M2N2(archive=4), archive_of(SCORES), 3000, TWO)
    ratios = np.sort([proposal.plan.ratio for proposal in proposals])
    assert np.abs(ratios - np.arange(3000) / 3000).max() < 2 / np.sqrt(3000)
    for number, (low, high) in enumerate(((0, 10), (10, SIZE))):
        splits = np.array([proposal.plan.splits[number] for proposal in proposals])
        counts = np.bincount(splits - low, minlength=high - low)
        assert counts.size == high - low
        assert_in_proportion(counts, np.ones(high - low))
    # Each chromosome draws its own.
    both = np.array([proposal.plan.splits for proposal in proposals])
    assert abs(float(np.corrcoef(both.T)[0, 1])) < 0.08


def test_several_splits_per_chromosome_are_uniform_and_in_order() -> None:
    proposals = propose(M2N2(archive=4, splits=3), archive_of(SCORES), 2000, TWO)
    splits = np.array([proposal.plan.splits for proposal in proposals])
    for number, (low, high) in enumerate(((0, 10), (10, SIZE))):
        mine = splits[:, 3 * number : 3 * number + 3]
        assert bool((np.diff(mine) >= 0).all())
        assert_in_proportion(np.bincount(mine.ravel() - low), np.ones(high - low))
    # One after the other, two ratios.
    for proposal in proposals:
        assert all(len(set(column)) <= 2 for column in proposal.merge.coefs.T.tolist())
    assert max(len(proposal.merge.coefs) for proposal in proposals) == 8


def test_split_points_can_be_switched_off() -> None:
    for proposal in propose(M2N2(archive=4, split_point=False), archive_of(SCORES), 50, TWO):
        assert proposal.plan.splits == (10, SIZE)
        # One ratio, one angle: a single segment.
        assert proposal.merge.bounds.tolist() == [0, SIZE]


@pytest.mark.slow
def test_crossover_can_be_switched_off() -> None:
    archive = archive_of(SCORES, empty=1)
    counts = np.zeros(5)
    strategy = M2N2(archive=5, crossover=False, mutation=0.5)
    for proposal in propose(strategy, archive, 4000):
        (parent,) = proposal.plan.parents
        counts[parent - 10] += 1
        member = archive.members[parent - 10]
        assert member is not None
        assert isinstance(member.genome, Vector) and isinstance(proposal.genome, Vector)
        added = noise(noise_words(3, proposal.step, SIZE)) * np.float32(0.5)
        np.testing.assert_array_equal(proposal.genome.values, member.genome.values + added)
    assert_in_proportion(counts, archive.fitness)


def test_warm_up_pairs_different_seeds_at_random() -> None:
    archive = archive_of(SCORES)
    problem = dense_problem(3, 6)
    strategy = M2N2(archive=4, warmup=3000)
    pairs = np.zeros((3, 3))
    for step in range(1, 3001):
        proposal = strategy.propose(problem, archive, step)
        first, second = proposal.plan.parents
        pairs[first, second] += 1
        parents = problem.seeds[first], problem.seeds[second]
        assert encode(breed(proposal.merge, parents, 0.0, 3, step)) == encode(proposal.genome)
    assert_in_proportion(pairs.ravel(), 1 - np.eye(3).ravel())
    # Then breeding goes on from the archive; and one seed has nobody to pair with.
    assert all(parent >= 10 for parent in strategy.propose(problem, archive, 3001).plan.parents)
    alone = dense_problem(1, 6)
    assert all(parent >= 10 for parent in strategy.propose(alone, archive, 1).plan.parents)


def test_mutation_is_noise_of_its_own_on_the_child() -> None:
    archive = archive_of(SCORES)
    plain = propose(M2N2(archive=4), archive, 20)
    mutated = propose(M2N2(archive=4, mutation=0.25), archive, 20)
    for one, two in zip(plain, mutated, strict=True):
        # The same parents, ratio and splits: noise comes from another stream.
        assert replace(two.plan, mutation=0.0) == one.plan
        assert isinstance(one.genome, Vector) and isinstance(two.genome, Vector)
        added = noise(noise_words(3, one.step, SIZE)) * np.float32(0.25)
        np.testing.assert_array_equal(two.genome.values, one.genome.values + added)


# Fall-backs


def test_where_nobody_offers_anything_fitness_decides_without_the_first() -> None:
    # Member 0 solves all that anybody solves.
    archive = archive_of([[1, 1, 1], [1, 1, 0], [0, 0, 1]], empty=1)
    pairs = np.zeros((4, 4))
    for proposal in propose(M2N2(archive=4), archive, 3000):
        first, second = proposal.plan.parents
        pairs[first - 10, second - 10] += 1
    left = archive.fitness.copy()
    left[0] = 0.0
    assert_in_proportion(pairs[0], left)


def test_where_nobody_offers_anything_and_the_rest_has_no_fitness_all_are_alike() -> None:
    archive = archive_of([[0, 0], [1, 1], [0, 0]], empty=1)
    pairs = np.zeros((4, 4))
    for proposal in propose(M2N2(archive=4), archive, 2000):
        first, second = proposal.plan.parents
        pairs[first - 10, second - 10] += 1
    assert pairs[1].sum() == 2000
    assert_in_proportion(pairs[1], np.array([1.0, 0.0, 1.0, 0.0]))


@pytest.mark.slow
@pytest.mark.parametrize("attraction", [True, False])
def test_where_nobody_solves_anything_all_members_are_alike(attraction: bool) -> None:
    archive = archive_of([[0, 0], [0, 0], [0, 0]], empty=2)
    pairs = np.zeros((5, 5))
    for proposal in propose(M2N2(archive=5, attraction=attraction), archive, 2000):
        first, second = proposal.plan.parents
        pairs[first - 10, second - 10] += 1
    occupied = np.array([1.0, 1.0, 1.0, 0.0, 0.0])
    assert_in_proportion(pairs.sum(axis=1), occupied)
    assert_in_proportion(pairs.sum(axis=0), occupied)
    assert not attraction or not np.diag(pairs).any()


@pytest.mark.parametrize("solves", [0.0, 1.0])
@pytest.mark.parametrize("attraction", [True, False])
def test_a_single_member_mates_with_itself(attraction: bool, solves: float) -> None:
    archive = archive_of([[solves, 0]], empty=3)
    for proposal in propose(M2N2(archive=4, attraction=attraction), archive, 20):
        assert proposal.plan.parents == (10, 10)


# What a proposal is


@pytest.mark.parametrize("dense", [True, False])
def test_proposals_are_functions_of_their_arguments_alone(dense: bool) -> None:
    problem, score = problem_of(np.random.default_rng(4), dense=dense)
    strategy = M2N2(archive=6, mutation=0.1 if dense else 0.0)
    archive = run(strategy, problem, score, 30).archive
    first = [strategy.propose(problem, archive, step) for step in range(40, 60)]
    np.random.seed(0)  # noqa: NPY002  (the global state must not matter)
    copy = Archive(archive.members, archive.scores.copy(), archive.examples, archive.alpha)
    for proposal in reversed(first):
        again = M2N2.model_validate(strategy.model_dump()).propose(problem, copy, proposal.step)
        assert again.plan == proposal.plan
        assert encode(again.merge) == encode(proposal.merge)
        assert encode(again.genome) == encode(proposal.genome)
    other = replace(problem, seed=12)
    assert strategy.propose(other, archive, 40).plan != first[0].plan


@pytest.mark.slow
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("angle", ["global", "side", "tensor"])
def test_the_plan_and_the_merge_make_the_child(angle: Angle, splits: int) -> None:
    for dense in (True, False):
        problem, score = problem_of(np.random.default_rng(5), dense=dense)
        strategy = M2N2(archive=6, angle=angle, splits=splits, mutation=0.1 if dense else 0.0)
        trial = run(strategy, problem, score, 40)
        genomes = dict(enumerate(problem.seeds))
        for number, proposal in enumerate(trial.proposals):
            plan = proposal.plan
            parents = [genomes[parent] for parent in plan.parents]
            merge = merge_recipe(
                products_of(parents[0], parents[1], problem.gram),
                problem.axis, plan.ratio, plan.splits, plan.angle,
            )  # fmt: skip
            assert encode(merge) == encode(proposal.merge)
            child = breed(proposal.merge, parents, plan.mutation, problem.seed, proposal.step)
            assert encode(child) == encode(proposal.genome)
            genomes[len(problem.seeds) + number] = child
            assert json.loads(plan.as_json()) == {
                "parents": list(plan.parents),
                "ratio": plan.ratio,
                "splits": list(plan.splits),
                "angle": angle,
                "mutation": plan.mutation,
            }


def test_breed_composes_recipes_and_expresses_vectors() -> None:
    merge = recipe([0, 5, SIZE], np.array([[0.25, 0.75], [0.5, 0.5]]))
    one, two = seed_recipe(SIZE, 0, 2), seed_recipe(SIZE, 1, 2)
    assert encode(breed(merge, [one, two], 0.0, 1, 1)) == encode(compose(merge, [one, two]))
    a, b = vectors(2)
    child = breed(merge, [a, b], 0.0, 1, 1)
    assert isinstance(child, Vector)
    np.testing.assert_array_equal(child.values, express(merge, [a.values, b.values]))
    with pytest.raises(InputError, match="expected 2 recipes"):
        breed(merge, [one, a], 0.0, 1, 1)


def test_shares_of_the_parents_tell_the_exam_what_to_expect() -> None:
    # Member 11 solves what 10 does not.
    archive = archive_of([[1] * 50 + [0] * 50, [0] * 50 + [1] * 50])
    strategy = M2N2(archive=2)
    problem = dense_problem(2, 100)
    proposal = strategy.propose(problem, archive, 1)
    unknown = np.full(100, np.nan, dtype=np.float32)
    # Shares are measured along the axis: a segment of one position counts little.
    mostly_11 = recipe([0, 1, SIZE], np.array([[1.0, 0.0], [0.0, 1.0]]))
    mostly_10 = recipe([0, 1, SIZE], np.array([[0.0, 1.0], [1.0, 0.02]]))
    for planned, asked in ((mostly_11, range(50)), (mostly_10, range(50, 100))):
        plan = replace(proposal.plan, parents=(10, 11))
        exam = strategy.evaluation_plan(
            archive, replace(proposal, plan=plan, merge=planned), unknown
        )
        assert set(exam.next().tolist()) <= set(asked)
    # Parents that have left the archive say nothing, and do no harm.
    gone = replace(proposal, plan=replace(proposal.plan, parents=(1, 2)))
    assert strategy.evaluation_plan(archive, gone, unknown).next().size > 0


# Baselines


def test_the_grid_of_ratios_is_filled_evenly() -> None:
    for grid in (2, 3, 5, 21):
        ratios = [grid_ratio(index, grid) for index in range(4 * (grid - 1) + 1)]
        assert ratios[:grid] == [index / (grid - 1) for index in range(grid)]
        assert len(set(ratios)) == len(ratios)
        # Twice halved, all gaps are a quarter of the first ones.
        np.testing.assert_allclose(np.diff(np.sort(ratios)), 1 / (4 * (grid - 1)), rtol=1e-12)


def test_blind_baselines_merge_seeds_only() -> None:
    archive = archive_of(SCORES)
    problem = dense_problem(3, 6, TWO)
    plans = [Sweep(grid=5).propose(problem, archive, step).plan for step in range(1, 16)]
    assert [plan.parents for plan in plans] == [(0, 1), (0, 2), (1, 2)] * 5
    assert [getattr(plan, "ratio", None) for plan in plans[::3]] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert {getattr(plan, "splits", None) for plan in plans} == {(10, SIZE)}
    pairs = np.zeros((3, 3))
    for step in range(1, 3001):
        first, second = RandomMerge().propose(problem, archive, step).plan.parents
        pairs[first, second] += 1
    assert_in_proportion(pairs.ravel(), 1 - np.eye(3).ravel())
    alone = dense_problem(1, 6)
    for strategy in (RandomMerge(), Sweep(grid=3)):
        assert strategy.propose(alone, archive, 1).plan.parents == (0, 0)


# Absorbing


def test_begin_and_absorb() -> None:
    problem = dense_problem(2, 4)
    assert GA(archive=3, baseline="worst").begin(problem, 1).baseline == "worst"
    assert M2N2(archive=3, baseline="worst").begin(problem, 1).baseline == "worst"
    strategy = M2N2(archive=3, alpha=2.0)
    archive = strategy.begin(problem, 1)
    assert archive.baseline == "none"
    assert archive.members == (None, None, None) and archive.alpha == 2.0
    assert archive.scores.shape == (3, 4) and not archive.scores.any()
    rows = np.array(
        [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0], [1, 1, 1, 0]], dtype=np.float32
    )
    genome = seed_recipe(4, 0, 1)
    states = [archive]
    outcomes = []
    for number, row in enumerate(rows):
        archive, outcome = strategy.absorb(archive, Member(number, genome, (), 0.0), 0, row)
        states.append(archive)
        outcomes.append(outcome)
    assert [outcome.slot for outcome in outcomes] == [0, 1, 2, None, 0]
    assert [outcome.evicted for outcome in outcomes] == [None, None, None, None, 0]
    assert outcomes[3].fitness == pytest.approx(1 / 9)
    assert [outcome.accepted for outcome in outcomes] == [True, True, True, False, True]
    assert states[4] is states[3]
    # Earlier states are values and stay as they were.
    assert [len([m for m in state.members if m]) for state in states] == [0, 1, 2, 3, 3, 3]
    np.testing.assert_array_equal(states[3].scores, rows[:3])
    np.testing.assert_array_equal(states[5].scores, rows[[4, 1, 2]])
    assert archive.slots[4] == 0 and 0 not in archive.slots
    with pytest.raises(ValueError, match="read-only"):
        archive.scores[0, 0] = 1.0


@pytest.mark.parametrize("baseline", ["none", "worst"])
def test_archive_is_what_competition_says(baseline: Baseline) -> None:
    draws = np.random.default_rng(0)
    for binary in (True, False):
        scores = draws.random((5, 30)).astype(np.float32)
        scores = np.round(scores) if binary else scores
        weights = draws.random(30) + 0.1
        scored = examples_of(30, binary=binary, capacity=weights)
        archive = empty_archive(5, scored, 1.5, baseline)
        for slot, row in enumerate(scores):
            archive = archive.replaced(slot, Member(slot, seed_recipe(4, 0, 1), (), 0.0), row)
        exact = scores.astype(np.float64)
        capacity = weights if binary else weights * best_capacity(exact, baseline=baseline)
        expected = fitness(exact, capacity, 1.5, baseline=baseline)
        np.testing.assert_allclose(archive.fitness, expected, rtol=1e-13)
        for first in range(5):
            expected = attraction(exact, first, capacity, 1.5, baseline=baseline)
            np.testing.assert_allclose(archive.offers(first), expected, rtol=1e-13)
        child = np.ones(30, dtype=np.float32)
        slot, value = archive.challenge(child)
        both = np.concatenate([exact, child[None]])
        limit = weights if binary else weights * best_capacity(both, baseline=baseline)
        values = fitness(both, limit, 1.5, baseline=baseline)
        assert slot == values.argmin() and value == pytest.approx(values[-1])
        assert scored.mean(child) == pytest.approx(1.0)
        assert scored.mean(scores[0]) == pytest.approx(weights @ exact[0] / weights.sum())


def test_recipes_and_vectors_breed_the_same_child() -> None:
    # One plan, one ancestry, held both ways.
    sources = [vector.values for vector in vectors(3)]
    gram = DenseProducts(np.stack(sources).astype(np.float64))
    scored = examples_of(6, binary=True)
    light = tuple(seed_recipe(SIZE, index, 3) for index in range(3))
    problems = [
        Problem(TWO, gram, scored, light, seed=3),
        Problem(TWO, None, scored, tuple(vectors(3)), seed=3),
    ]
    for step in range(1, 30):
        pair: list[Proposal] = []
        for problem in problems:
            members = [Member(k, genome, (), 0.0) for k, genome in enumerate(problem.seeds)]
            archive = Archive(tuple(members), np.array(SCORES[:3], dtype=float), scored, 1.0)
            pair.append(M2N2(archive=3).propose(problem, archive, step))
        one, two = pair
        assert one.plan == two.plan
        assert isinstance(one.genome, Recipe) and isinstance(two.genome, Vector)
        np.testing.assert_allclose(
            express(one.genome, sources), two.genome.values, rtol=0, atol=2e-6
        )


@pytest.mark.parametrize("strategy", [GA(archive=3), M2N2(archive=3, alpha=0.0), Sweep(archive=3)])
@pytest.mark.parametrize("baseline", ["none", "worst"])
def test_without_competition_the_best_means_survive(
    strategy: GA | M2N2 | Sweep, baseline: Baseline
) -> None:
    draws = np.random.default_rng(0)
    scored = lay_out([TaskExamples("a", 2), TaskExamples("b", 5, weight=3.0)], binary=False)
    archive = strategy.begin(replace(dense_problem(2, 7), examples=scored), 1)
    archive = empty_archive(3, scored, archive.alpha, baseline)
    # Specialists that nearly solve one example, and those that solve a part of each.
    rows = np.where(np.arange(40)[:, None] % 2, np.eye(7)[draws.integers(0, 7, 40)], 0.25)
    rows = (rows * draws.random((40, 7))).astype(np.float32)
    for number, row in enumerate(rows):
        before = archive
        member = Member(number, seed_recipe(SIZE, 0, 1), (), scored.mean(row))
        archive, outcome = strategy.absorb(archive, member, 1, row)
        plan = LosslessPlan(before, [(None, 1.0)], np.full(7, np.nan, dtype=np.float32))
        while not plan.done:
            block = plan.next()
            plan.record(block, row[block])
        assert plan.rejected <= (not outcome.accepted)
    best = sorted(range(40), key=lambda number: -scored.mean(rows[number]))[:3]
    assert set(archive.slots) == set(best)


def test_nobody_is_evicted_while_a_slot_is_empty() -> None:
    scored = examples_of(3, binary=True)
    nothing = (Vector(np.zeros(4, dtype=np.float32)),)
    archive = M2N2(archive=3).begin(Problem(axis(4), None, scored, nothing, 0), 1)
    # Members that solve nothing are as unfit as empty slots.
    for number in range(3):
        member = Member(number, Vector(np.full(4, number, dtype=np.float32)), (), 0.0)
        archive, outcome = M2N2(archive=3).absorb(archive, member, 0, np.zeros(3, np.float32))
        assert (outcome.slot, outcome.evicted) == (number, None)
    assert [member.id for member in archive.members if member is not None] == [0, 1, 2]
