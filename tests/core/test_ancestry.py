"""The idea that carries the system: a recipe is the same model as the dense computation.

Whatever the ancestry, the recipe of a child, applied to the seeds, must equal what merging its
parents' weights one generation after the other gives, in float64, by equation 2 written densely.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.core.axis import Axis, axis
from genepool.core.genome import compose, express, seed_recipe
from genepool.core.slerp import ANGLES, Angle, merge_recipe, products_of
from tests.core.dense import DenseProducts, densely, merge
from tests.core.draw import axes


class Family:
    """A population held both ways: recipes and dense float64 weights."""

    def __init__(self, along: Axis, seeds: np.ndarray) -> None:
        self.along = along
        self.seeds = seeds
        self.gram = DenseProducts(seeds)
        count = seeds.shape[0]
        self.recipes = [seed_recipe(along.size, index, count) for index in range(count)]
        self.weights = list(seeds)

    def well_posed(self, one: int, two: int, splits: Sequence[int], angle: Angle) -> bool:
        """Whether the angles of a merge can be told from inner products in float64.

        Not where parents are all but opposite, and not where one of them is a small difference of
        large numbers. (Of a single position no angle is taken.)
        """
        for start, stop in stretches(self.along, splits, angle):
            a, b = (self.weights[index][start:stop] for index in (one, two))
            lengths = np.linalg.norm(a), np.linalg.norm(b)
            if stop - start < 2 or 0.0 in lengths:
                continue
            if a @ b < -0.999 * lengths[0] * lengths[1]:
                return False
            for index, length in zip((one, two), lengths, strict=True):
                member = self.recipes[index]
                gross = densely(member.bounds, np.abs(member.coefs), np.abs(self.seeds))
                if length < 1e-3 * np.linalg.norm(gross[start:stop]):
                    return False
        return True

    def mate(self, one: int, two: int, ratio: float, splits: Sequence[int], angle: Angle) -> None:
        """Add the child of two members to both."""
        parents = self.recipes[one], self.recipes[two]
        plan = merge_recipe(products_of(*parents, self.gram), self.along, ratio, splits, angle)
        self.recipes.append(compose(plan, parents))
        self.weights.append(
            merge(self.weights[one], self.weights[two], self.along, ratio, splits, angle)
        )

    def check(self, index: int, tolerance: float = 1e-9) -> None:
        """Compare a member's two forms."""
        one, expected = self.recipes[index], self.weights[index]
        got = densely(one.bounds, one.coefs, self.seeds)
        scale = float(np.abs(expected).max())
        assert float(np.abs(got - expected).max()) <= tolerance * scale


def stretches(along: Axis, splits: Sequence[int], angle: Angle) -> list[tuple[int, int]]:
    """Over what a merge takes its angles."""
    if angle == "global":
        return [(0, along.size)]
    if angle == "tensor":
        return list(pairwise(along.tensors.tolist()))
    edges = sorted([*along.chromosomes.tolist(), *splits])
    return list(pairwise(edges))


def random_plan(draws: np.random.Generator, along: Axis) -> tuple[float, list[int]]:
    """Ratio and splits, mostly one per chromosome; a fifth of each at an end."""
    ratio = float(draws.choice([0.0, 0.5, 1.0])) if draws.random() < 0.2 else float(draws.random())
    each = int(draws.choice([1, 1, 1, 2, 4]))

    def split(low: int, high: int) -> int:
        return int(draws.choice([low, high]) if draws.random() < 0.2 else draws.integers(low, high))

    pairs = pairwise(along.chromosomes.tolist())
    return ratio, [s for pair in pairs for s in sorted(split(*pair) for _ in range(each))]


