"""Recipes and vectors: canonical form, composition, weights, bytes."""

from __future__ import annotations

import hashlib
import struct

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.core.genome import (
    Genome,
    Recipe,
    Vector,
    compose,
    decode,
    digest,
    encode,
    express,
    recipe,
    seed_recipe,
)
from genepool.errors import InputError
from genepool.strategies.evolution import Evolution
from genepool.strategies.m2n2 import M2N2
from genepool.strategies.problem import Problem
from tests.core.dense import densely
from tests.core.draw import recipes

often = settings(max_examples=60, deadline=None)
finite = st.floats(-4.0, 4.0, allow_subnormal=False)
singles = st.floats(-4.0, 4.0, width=32, allow_subnormal=False)


def same(one: Recipe, two: Recipe) -> bool:
    return np.array_equal(one.bounds, two.bounds) and np.array_equal(one.coefs, two.coefs)


# Canonical form


@often
@given(recipes(9, 2))
def test_recipe_is_canonical(one: Recipe) -> None:
    assert one.bounds.dtype == np.int64 and one.coefs.dtype == np.float64
    assert bool((np.diff(one.bounds) > 0).all())
    assert one.bounds[0] == 0 and one.size == 9
    assert bool((one.coefs[1:] != one.coefs[:-1]).any(axis=1).all())
    assert not np.signbit(one.coefs[one.coefs == 0]).any()
    assert same(recipe(one.bounds, one.coefs), one)


@often
@given(recipes(9, 3), st.sets(st.integers(1, 8)))
def test_superfluous_bounds_leave_no_trace(one: Recipe, more: set[int]) -> None:
    bounds = np.union1d(one.bounds, list(more)).astype(np.int64)
    segment = np.searchsorted(one.bounds, bounds[:-1], side="right") - 1
    coefs = one.coefs[segment]
    coefs[coefs == 0] = -0.0
    again = recipe(bounds, coefs)
    assert encode(again) == encode(one)


