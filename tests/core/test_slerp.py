"""Merging by SLERP: weights, plans, angle rules, dense vectors."""

from __future__ import annotations

import math
from itertools import pairwise

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.core.axis import ArrayProducts, Axis, axis
from genepool.core.genome import Vector, express, recipe, seed_recipe
from genepool.core.slerp import (
    ANGLES,
    Angle,
    merge_recipe,
    merge_vectors,
    products_of,
    slerp_weights,
)
from genepool.errors import InputError
from tests.core.dense import DenseProducts, densely, merge
from tests.core.draw import axes

often = settings(max_examples=100, deadline=None)
ratios = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0.0, 1.0))
lengths = st.floats(1e-3, 1e3)


def of_angle(omega: float, a: float = 1.0, b: float = 1.0) -> tuple[float, float, float]:
    """Inner products of vectors of lengths a and b that meet at omega."""
    return a * a, a * b * math.cos(omega), b * b


@often
@given(ratios, st.floats(1e-3, math.pi - 2e-3), lengths, lengths)
def test_weights_keep_unit_vectors_on_the_sphere(
    ratio: float, omega: float, a: float, b: float
) -> None:
    of_a, of_b = slerp_weights(ratio, of_angle(omega, a, b))
    # For the directions of A and B the result has length 1, at ratio * omega from A's.
    length = of_a**2 + of_b**2 + 2 * of_a * of_b * math.cos(omega)
    assert length == pytest.approx(1.0, abs=1e-9)
    assert of_a + of_b * math.cos(omega) == pytest.approx(math.cos(ratio * omega), abs=1e-9)


@often
@given(ratios, st.floats(0.0, math.pi))
def test_swapping_parents_swaps_weights(ratio: float, omega: float) -> None:
    of_a, of_b = slerp_weights(ratio, of_angle(omega))
    swapped = slerp_weights(1.0 - ratio, of_angle(omega))
    assert swapped == pytest.approx((of_b, of_a), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    "products",
    [
        (1.0, 1.0, 1.0),  # the same vector
        (4.0, 2.0, 1.0),  # colinear
        (1.0, -1.0, 1.0),  # antiparallel
        (1.0, -1.0 - 1e-15, 1.0),  # beyond, by rounding
        (1.0, 1.0 + 1e-15, 1.0),
        (0.0, 0.0, 1.0),  # a length of 0
        (1.0, 0.0, 0.0),
        (0.0, 0.0, 0.0),
        (-1e-18, 0.0, 1.0),  # 0 less rounding
        of_angle(0.9e-6),
        of_angle(math.pi - 0.9e-3),
    ],
)
@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_weights_are_linear_where_there_is_no_angle(
    products: tuple[float, float, float], ratio: float
) -> None:
    assert slerp_weights(ratio, products) == (1.0 - ratio, ratio)


@pytest.mark.parametrize("omega", [1.1e-6, 1e-4, 0.01, 1.0, math.pi / 2, 3.0])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 1.0])
def test_weights_are_the_sines(omega: float, ratio: float) -> None:
    expected = [math.sin((1 - ratio) * omega), math.sin(ratio * omega)] / np.sin(omega)
    np.testing.assert_allclose(slerp_weights(ratio, of_angle(omega)), expected, rtol=1e-12)


@st.composite
def plans(draw: st.DrawFn) -> tuple[Axis, np.ndarray, float, list[int], Angle]:
    """An axis, two parents, ratio, splits (often one, often at an end), angle rule."""
    size = draw(st.integers(1, 16))
    along = draw(axes(size))
    values = st.one_of(st.just(0.0), st.floats(-2.0, 2.0, width=32, allow_subnormal=False))
    parents = draw(hnp.arrays(np.float64, (2, size), elements=values))
    # Tiny lengths say nothing about an angle, and nearly opposite parents amplify every rounding.
    parents[np.abs(parents) < 1e-3] = 0.0
    each = draw(st.sampled_from([1, 1, 2, 3]))
    splits = [
        split
        for low, high in pairwise(along.chromosomes.tolist())
        for split in sorted(
            draw(st.sampled_from([low, high]) | st.integers(low, high)) for _ in range(each)
        )
    ]
    return along, parents, draw(ratios), splits, draw(st.sampled_from(ANGLES))


def well_posed(along: Axis, parents: np.ndarray, splits: list[int]) -> bool:
    """No stretch that an angle is taken over has parents within 0.01 of opposite directions."""
    edges = np.unique([*along.tensors.tolist(), *splits])
    for low in range(edges.size):
        for high in range(low + 1, edges.size):
            a, b = parents[:, edges[low] : edges[high]]
            norm = np.linalg.norm(a) * np.linalg.norm(b)
            if norm and -1 + 1e-12 < a @ b / norm < -1 + 1e-4:
                return False
    return True