@pytest.mark.slow
@pytest.mark.parametrize("angle", ANGLES)
def test_tensors_of_one_number(angle: Angle) -> None:
    # A scale, a gate: numbers of either sign, of which children are small differences.
    for seed in range(150):
        draws = np.random.default_rng(seed)
        along = axis(6, [1, 2, 3, 4, 5])
        family = Family(along, draws.standard_normal((2, 6)))
        for _ in range(25):
            one, two = draws.integers(0, len(family.recipes), size=2).tolist()
            ratio, splits = random_plan(draws, along)
            if family.well_posed(one, two, splits, angle):
                family.mate(one, two, ratio, splits, angle)
                family.check(-1, tolerance=1e-7)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    axes(64),
    st.integers(2, 5),
    st.sampled_from(ANGLES) | st.none(),
    st.integers(1, 40),
    st.integers(0, 2**32),
    st.sampled_from(["independent", "fine-tunes", "holes"]),
)
def test_random_ancestries(
    along: Axis, count: int, angle: Angle | None, merges: int, seed: int, kind: str
) -> None:
    draws = np.random.default_rng(seed)
    seeds = draws.standard_normal((count, along.size))
    if kind == "fine-tunes":
        seeds = draws.standard_normal(along.size) + 0.01 * seeds
    if kind == "holes":
        # Whole tensors that are zero, or the same in two seeds: norms of 0, angles of 0.
        for low, high in pairwise(along.tensors.tolist()):
            if draws.random() < 0.4:
                seeds[draws.integers(count), low:high] = 0.0
            if draws.random() < 0.4:
                seeds[0, low:high] = 2 * seeds[1, low:high]
    family = Family(along, seeds)
    for _ in range(merges):
        # Any two members, or a member with itself.
        one, two = draws.integers(0, len(family.recipes), size=2).tolist()
        rule: Angle = ANGLES[draws.integers(3)] if angle is None else angle
        ratio, splits = random_plan(draws, along)
        if family.well_posed(one, two, splits, rule):
            family.mate(one, two, ratio, splits, rule)
            family.check(-1)


@pytest.mark.slow
@pytest.mark.parametrize(("angle", "count"), [("global", 3), ("side", 2), ("tensor", 3)])
def test_a_thousand_merges_deep(angle: Angle, count: int) -> None:
    draws = np.random.default_rng(count)
    size = 1000
    along = Axis(
        np.array([0, 120, 400, 410, 700, size]),
        np.array([0, 400, size]),
        ("attention", "rest"),
    )
    family = Family(along, draws.standard_normal((count, size)))
    for depth in range(1000):
        # The last child is always a parent, so that the line is a thousand generations long.
        last = len(family.recipes) - 1
        other = int(draws.integers(count)) if depth % 50 == 0 else last - int(draws.integers(1, 9))
        pair = [last, max(other, 0)]
        draws.shuffle(pair)
        family.mate(*pair, *random_plan(draws, along), angle)
    for index in (-1, -2, 300, 600):
        family.check(index)
    deepest = family.recipes[-1]
    assert deepest.coefs.shape[0] > 200
    # And as it is materialised, in float32.
    single = [row.astype(np.float32) for row in family.seeds]
    np.testing.assert_allclose(express(deepest, single), family.weights[-1], rtol=0, atol=4e-6)


@pytest.mark.parametrize("angle", ANGLES)
def test_opposite_and_colinear_seeds(angle: Angle) -> None:
    draws = np.random.default_rng(0)
    base = draws.standard_normal(30)
    along = axis(30, [7, 19])
    family = Family(along, np.stack([base, -base, 3 * base, np.zeros(30)]))
    for one, two in ((0, 1), (1, 0), (0, 2), (2, 1), (0, 3), (3, 0), (3, 3)):
        for split in (0, 11, 30):
            for ratio in (0.0, 0.3, 1.0):
                family.mate(one, two, ratio, [split], angle)
                family.check(-1)


def test_parents_that_are_the_same_give_themselves() -> None:
    draws = np.random.default_rng(1)
    family = Family(axis(40), draws.standard_normal((2, 40)))
    family.mate(0, 1, 0.3, [17], "global")
    family.mate(2, 2, 0.7, [25], "global")
    child = family.recipes[3]
    np.testing.assert_allclose(
        densely(child.bounds, child.coefs, family.seeds), family.weights[2], rtol=1e-12
    )
