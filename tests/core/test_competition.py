"""Properties of fitness, attraction, survival, coverage and entropy."""

from __future__ import annotations

from fractions import Fraction

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.core.competition import (
    Baseline,
    attraction,
    best_capacity,
    coverage,
    entropy,
    fitness,
    survivor,
)
from genepool.errors import InputError
from tests.core.dense import exact_fitness, exact_survivor

often = settings(max_examples=80, deadline=None)
alphas = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.0])
shapes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=7)


def score_values(steps: int = 4) -> st.SearchStrategy[float]:
    """0 and 1 as often as all between: ties and unclaimed examples must be common."""
    between = st.integers(1, steps - 1).map(lambda n: n / steps)
    return st.one_of(st.just(0.0), st.just(1.0), between)


matrices = shapes.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=score_values()))


@st.composite
def contests(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores and capacities that are small rationals, with clones among the members."""
    matrix = draw(matrices)
    for row in range(1, matrix.shape[0]):
        if draw(st.integers(0, 3)) == 0:
            matrix[row] = matrix[draw(st.integers(0, row - 1))]
    halves = st.integers(0, 6).map(lambda n: n / 2)
    return matrix, draw(hnp.arrays(np.float64, matrix.shape[1], elements=halves))


def fractions(values: np.ndarray) -> list[list[Fraction]]:
    return [[Fraction(value) for value in row] for row in np.atleast_2d(values).tolist()]


@often
@given(contests(), st.sampled_from([0, 1, 2, 3]))
def test_fitness_is_the_formula(contest: tuple[np.ndarray, np.ndarray], alpha: int) -> None:
    scores, capacity = contest
    expected = exact_fitness(fractions(scores), fractions(capacity)[0], alpha)
    got = fitness(scores, capacity, alpha)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, [float(value) for value in expected], rtol=1e-13)


@often
@given(contests())
def test_capacity_is_shared_out_in_full(contest: tuple[np.ndarray, np.ndarray]) -> None:
    scores, capacity = contest
    claimed = scores.any(axis=0)
    np.testing.assert_allclose(fitness(scores, capacity).sum(), capacity[claimed].sum())


@often
@given(contests())
def test_without_competition_fitness_is_a_weighted_sum(
    contest: tuple[np.ndarray, np.ndarray],
) -> None:
    scores, capacity = contest
    np.testing.assert_allclose(fitness(scores, capacity, 0.0), scores @ capacity, rtol=1e-13)


@often
@given(contests(), alphas, st.randoms(use_true_random=False))
def test_fitness_follows_members_and_ignores_the_order_of_examples(
    contest: tuple[np.ndarray, np.ndarray], alpha: float, random: object
) -> None:
    scores, capacity = contest
    draws = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    rows, columns = draws.permutation(scores.shape[0]), draws.permutation(scores.shape[1])
    values = fitness(scores, capacity, alpha)
    shuffled = fitness(scores[rows][:, columns], capacity[columns], alpha)
    np.testing.assert_allclose(shuffled, values[rows], rtol=1e-13)


@often
@given(contests(), st.sampled_from([0, 1, 2]), st.data())
def test_the_baseline_takes_the_worst_score_off_all(
    contest: tuple[np.ndarray, np.ndarray], alpha: int, data: st.DataObject
) -> None:
    scores, capacity = contest
    limits = fractions(capacity)[0]

    def less_the_worst(matrix: np.ndarray) -> list[list[Fraction]]:
        columns = [
            [x - min(column) for x in column] for column in zip(*fractions(matrix), strict=True)
        ]
        return [list(row) for row in zip(*columns, strict=True)]

    expected = exact_fitness(less_the_worst(scores), limits, alpha)
    got = fitness(scores, capacity, alpha, baseline="worst")
    np.testing.assert_allclose(got, [float(value) for value in expected], rtol=1e-13)
    best = [max(column) for column in zip(*less_the_worst(scores), strict=True)]
    assert best_capacity(scores, baseline="worst").tolist() == [float(value) for value in best]
    # Archive and child together have one baseline.
    child = data.draw(hnp.arrays(np.float64, scores.shape[1], elements=score_values()))
    *rows, last = less_the_worst(np.vstack([scores, child]))
    wanted = exact_survivor(rows, last, limits, alpha)
    assert survivor(scores, child, capacity, alpha, baseline="worst") == wanted


@often
@given(contests(), alphas, st.data())
def test_with_a_baseline_what_all_have_in_common_makes_no_difference(
    contest: tuple[np.ndarray, np.ndarray], alpha: float, data: st.DataObject
) -> None:
    scores, capacity = contest
    child = data.draw(hnp.arrays(np.float64, scores.shape[1], elements=score_values()))
    both = np.vstack([scores, child]) / 2
    # Quarters and halves of them: no sum is rounded.
    steps = st.integers(0, 4).map(lambda n: n / 8)
    more = data.draw(hnp.arrays(np.float64, scores.shape[1], elements=steps))
    first = data.draw(st.integers(0, scores.shape[0] - 1))
    answers = [
        (
            fitness(rows[:-1], capacity, alpha, baseline="worst").tolist(),
            attraction(rows[:-1], first, capacity, alpha, baseline="worst").tolist(),
            best_capacity(rows, baseline="worst").tolist(),
            survivor(rows[:-1], rows[-1], capacity, alpha, baseline="worst"),
        )
        for rows in (both, both + more)
    ]
    assert answers[0] == answers[1]


@often
@given(contests(), alphas, st.integers(0, 10))
def test_attraction_is_the_formula(
    contest: tuple[np.ndarray, np.ndarray], alpha: float, pick: int
) -> None:
    scores, capacity = contest
    first = pick % scores.shape[0]
    got = attraction(scores, first, capacity, alpha)
    assert bool((got >= 0).all())
    assert got[first] == 0
    for member, row in enumerate(scores):
        value = sum(
            limit / z**alpha * max(mine - theirs, 0.0)
            for limit, z, mine, theirs in zip(
                capacity, scores.sum(axis=0), row, scores[first], strict=True
            )
            if z > 0
        )
        assert got[member] == pytest.approx(value, rel=1e-13)


@settings(max_examples=200, deadline=None)
@given(contests(), st.sampled_from([0, 1, 2]), st.data())
def test_survivor_is_the_first_of_the_least_fit(
    contest: tuple[np.ndarray, np.ndarray], alpha: int, data: st.DataObject
) -> None:
    scores, capacity = contest
    row = hnp.arrays(np.float64, scores.shape[1], elements=score_values())
    clone = st.integers(0, scores.shape[0] - 1).map(lambda number: scores[number])
    child = data.draw(st.one_of(row, clone))
    got = survivor(scores, child, capacity, alpha)
    wanted = exact_survivor(fractions(scores), fractions(child)[0], fractions(capacity)[0], alpha)
    assert got == wanted
    columns = np.array(data.draw(st.permutations(range(scores.shape[1]))))
    assert survivor(scores[:, columns], child[columns], capacity[columns], alpha) == wanted


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 3.0])
@pytest.mark.parametrize("binary", [True, False])
def test_clones_tie_whatever_the_order_of_summation(alpha: float, binary: bool) -> None:
    # Large enough that sums of the same numbers in another order do differ in the last place.
    draws = np.random.default_rng(5)
    for members in (2, 3, 17, 64):
        scores = draws.random((members, 1437)).astype(np.float32).astype(np.float64)
        if binary:
            scores = np.round(scores)
        scores[:, :600] *= 0.999
        weakest = scores[0] * (draws.random(1437) < 0.7)
        scores[members // 2] = scores[members - 1] = weakest
        if binary:
            scores, weakest = np.ceil(scores), np.ceil(weakest)
        capacity = draws.random(1437) + 0.5
        for _ in range(5):
            columns = draws.permutation(1437)
            slot = survivor(scores[:, columns], weakest[columns], capacity[columns], alpha)
            assert slot == members // 2


@pytest.mark.parametrize("alpha", [9.0, 12.0, 40.0])
def test_a_contest_whose_power_has_no_number_is_shared_by_those_who_claim_it(alpha: float) -> None:
    # As likelihoods of whole texts may be.
    scores = np.array([[1e-36, 0.5], [2e-37, 0.5], [0.0, 0.5]])
    capacity = best_capacity(scores)
    found = fitness(scores, capacity, alpha)
    assert np.isfinite(found).all() and found[0] > found[1] > found[2] > 0
    assert attraction(scores, 2, capacity, alpha).argmax() == 0
    assert survivor(scores, scores[0], capacity, alpha) == 2
    assert survivor(scores, [0.0, 0.25], capacity, alpha) is None


def test_arguments_are_left_alone() -> None:
    scores, capacity = np.array([[1.0, 0.5], [0.25, 0.0]]), np.array([1.0, 2.0])
    before = scores.copy(), capacity.copy()
    fitness(scores, capacity)
    attraction(scores, 0, capacity)
    survivor(scores, scores[1], capacity)
    coverage(scores), entropy(scores), best_capacity(scores)
    np.testing.assert_array_equal(scores, before[0])
    np.testing.assert_array_equal(capacity, before[1])


@often
@given(matrices)
def test_coverage_and_entropy_stay_in_range(scores: np.ndarray) -> None:
    assert 0.0 <= coverage(scores) <= 1.0
    assert 0.0 <= entropy(scores) <= 1.0
    assert coverage(scores) == pytest.approx(best_capacity(scores).mean())
    agreed = np.repeat(np.round(scores[:1]), 3, axis=0)
    assert entropy(agreed) == 0.0
    assert entropy(np.concatenate([agreed, 1 - agreed])) == 1.0


GOOD = [[1.0, 0.0], [0.5, 0.25]]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([1.0, 0.0], "shape"),
        ([[[1.0]]], "shape"),
        ([], "shape"),
        (np.zeros((0, 3)), "shape"),
        (np.zeros((3, 0)), "shape"),
        ([[1.0, 0.0], [0.5]], "scores must be numbers"),
        ([["a", "b"]], "scores must be numbers"),
        ([[1j, 0.0]], "scores must be numbers"),
        ([[None, 0.0]], "scores must"),
        ([[0.5, 1.5]], "member 0, example 1 has 1.5"),
        ([[0.5, 1.0], [-0.25, 1.0]], "member 1, example 0 has -0.25"),
        ([[0.5, float("nan")]], "member 0, example 1 has nan"),
        ([[float("inf"), 0.0]], "member 0, example 0 has inf"),
    ],
)
def test_wrong_scores_are_named(scores: object, said: str) -> None:
    for function in (
        fitness,
        coverage,
        entropy,
        best_capacity,
        lambda s: attraction(s, 0),
        lambda s: survivor(s, [0.0, 1.0]),
    ):
        with pytest.raises(InputError, match=said) as caught:
            function(scores)  # type: ignore[operator]
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("capacity", "said"),
    [
        ([1.0], r"capacity .* expected \(2,\), got \(1,\)"),
        ([[1.0, 1.0]], r"capacity .* expected \(2,\), got \(1, 2\)"),
        (1.0, r"capacity .* expected \(2,\), got \(\)"),
        ([1.0, -1.0], "capacity .* example 1 has -1.0"),
        ([float("nan"), 1.0], "capacity .* example 0 has nan"),
        ([1.0, float("inf")], "capacity .* example 1 has inf"),
        (["a", "b"], "capacity must be numbers"),
    ],
)
def test_wrong_capacity_is_named(capacity: object, said: str) -> None:
    for call in (
        lambda: fitness(GOOD, capacity),  # type: ignore[arg-type]
        lambda: attraction(GOOD, 0, capacity),  # type: ignore[arg-type]
        lambda: survivor(GOOD, GOOD[0], capacity),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match=said):
            call()


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf"), "1", None])
def test_wrong_alpha_is_named(alpha: float) -> None:
    for call in (
        lambda: fitness(GOOD, None, alpha),
        lambda: attraction(GOOD, 0, None, alpha),
        lambda: survivor(GOOD, GOOD[0], None, alpha),
    ):
        with pytest.raises(InputError, match="alpha must be a finite number of at least 0; got"):
            call()


@pytest.mark.parametrize("baseline", ["best", "", None, 0])
def test_wrong_baseline_is_named(baseline: Baseline) -> None:
    for call in (
        lambda: fitness(GOOD, baseline=baseline),
        lambda: attraction(GOOD, 0, baseline=baseline),
        lambda: survivor(GOOD, GOOD[0], baseline=baseline),
        lambda: best_capacity(GOOD, baseline=baseline),
    ):
        with pytest.raises(InputError, match="baseline must be one of none, worst; got"):
            call()


@pytest.mark.parametrize("first", [-1, 2, 0.5, "0", None])
def test_wrong_first_is_named(first: int) -> None:
    with pytest.raises(InputError, match=r"first must be a row of scores, 0\.\.1; got"):
        attraction(GOOD, first)


@pytest.mark.parametrize(
    ("child", "said"),
    [
        ([1.0], r"child .* expected \(2,\), got \(1,\)"),
        ([1.0, 0.0, 1.0], r"child .* expected \(2,\), got \(3,\)"),
        ([[1.0, 0.0]], r"child .* expected \(2,\), got \(1, 2\)"),
        (1.0, r"child .* expected \(2,\), got \(\)"),
        ([1.0, 2.0], "child .* example 1 has 2.0"),
        ([float("nan"), 0.0], "child .* example 0 has nan"),
        (["x", "y"], "child must be numbers"),
    ],
)
@pytest.mark.parametrize("capacity", [None, [1.0, 2.0]])
def test_wrong_child_is_named(child: object, said: str, capacity: list[float] | None) -> None:
    with pytest.raises(InputError, match=said):
        survivor(GOOD, child, capacity)  # type: ignore[arg-type]