def test_recipe_owns_read_only_arrays() -> None:
    bounds, coefs = np.array([0, 2, 4]), np.array([[1.0, 0.0], [0.0, 1.0]])
    one = recipe(bounds, coefs)
    bounds[1], coefs[0, 0] = 3, 9.0
    assert one.bounds.tolist() == [0, 2, 4] and one.coefs[0, 0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        one.coefs[0, 0] = 2.0
    with pytest.raises(ValueError, match="read-only"):
        one.bounds[0] = 2
    with pytest.raises(ValueError, match="read-only"):
        Vector(np.ones(2, dtype=np.float32)).values[0] = 2


@pytest.mark.parametrize(
    ("bounds", "coefs", "said"),
    [
        ([1, 2], [[1.0]], "start at 0"),
        ([0, 2, 2], [[1.0], [2.0]], "increase strictly"),
        ([0, 3, 2], [[1.0], [2.0]], "increase strictly"),
        ([0], np.zeros((0, 1)), "at least one segment"),
        ([], np.zeros((0, 1)), "at least one segment"),
        ([[0, 1]], [[1.0]], "at least one segment"),
        (list(range(1, 30)), [[1.0]], r"7, 8\]\.\.\."),
        ([0, 2], [1.0], r"\(1, >= 1\); got \(1,\)"),
        ([0, 2], [[1.0], [2.0]], r"\(1, >= 1\); got \(2, 1\)"),
        ([0, 2], np.zeros((1, 0)), r"\(1, >= 1\); got \(1, 0\)"),
        ([0, 2], [[float("nan")]], "finite"),
        ([0, 2], [[float("inf")]], "finite"),
    ],
)
def test_wrong_recipes_are_refused(bounds: list[int], coefs: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        recipe(bounds, np.asarray(coefs))


def test_seed_recipe() -> None:
    assert same(seed_recipe(5, 1, 3), recipe([0, 5], np.array([[0.0, 1.0, 0.0]])))
    for size, index, count in ((5, 3, 3), (5, -1, 3), (0, 0, 1), (5, 0, 0)):
        with pytest.raises(InputError, match="seed index"):
            seed_recipe(size, index, count)


# Composition and weights


@often
@given(recipes(12, 2), st.lists(recipes(12, 3), min_size=2, max_size=2), st.data())
def test_compose_is_substitution(outer: Recipe, inner: list[Recipe], data: st.DataObject) -> None:
    sources = data.draw(hnp.arrays(np.float64, (3, 12), elements=st.integers(-8, 8)))
    between = np.stack([densely(part.bounds, part.coefs, sources) for part in inner])
    expected = densely(outer.bounds, outer.coefs, between)
    composed = compose(outer, inner)
    # Every number here is a small multiple of 1/64, so float64 is exact.
    np.testing.assert_array_equal(densely(composed.bounds, composed.coefs, sources), expected)
    assert same(recipe(composed.bounds, composed.coefs), composed)


@often
@given(
    recipes(12, 2),
    st.lists(recipes(12, 2), min_size=2, max_size=2),
    st.lists(recipes(12, 3), min_size=2, max_size=2),
)
def test_compose_is_associative(outer: Recipe, middle: list[Recipe], inner: list[Recipe]) -> None:
    left = compose(compose(outer, middle), inner)
    right = compose(outer, [compose(part, inner) for part in middle])
    assert same(left, right)


@often
@given(recipes(7, 3))
def test_seeds_are_the_identity(one: Recipe) -> None:
    assert same(compose(one, [seed_recipe(7, index, 3) for index in range(3)]), one)
    assert same(compose(seed_recipe(7, 0, 1), [one]), one)


@often
@given(recipes(12, 2, finite), st.lists(recipes(12, 3, finite), min_size=2, max_size=2), st.data())
def test_express_agrees_with_compose(
    outer: Recipe, inner: list[Recipe], data: st.DataObject
) -> None:
    sources = data.draw(hnp.arrays(np.float32, (3, 12), elements=singles))
    once = express(compose(outer, inner), list(sources))
    twice = express(outer, [express(part, list(sources)) for part in inner])
    # Values reach 2 * 4 * 3 * 4 * 4, each rounded to float32 a few times on the way.
    np.testing.assert_allclose(once, twice, atol=400 * 2**-23 * 4, rtol=0)


@often
@given(recipes(12, 3, finite), st.data())
def test_express_rounds_as_it_says(one: Recipe, data: st.DataObject) -> None:
    sources = data.draw(hnp.arrays(np.float32, (3, 12), elements=singles))
    got = express(one, list(sources))
    assert got.dtype == np.float32
    for position in range(12):
        segment = int(np.searchsorted(one.bounds, position, side="right")) - 1
        total: np.float32 | None = None
        for coef, value in zip(one.coefs[segment], sources[:, position], strict=True):
            if np.float32(coef) != 0:
                term = np.float32(coef) * value
                total = term if total is None else total + term
        expected = np.float32(0) if total is None else total
        assert got[position].tobytes() == expected.tobytes()


def test_terms_without_weight_are_left_out() -> None:
    # 1e-50 is 0 in float32: what is not finite in such a source must not spread.
    one = recipe([0, 2], np.array([[1.0, 0.0, 1e-50]]))
    bad = np.full(2, np.nan, dtype=np.float32)
    got = express(one, [np.array([1.0, 2.0], dtype=np.float32), bad, bad])
    assert got.tolist() == [1.0, 2.0]


def test_a_seed_expresses_itself_bit_for_bit() -> None:
    values = np.array([-0.0, 1e-45, -3.4e38, 0.1], dtype=np.float32)
    got = express(seed_recipe(4, 1, 2), [np.ones(4, dtype=np.float32), values])
    assert got.tobytes() == values.tobytes()


def test_mismatched_parts_are_refused() -> None:
    one = recipe([0, 4], np.array([[1.0, 2.0]]))
    with pytest.raises(InputError, match="expected 2 recipes to substitute; got 1"):
        compose(one, [one])
    with pytest.raises(InputError, match="one parameter axis and one list of seeds"):
        compose(one, [one, seed_recipe(5, 0, 2)])
    with pytest.raises(InputError, match="one parameter axis and one list of seeds"):
        compose(one, [one, seed_recipe(4, 0, 3)])
    with pytest.raises(InputError, match=r"expected 2 vectors of 4 values; got shapes \[\(4,\)\]"):
        express(one, [np.ones(4, dtype=np.float32)])
    with pytest.raises(InputError, match=r"got shapes \[\(4,\), \(3,\)\]"):
        express(one, [np.ones(4, dtype=np.float32), np.ones(3, dtype=np.float32)])


# Bytes

vectors = hnp.arrays(
    np.float32, st.integers(1, 9), elements=st.floats(width=32, allow_nan=False)
).map(Vector)
genomes = st.one_of(recipes(9, 3, finite), recipes(1, 1, finite), vectors)


def same_genome(one: Genome, two: Genome) -> bool:
    if isinstance(one, Recipe) and isinstance(two, Recipe):
        return same(one, two)
    return (
        isinstance(one, Vector)
        and isinstance(two, Vector)
        and one.values.tobytes() == two.values.tobytes()
    )


@often
@given(genomes)
def test_encode_and_back(genome: Genome) -> None:
    data = encode(genome)
    again = decode(data)
    assert same_genome(again, genome)
    assert encode(again) == data
    assert digest(again) == digest(genome) == hashlib.blake2b(data, digest_size=16).hexdigest()
    array = again.coefs if isinstance(again, Recipe) else again.values
    assert not array.flags.writeable and array.flags.aligned


def test_bytes_and_digest_never_change() -> None:
    # Pools on disk hold these: a change here is a change of format.
    one = recipe([0, 3, 7], np.array([[1.0, 0.0], [0.25, 0.75]]))
    assert encode(one) == (
        b"GPR1"
        + struct.pack("<qq", 2, 2)
        + struct.pack("<qqq", 0, 3, 7)
        + struct.pack("<dddd", 1.0, 0.0, 0.25, 0.75)
    )
    assert digest(one) == "4dcc4f61138def8c911f449386bc8a03"
    two = Vector(np.array([1.0, -0.5], dtype=np.float32))
    assert encode(two) == b"GPV1" + struct.pack("<qq", 2, 0) + struct.pack("<ff", 1.0, -0.5)
    assert digest(two) == "3a3e11ca1071f6292149dc70abdc51d9"


@often
@given(genomes, genomes)
def test_other_genomes_have_other_digests(one: Genome, two: Genome) -> None:
    assert (digest(one) == digest(two)) == same_genome(one, two)


def decoded(data: bytes) -> Genome | None:
    """The genome, or None where the bytes are refused; anything else escapes and fails."""
    try:
        genome = decode(data)
    except InputError as error:
        assert "\n" not in str(error)
        return None
    assert genome.size >= 1
    if isinstance(genome, Recipe):
        assert same(recipe(genome.bounds, genome.coefs), genome)
    else:
        assert encode(genome) == data
    return genome


SAMPLES = [
    recipe([0, 3, 7], np.array([[1.0, 0.0], [0.25, 0.75]])),
    seed_recipe(2**40, 0, 1),
    Vector(np.array([1.0, -0.5, 0.0], dtype=np.float32)),
]


@pytest.mark.parametrize("genome", SAMPLES)
def test_bytes_cut_short_or_too_long_are_refused(genome: Genome) -> None:
    data = encode(genome)
    for length in range(len(data)):
        assert decoded(data[:length]) is None
    assert decoded(data + b"\0") is None
    assert decoded(data * 2) is None


@pytest.mark.parametrize("genome", SAMPLES)
def test_flipped_bits_are_refused_or_give_a_valid_genome(genome: Genome) -> None:
    data = encode(genome)
    refused = 0
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            refused += decoded(bytes(flipped)) is None
    # The magic number and both sizes: every flip of theirs shows.
    assert refused >= 8 * 20


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=80), st.binary(max_size=80).map(lambda tail: b"GPR1" + tail)))
def test_noise_is_refused_or_gives_a_valid_genome(data: bytes) -> None:
    decoded(data)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([b"GPR1", b"GPV1", b"GPX1"]),
    st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 5),
    st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 5),
    st.binary(max_size=64),
)
def test_lying_headers_are_refused(magic: bytes, first: int, second: int, tail: bytes) -> None:
    decoded(magic + struct.pack("<qq", first, second) + tail)


def test_what_a_notebook_shows_is_one_line() -> None:
    draws = np.random.default_rng(0)
    vectors = [draws.standard_normal(40).astype(np.float32) for _ in range(2)]
    evolution = Evolution(Problem.of_vectors(vectors, 30), M2N2(archive=4))
    while evolution.evaluations < 20:
        evolution.tell(evolution.ask().step, draws.integers(0, 2, 30))
    for value in (evolution.archive, evolution.champion, evolution.ask()):
        assert len(repr(value)) < 300
    assert repr(seed_recipe(60, 0, 2)) == "<Recipe: 1 segment of 2 models over 60 positions>"
