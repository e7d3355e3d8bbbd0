"""Cases small enough to be worked out on paper; they run without the shared folder."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from genepool.core.archive import Archive, Member
from genepool.core.competition import (
    attraction,
    best_capacity,
    coverage,
    entropy,
    fitness,
    survivor,
)
from genepool.core.examples import examples_of
from genepool.core.genome import seed_recipe
from genepool.core.slerp import Angle, merge_vectors

HALF_ROOT_3 = sqrt(3) / 2


@pytest.mark.parametrize(
    ("a", "b", "ratio", "split", "child"),
    [
        # At a right angle the weights are cos and sin of ratio * 90 degrees.
        ([1, 0], [0, 1], 1 / 3, 2, [HALF_ROOT_3, 0.5]),
        ([1, 0], [0, 1], 1 / 3, 0, [0.5, HALF_ROOT_3]),
        ([1, 0], [0, 1], 1 / 3, 1, [HALF_ROOT_3, HALF_ROOT_3]),
        # At 60 degrees half way: sin 30 / sin 60 = 1 / sqrt 3 of each. Lengths do not matter.
        ([1, 0], [0.5, HALF_ROOT_3], 0.5, 1, [HALF_ROOT_3, 0.5]),
        ([10, 0], [0.5, HALF_ROOT_3], 0.5, 2, [10.5 / sqrt(3), 0.5]),
        # At 120 degrees half way: sin 60 / sin 120 = 1 of each.
        ([1, 0], [-0.5, HALF_ROOT_3], 0.5, 2, [0.5, HALF_ROOT_3]),
        # Colinear, antiparallel, or of length 0: linear.
        ([1, 2], [2, 4], 0.25, 1, [1.25, 3.5]),
        ([1, 2], [-1, -2], 0.25, 1, [0.5, -1.0]),
        ([0, 0], [1, 2], 0.25, 1, [0.25, 1.5]),
        # Ratio 0 is a, then b; ratio 1 is b, then a.
        ([1, 2, 3], [4, 6, 9], 0.0, 1, [1, 6, 9]),
        ([1, 2, 3], [4, 6, 9], 1.0, 1, [4, 2, 3]),
    ],
)
def test_merge(
    a: list[float], b: list[float], ratio: float, split: int, child: list[float]
) -> None:
    np.testing.assert_allclose(merge_vectors(a, b, ratio, split), child, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("angle", ["global", "side", "tensor"])
def test_angle_rules(angle: Angle) -> None:
    # <a, b> = 1 and both lengths are sqrt 2: 60 degrees over everything. Over the first two a right
    # angle, over the last two 0 degrees, where weights are linear.
    a, b = [1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]
    of_a, of_b = np.sin(np.radians([40, 20])) / np.sin(np.radians(60))
    expected = {
        "global": [of_a, of_b, of_a + of_b, 0.0],
        "side": [HALF_ROOT_3, 0.5, 1.0, 0.0],
        "tensor": [HALF_ROOT_3, 0.5, 1.0, 0.0],
    }[angle]
    got = merge_vectors(a, b, 1 / 3, 2, angle, tensors=[2])
    np.testing.assert_allclose(got, expected, rtol=1e-14, atol=1e-15)


def test_angle_per_tensor_spans_the_split_and_per_side_does_not() -> None:
    a, b = [1.0, 0.0, 0.0, 2.0], [0.0, 1.0, 0.0, 2.0]
    # Tensor 0..3 has a right angle; its split at 1 leaves the angle alone.
    tensor = merge_vectors(a, b, 1 / 3, 1, "tensor", tensors=[3])
    np.testing.assert_allclose(tensor, [HALF_ROOT_3, HALF_ROOT_3, 0.0, 2.0], rtol=1e-14)
    # Left side [1] and [0]: a length of 0, so linear; right side (0, 0, 2) and (1, 0, 2).
    side = merge_vectors(a, b, 1 / 3, 1, "side", tensors=[3])
    omega = np.arccos(2 / sqrt(5))
    of_a, of_b = np.sin(omega / 3) / np.sin(omega), np.sin(2 * omega / 3) / np.sin(omega)
    expected = [2 / 3, of_b, 0.0, 2 * (of_a + of_b)]
    np.testing.assert_allclose(side, expected, rtol=1e-14)


# Two members; the first solves both claimed examples, nobody the third.
SHARED = [[1, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("capacity", "alpha", "expected"),
    [
        (None, 0.0, [2, 1]),
        (None, 0.5, [1 / sqrt(2) + 1, 1 / sqrt(2)]),
        (None, 1.0, [1.5, 0.5]),
        (None, 2.0, [1.25, 0.25]),
        ([2, 1, 7], 1.0, [2, 1]),
        ([0, 1, 7], 1.0, [1, 0]),
    ],
)
def test_fitness(capacity: list[float] | None, alpha: float, expected: list[float]) -> None:
    np.testing.assert_allclose(fitness(SHARED, capacity, alpha), expected, rtol=1e-15)


def test_fitness_of_continuous_scores() -> None:
    scores = [[0.5, 0.2], [0.25, 0.0]]
    capacity = best_capacity(scores)
    assert capacity.tolist() == [0.5, 0.2]
    expected = [0.5 * 0.5 / 0.75 + 0.2, 0.5 * 0.25 / 0.75]
    np.testing.assert_allclose(fitness(scores, capacity), expected, rtol=1e-15)


# The worst of both examples is 0.5: (3, 0), (1, 0) and (0, 2) eighths remain.
CLOSE = [[0.875, 0.5], [0.625, 0.5], [0.5, 0.75]]


@pytest.mark.parametrize(
    ("capacity", "alpha", "expected"),
    [
        (None, 0.0, [3 / 8, 1 / 8, 2 / 8]),
        (None, 1.0, [3 / 4, 1 / 4, 1]),
        (None, 2.0, [3 / 2, 1 / 2, 4]),
        # Capacity for continuous scores: 3 and 2 eighths.
        (best_capacity(CLOSE, baseline="worst"), 1.0, [9 / 32, 3 / 32, 8 / 32]),
        (best_capacity(CLOSE, baseline="worst"), 0.0, [9 / 64, 3 / 64, 4 / 64]),
    ],
)
def test_fitness_above_the_worst(
    capacity: list[float] | None, alpha: float, expected: list[float]
) -> None:
    got = fitness(CLOSE, capacity, alpha, baseline="worst")
    np.testing.assert_allclose(got, expected, rtol=1e-15)


def test_attraction_above_the_worst() -> None:
    capacity = best_capacity(CLOSE, baseline="worst")
    assert capacity.tolist() == [3 / 8, 2 / 8]
    for first, expected in (
        (0, [0, 0, 2 / 8]),
        (1, [3 / 4 * 2 / 8, 0, 2 / 8]),
        (2, [3 / 4 * 3 / 8, 3 / 4 * 1 / 8, 0]),
    ):
        got = attraction(CLOSE, first, capacity, baseline="worst")
        np.testing.assert_allclose(got, expected, rtol=1e-15)


@pytest.mark.parametrize(
    ("child", "fit", "slot"),
    [
        # It is the worst at the first example: (5, 0), (2, 1) and (0, 1) eighths, of which capacity
        # 5 and 1 eighths. Above the worst of the archive alone, (3, 0) and (0, 1), it would tie
        # with the second.
        ([0.25, 0.625], [25 / 56, 10 / 56 + 1 / 16, 1 / 16], None),
        # (3, 0), (0, 1) and (1, 2) eighths: contest 4 and 3, capacity 3 and 2.
        ([0.625, 0.75], [9 / 32, 2 / 24, 3 / 32 + 4 / 24], 1),
        # As the second: (3, 0), (0, 1) and (0, 1); both have half of it, and the incumbent goes.
        ([0.5, 0.625], [9 / 24, 1 / 16, 1 / 16], 1),
    ],
)
def test_the_worst_is_that_of_archive_and_child(
    child: list[float], fit: list[float], slot: int | None
) -> None:
    scores = [[0.875, 0.5], [0.5, 0.625]]
    everybody = [*scores, child]
    capacity = best_capacity(everybody, baseline="worst")
    got = fitness(everybody, capacity, baseline="worst")
    np.testing.assert_allclose(got, fit, rtol=1e-15)
    assert survivor(scores, child, capacity, baseline="worst") == slot
    # An archive finds the capacity by itself.
    members = [Member(number, seed_recipe(1, 0, 1), (), 0.0) for number in range(2)]
    matrix = np.array(scores)
    archive = Archive(tuple(members), matrix, examples_of(2, binary=False), 1.0, "worst")
    found, fitness_of_child = archive.challenge(np.array(child))
    assert found == slot
    assert fitness_of_child == pytest.approx(fit[-1], rel=1e-15)


def test_an_empty_slot_has_no_part_in_the_worst() -> None:
    members = [Member(number, seed_recipe(1, 0, 1), (), 0.0) for number in range(3)]
    matrix = np.array([*CLOSE, [0.0, 0.0]])
    examples = examples_of(2, binary=False)
    archive = Archive((*members, None), matrix, examples, 1.0, "worst")
    np.testing.assert_allclose(archive.fitness, [9 / 32, 3 / 32, 8 / 32, 0], rtol=1e-15)
    np.testing.assert_allclose(archive.offers(1), [3 / 4 * 2 / 8, 0, 2 / 8, 0], rtol=1e-15)
    # The child is above nobody anywhere, and still there is room for it.
    slot, fitness_of_child = archive.challenge(np.array([0.25, 0.25]))
    assert (slot, fitness_of_child) == (3, 0.0)
    # Alone in the archive a member is above nobody either.
    alone = Archive((members[0], None), matrix[[0, 3]], examples, 1.0, "worst")
    assert alone.fitness.tolist() == [0.0, 0.0]
    assert alone.challenge(np.array([0.5, 0.5]))[0] == 1


@pytest.mark.parametrize(
    ("first", "alpha", "expected"),
    [(0, 1.0, [0, 0, 0.5]), (1, 1.0, [1.0, 0, 0.5]), (2, 2.0, [1.25, 0.25, 0])],
)
def test_attraction(first: int, alpha: float, expected: list[float]) -> None:
    # Contest 2, 1, 1 and 0; capacity 1, 1, 0.5 and 1.
    scores = [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]
    got = attraction(scores, first, [1, 1, 0.5, 1], alpha)
    np.testing.assert_allclose(got, expected, rtol=1e-15)


@pytest.mark.parametrize(
    ("scores", "child", "slot"),
    [
        ([[1, 0], [1, 0]], [0, 1], 0),  # both incumbents get a half each: the first goes
        ([[1, 0], [1, 0]], [1, 0], 0),  # three clones: the first goes
        ([[1, 0], [1, 0]], [0, 0], None),
        ([[1, 1], [1, 0]], [0, 1], 1),  # 1, 1/2 and 1/2: the incumbent goes, not the child
        ([[1, 1], [0, 1]], [0, 1], 1),
        ([[0, 0], [1, 1]], [0, 0], 0),  # an empty slot goes even for a child that solves nothing
    ],
)
def test_survivor(scores: list[list[float]], child: list[float], slot: int | None) -> None:
    assert survivor(scores, child) == slot


def test_coverage_and_entropy() -> None:
    scores = [[1, 1, 0, 0], [0, 1, 0, 0]]
    assert coverage(scores) == 0.5
    assert entropy(scores) == 0.25
    quarter = [[1, 0], [0, 0], [0, 0], [0, 0]]
    # H(1/4) = 2 - 3/4 log2 3 bits, for one example of two.
    np.testing.assert_allclose(entropy(quarter), (2 - 0.75 * np.log2(3)) / 2, rtol=1e-15)
    assert coverage([[0.25, 0.5], [0.75, 0.0]]) == 0.625
