"""Randomness as a function of (seed, step): repeatable, independent, rightly distributed."""

from __future__ import annotations

import hashlib
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.core.rng import generator, noise, noise_words, pick

often = settings(max_examples=60, deadline=None)


def words(seed: int, step: int, stream: int = 0, count: int = 8) -> list[int]:
    return generator(seed, step, stream).bit_generator.random_raw(count).tolist()


@often
@given(st.integers(-(2**70), 2**70), st.integers(0, 2**40), st.integers(0, 5))
def test_same_arguments_same_numbers(seed: int, step: int, stream: int) -> None:
    assert words(seed, step, stream) == words(seed, step, stream)
    assert words(seed + 2**64, step, stream) == words(seed, step, stream)


def test_other_arguments_other_numbers() -> None:
    seen: dict[int, tuple[int, int, int]] = {}
    for seed in (-1, 0, 1, 2**32, 2**63, 2**64 - 2):
        for step in (0, 1, 2, 3, 255, 256, 2**32, 2**40):
            for stream in (0, 1, 2):
                for word in words(seed, step, stream, 50):
                    # 64 bits each: two that agree by chance would be a wonder.
                    assert seen.setdefault(word, (seed, step, stream)) == (seed, step, stream)


def test_numbers_never_change() -> None:
    # A pool is resumed from (seed, step) alone, perhaps by another numpy on another machine.
    assert words(1, 2, 3, 2) == [0x17B3E29718B9699B, 0x6A398D387F9C046E]
    draws = generator(1, 2)
    assert draws.choice(5, size=2, replace=False).tolist() == [1, 3]
    assert draws.random() == 0.7765064223344135
    assert draws.integers(100, 20_000) == 19_088
    data = noise(noise_words(1, 2, 1001)).astype("<f4").tobytes()
    assert hashlib.sha256(data).hexdigest()[:16] == "bb8d631e144f72bf"


def test_steps_are_uncorrelated() -> None:
    table = np.stack([generator(7, step).random(400) for step in range(50)])
    correlations = np.corrcoef(table)[np.triu_indices(50, 1)]
    # 1,225 pairs of 400 numbers each, standard deviation 1/20.
    assert np.abs(correlations).max() < 0.25
    assert abs(float(correlations.mean())) < 0.01
    firsts = np.array([generator(7, step).random() for step in range(4000)])
    assert abs(float(firsts.mean()) - 0.5) < 0.02
    assert abs(float(np.corrcoef(firsts[1:], firsts[:-1])[0, 1])) < 0.06


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 19_210])
def test_noise_has_its_size_and_a_longer_one_begins_alike(size: int) -> None:
    values = noise(noise_words(3, 4, size))
    assert values.dtype == np.float32 and values.shape == (size,)
    np.testing.assert_array_equal(values, noise(noise_words(3, 4, size + 9))[:size])
    values += 1  # the caller's own


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_noise_is_normal(seed: int) -> None:
    count = 200_000
    values = np.sort(noise(noise_words(seed, 9, count)).astype(np.float64))
    normal = NormalDist()
    share = np.array([normal.cdf(value) for value in values[::50].tolist()])
    # Kolmogorov-Smirnov: 1.63 / sqrt(n) is passed by chance once in a hundred times.
    distance = np.abs(share - np.arange(0, count, 50) / count).max()
    assert distance < 2.0 / math.sqrt(count)
    assert abs(float(values.mean())) < 4 / math.sqrt(count)
    assert abs(float(values.var()) - 1) < 4 * math.sqrt(2 / count)
    assert abs(float((values**4).mean()) - 3) < 0.1


def test_noise_draws_from_all_quantiles_alike() -> None:
    values, counts = np.unique(noise(noise_words(0, 1, 4_000_000)), return_counts=True)
    np.testing.assert_array_equal(values, -values[::-1])
    assert values.size == 65_536
    # Each about 61 times; 8 standard deviations either way.
    assert counts.min() > 5 and counts.max() < 61 + 8 * 8
    assert float((values.astype(np.float64) ** 2).mean()) == pytest.approx(0.99998, abs=5e-6)
    assert float(values.max()) == pytest.approx(4.3, abs=0.05)


@often
@given(
    st.lists(st.sampled_from([0.0, 1e-300, 0.1, 1.0, 1e300]), min_size=1, max_size=9),
    st.integers(0, 1000),
)
def test_pick_never_takes_what_has_no_weight(weights: list[float], step: int) -> None:
    if not any(weights):
        return
    draws = generator(0, step)
    for _ in range(20):
        assert weights[pick(draws, np.array(weights))] > 0


class Edge(np.random.Generator):
    """A generator whose next number is known."""

    def __init__(self, value: float) -> None:
        super().__init__(np.random.Philox(0))
        self.value = value

    def random(self) -> float:  # type: ignore[override]
        return self.value


@pytest.mark.parametrize("value", [0.0, 0.25, 0.5, 1 - 2**-53, 1.0])
def test_pick_at_the_edges(value: float) -> None:
    # 1.0 stands for a product that rounding has carried to the end of the ladder.
    weights = np.array([0.0, 1.0, 0.0, 0.0, 3.0, 0.0])
    assert pick(Edge(value), weights) == (1 if value < 0.25 else 4)


def test_pick_is_in_proportion() -> None:
    weights = np.array([0.0, 1.0, 2.5, 0.0, 0.5, 6.0])
    count = 40_000
    draws = generator(5, 1)
    found = np.bincount([pick(draws, weights) for _ in range(count)], minlength=6)
    expected = count * weights / weights.sum()
    assert bool((np.abs(found - expected) <= 4 * np.sqrt(expected)).all())