@settings(max_examples=200, deadline=None)
@given(plans())
def test_a_merge_is_equation_2(
    plan: tuple[Axis, np.ndarray, float, list[int], Angle],
) -> None:
    along, parents, ratio, splits, angle = plan
    if not well_posed(along, parents, splits):
        return
    expected = merge(*parents, along, ratio, splits, angle)
    gram = DenseProducts(parents)
    one, two = (seed_recipe(along.size, index, 2) for index in range(2))
    planned = merge_recipe(products_of(one, two, gram), along, ratio, splits, angle)
    got = densely(planned.bounds, planned.coefs, parents)
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9 * scale)
    if len(splits) == 1:
        inner = along.tensors[1:-1].tolist()
        dense = merge_vectors(*parents, ratio, splits[0], angle, inner)
        np.testing.assert_allclose(dense, expected, rtol=0, atol=1e-9 * scale)
    # The same plan over vectors; float32 holds these parents exactly.
    single = parents.astype(np.float32)
    vectors = [Vector(row.copy()) for row in single]
    again = merge_recipe(products_of(*vectors, None), along, ratio, splits, angle)
    np.testing.assert_allclose(
        express(again, list(single)), expected, rtol=0, atol=3e-7 * scale * 4
    )


@often
@given(plans())
def test_ends_of_the_ratio_are_the_parents(
    plan: tuple[Axis, np.ndarray, float, list[int], Angle],
) -> None:
    along, parents, _, splits, angle = plan
    gram = DenseProducts(parents)
    one, two = (seed_recipe(along.size, index, 2) for index in range(2))
    for ratio in (0.0, 1.0):
        planned = merge_recipe(products_of(one, two, gram), along, ratio, splits, angle)
        chosen = np.empty(along.size)
        edges = along.chromosomes.tolist()
        each = len(splits) // len(along.names)
        for number, (low, high) in enumerate(pairwise(edges)):
            points = [low, *splits[number * each : (number + 1) * each], high]
            for turn, (start, stop) in enumerate(pairwise(points)):
                chosen[start:stop] = parents[(int(ratio) + turn) % 2, start:stop]
        got = densely(planned.bounds, planned.coefs, parents)
        np.testing.assert_allclose(got, chosen, rtol=1e-12, atol=0)


@pytest.mark.parametrize("angle", ANGLES)
def test_two_single_numbers_are_merged_linearly(angle: Angle) -> None:
    # The first parent is a difference that its inner products, of size 1, can no longer tell.
    for digits in np.arange(6, 10, 0.1):
        gram = DenseProducts(np.array([[1.0], [-1.0 + 10.0**-digits]]))
        one, two = recipe([0, 1], np.array([[0.3, 0.3]])), seed_recipe(1, 1, 2)
        planned = merge_recipe(products_of(one, two, gram), axis(1), 0.3, [1], angle)
        assert planned.coefs.tolist() == [[0.7, 0.3]]


def test_merge_vectors_keeps_float32_and_leaves_its_arguments() -> None:
    a, b = np.arange(1.0, 5.0), np.arange(4.0, 0.0, -1.0)
    kept = a.copy(), b.copy()
    exact = merge_vectors(a, b, 0.3, 2)
    assert exact.dtype == np.float64
    single = merge_vectors(a.astype(np.float32), b.astype(np.float32), 0.3, 2)
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single, exact.astype(np.float32))
    assert merge_vectors(a.astype(np.float16), b, 0.3, 2).dtype == np.float64
    assert merge_vectors([1, 2], [3, 5], 0.3, 2).dtype == np.float64
    np.testing.assert_array_equal((a, b), kept)


def test_nearly_colinear_fine_tunes_need_float64() -> None:
    # Two fine-tunes of one base, an angle of 0.01: float32 products would be off by much more.
    draws = np.random.default_rng(3)
    base = draws.standard_normal(20_000)
    a = (base + 0.007 * draws.standard_normal(base.size)).astype(np.float32)
    b = (base + 0.007 * draws.standard_normal(base.size)).astype(np.float32)
    x, y = a.astype(np.longdouble), b.astype(np.longdouble)
    # The angle by the chord, which keeps its digits where the cosine loses them.
    x, y = x / np.sqrt(x @ x), y / np.sqrt(y @ y)
    omega = 2 * np.arcsin(np.sqrt((x - y) @ (x - y)) / 2)
    assert 0.005 < omega < 0.02
    expected = np.sin([0.7 * omega, 0.3 * omega]) / np.sin(omega)
    got = merge_recipe(products_of(Vector(a), Vector(b), None), axis(a.size), 0.3, [a.size])
    np.testing.assert_allclose(got.coefs[0], expected.astype(np.float64), rtol=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "ratio", "split", "angle", "said"),
    [
        ([1.0], [1.0, 2.0], 0.5, 1, "global", r"one length, at least 1; got \(1,\) and \(2,\)"),
        ([[1.0]], [[1.0]], 0.5, 1, "global", r"got \(1, 1\) and \(1, 1\)"),
        ([], [], 0.5, 0, "global", r"got \(0,\) and \(0,\)"),
        ([1.0, float("nan")], [1.0, 2.0], 0.5, 1, "global", "a must be finite; position 1 has nan"),
        ([1.0, 1.0], [1.0, float("inf")], 0.5, 1, "global", "b must be finite; position 1 has inf"),
        (["x", "y"], [1.0, 2.0], 0.5, 1, "global", "a must be numbers"),
        ([1.0, 2.0], [1j, 2.0], 0.5, 1, "global", "b must be numbers"),
        ([1.0, 2.0], [[1.0], [2.0, 3.0]], 0.5, 1, "global", "b must be numbers"),
        ([1.0, 2.0], [3.0, 4.0], -0.1, 1, "global", r"ratio must lie in \[0, 1\]; got -0.1"),
        ([1.0, 2.0], [3.0, 4.0], 1.1, 1, "global", r"ratio must lie in \[0, 1\]; got 1.1"),
        ([1.0, 2.0], [3.0, 4.0], float("nan"), 1, "global", "ratio must lie .* got nan"),
        ([1.0, 2.0], [3.0, 4.0], "half", 1, "global", "ratio must lie .* got 'half'"),
        ([1.0, 2.0], [3.0, 4.0], 0.5, -1, "global", r"split .* must lie in 0\.\.2; got -1"),
        ([1.0, 2.0], [3.0, 4.0], 0.5, 3, "global", r"split .* must lie in 0\.\.2; got 3"),
        ([1.0, 2.0], [3.0, 4.0], 0.5, 0.5, "global", r"split .* must be a whole number.* got 0.5"),
        ([1.0, 2.0], [3.0, 4.0], 0.5, None, "global", "split .* whole number.* got None"),
        ([1.0, 2.0], [3.0, 4.0], 0.5, 1, "layer", "global, side, tensor; got 'layer'"),
    ],
)
def test_wrong_merges_are_named(
    a: object, b: object, ratio: float, split: int, angle: Angle, said: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        merge_vectors(a, b, ratio, split, angle)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_wrong_plans_are_named() -> None:
    along = Axis(np.array([0, 2, 6]), np.array([0, 2, 6]), ("attention", "rest"))
    parents = Vector(np.ones(6, dtype=np.float32)), Vector(np.zeros(6, dtype=np.float32))
    products = products_of(*parents, None)
    expected = r"one split per chromosome \(attention, rest\), or equally many for each; got "
    for splits in ([], [1], [1, 1, 3]):
        with pytest.raises(InputError, match=expected + str(len(splits))):
            merge_recipe(products, along, 0.5, splits)
    with pytest.raises(InputError, match=r"splits of chromosome 'rest' .* in order; got 3 after 4"):
        merge_recipe(products, along, 0.5, [0, 1, 4, 3])
    with pytest.raises(InputError, match=r"split of chromosome 'rest' must lie in 2\.\.6; got 1"):
        merge_recipe(products, along, 0.5, [0, 1, 1, 3])
    with pytest.raises(InputError, match=r"split of chromosome 'rest' must lie in 2\.\.6; got 1"):
        merge_recipe(products, along, 0.5, [1, 1])
    with pytest.raises(InputError, match=r"split of chromosome 'attention' .* 0\.\.2; got 3"):
        merge_recipe(products, along, 0.5, [3, 4])
    one = seed_recipe(6, 0, 2)
    for pair in ((one, one), (one, parents[0]), (parents[0], one)):
        with pytest.raises(InputError, match="both parents must be recipes"):
            products_of(*pair, None)


@pytest.mark.parametrize(("size", "tensors"), [(0, None), (-1, None), (4, [5]), (4, [-1])])
def test_wrong_axes_are_named(size: int, tensors: list[int] | None) -> None:
    with pytest.raises(InputError, match=r"axis needs at least|tensor boundaries must lie"):
        axis(size, tensors)


def test_axis() -> None:
    along = axis(9, [4, 0, 4, 9, 2])
    assert along.tensors.tolist() == [0, 2, 4, 9]
    assert along.chromosomes.tolist() == [0, 9] and along.size == 9
    with pytest.raises(ValueError, match="read-only"):
        along.tensors[0] = 1


def test_inner_products_of_arrays() -> None:
    draws = np.random.default_rng(6)
    seeds = draws.standard_normal((3, 20_000)).astype(np.float32)
    ours, theirs = ArrayProducts(list(seeds)), DenseProducts(seeds.astype(np.float64))
    for _ in range(50):
        inner = np.sort(draws.integers(0, 20_001, size=int(draws.integers(0, 9))))
        edges = np.array([0, *inner, 20_000])
        np.testing.assert_allclose(ours.between(edges), theirs.between(edges), atol=1e-10)
    # Stretches that hold next to nothing of the whole.
    seeds[:, 5_000:] *= 1e-9
    ours, theirs = ArrayProducts(list(seeds)), DenseProducts(seeds.astype(np.float64))
    edges = np.array([0, 5_000, 19_000, 20_000])
    found, exact = ours.between(edges), theirs.between(edges)
    scale = np.einsum("nii,njj->nij", exact, exact) ** 0.5
    assert (np.abs(found - exact) <= 1e-14 * scale).all()
    whole = ours.between(np.array([4096, 4096, 8192, 8200, 8201]))
    np.testing.assert_allclose(
        whole, theirs.between(np.array([4096, 4096, 8192, 8200, 8201])), atol=1e-10
    )
