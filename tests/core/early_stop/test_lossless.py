"""Early stopping is lossless, and asks no more than it must."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from genepool.core.archive import Archive
from genepool.core.competition import Baseline
from genepool.core.early_stop.evaluation_plan import FullPlan
from genepool.core.early_stop.lossless import LosslessPlan, bounds
from tests.core.populations import archive_of, random_archive, random_child

ALPHAS = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0]
BASELINES: tuple[Baseline, ...] = ("none", "worst")
KINDS = [(b, alpha, base) for b in (True, False) for alpha in ALPHAS for base in BASELINES]
# Every second of them runs in `make test`, each rule and each power among these.
SOME = [
    kind if (n // len(BASELINES) + n) % 2 == 0 else pytest.param(*kind, marks=pytest.mark.slow)
    for n, kind in enumerate(KINDS)
]


def difference(archive: Archive, example: int, score: np.ndarray) -> np.ndarray:
    """Child's share of an example less each member's, [P, n], for n scores of the child.

    The formula written out once more: f_child - f_i, both with the child counted in z and, where
    scores are not 0 or 1 and alpha is not 0, in the capacity; with a baseline also in what is taken
    off all of them.
    """
    column = archive.scores[:, example]
    limit = archive.examples.capacity[example]
    worst = np.zeros(score.shape)
    if archive.baseline == "worst":
        worst = np.minimum(score, column.min())
    capacity = np.full(score.shape, limit)
    if not archive.examples.binary and archive.alpha > 0:
        capacity = limit * (np.maximum(score, column.max()) - worst)
    contest = (column[:, None] - worst).sum(axis=0) + (score - worst)
    claimed = contest > 0
    share = np.where(claimed, capacity / np.where(claimed, contest, 1.0) ** archive.alpha, 0.0)
    return (score[None, :] - column[:, None]) * share


def possible(archive: Archive, example: int | None = None) -> np.ndarray:
    """Scores that a child may reach: both, or a fine grid that is finest near the lowest score.

    The lowest is 0, or with a baseline and on an example the worst of the members.
    """
    if archive.examples.binary:
        return np.array([0.0, 1.0])
    fine = np.concatenate([np.linspace(0, 1, 401), np.geomspace(1e-6, 1, 600)])
    if archive.worst is not None and example is not None:
        worst = archive.worst[example]
        above = worst + (1.0 - worst) * fine
        return np.unique(np.concatenate([fine, above]))
    return np.unique(fine.astype(np.float32)).astype(np.float64)


def completions(
    draws: np.random.Generator, archive: Archive, partial: np.ndarray
) -> Iterator[np.ndarray]:
    """Ways in which the child might answer the rest: float32[N] each."""
    left = np.flatnonzero(np.isnan(partial))
    grid = np.unique(np.concatenate([possible(archive), archive.scores[:, left].ravel()]))
    table = np.stack([difference(archive, example, grid) for example in left.tolist()])

    def completed(scores: np.ndarray | float) -> np.ndarray:
        full = partial.copy()
        full[left] = scores
        return full

    yield completed(0.0)
    yield completed(1.0)
    for _ in range(3):
        yield completed(draws.choice(grid, size=left.size))
    # The best that it can do against each single member, and against all of them on average.
    for member in range(archive.scores.shape[0]):
        yield completed(grid[table[:, member].argmax(axis=1)])
    yield completed(grid[table.mean(axis=1).argmax(axis=1)])
    yield completed(grid[table.min(axis=1).argmax(axis=1)])


def sit(exam: LosslessPlan, child: np.ndarray) -> list[np.ndarray]:
    """Let a child answer until it is settled: the blocks asked."""
    blocks: list[np.ndarray] = []
    while not exam.done:
        block = exam.next()
        assert block.size > 0
        blocks.append(block)
        exam.record(block, child[block])
    assert exam.next().size == 0
    return blocks


def parents_of(draws: np.random.Generator, archive: Archive) -> list[tuple[int | None, float]]:
    share = float(draws.random())
    slots: list[int | None] = draws.integers(archive.scores.shape[0], size=2).tolist()
    if draws.random() < 0.2:
        slots[0] = None
    return list(zip(slots, [share, 1 - share], strict=True))


def unknown(archive: Archive) -> np.ndarray:
    return np.full(archive.scores.shape[1], np.nan, dtype=np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(("binary", "alpha", "baseline"), SOME)
def test_a_stop_is_right_whatever_came_next(binary: bool, alpha: float, baseline: Baseline) -> None:
    stops = 0
    for seed in range(150):
        draws = np.random.default_rng([seed, int(10 * alpha), binary])
        archive = random_archive(draws, binary, alpha, baseline=baseline)
        child = random_child(draws, archive)
        exam = LosslessPlan(archive, parents_of(draws, archive), unknown(archive))
        sit(exam, child)
        asked = ~np.isnan(exam.scores)
        np.testing.assert_array_equal(exam.scores[asked], child[asked])
        if asked.all():
            continue
        assert exam.rejected
        stops += 1
        for full in completions(draws, archive, exam.scores):
            slot, fitness = archive.challenge(full)
            assert slot is None, f"seed {seed}: {full.tolist()} takes slot {slot} with {fitness}"
    assert stops >= 10


@pytest.mark.parametrize(("binary", "alpha", "baseline"), SOME)
def test_bounds_are_the_best_and_worst_cases(
    binary: bool, alpha: float, baseline: Baseline
) -> None:
    for seed in range(12):
        draws = np.random.default_rng([seed, int(10 * alpha), binary])
        archive = random_archive(draws, binary, alpha, largest=12, baseline=baseline)
        limits = bounds(archive)
        if baseline == "worst" and None in archive.members:
            assert np.isinf(limits.margin)
            continue
        # Where the child is the first to claim an example, a smaller score may pay ever more.
        endless = not binary and alpha > 2 and bool((archive.contest == 0).any())
        assert np.isinf(limits.margin) == (endless or archive.fitness.min() == 0)
        best = limits.best().T
        np.testing.assert_allclose(limits.totals, best.sum(axis=0), rtol=1e-9, atol=1e-11)
        np.testing.assert_array_equal(limits.loss, -limits.swing[:, limits.totals.argmax()])
        for example in range(archive.scores.shape[1]):
            values = difference(archive, example, possible(archive, example))
            scale = np.abs(values).max() + 1e-300
            failed = best[example] + limits.swing[example]
            np.testing.assert_allclose(failed, values[:, 0], rtol=0, atol=1e-12 * scale)
            if endless and archive.contest[example] == 0:
                continue
            assert bool((best[example] >= values.max(axis=1) - 1e-12 * scale).all())
            # And no higher than what a child can reach, to within the grid.
            assert bool((best[example] <= values.max(axis=1) + 1e-3 * scale).all())


@pytest.mark.slow
@pytest.mark.parametrize(("binary", "alpha", "baseline"), SOME)
def test_a_child_is_settled_as_soon_as_it_can_be(
    binary: bool, alpha: float, baseline: Baseline
) -> None:
    settled = 0
    for seed in range(40):
        draws = np.random.default_rng([seed, int(10 * alpha), binary])
        archive = random_archive(draws, binary, alpha, baseline=baseline)
        child = random_child(draws, archive)
        size = child.size
        if np.isinf(bounds(archive).margin):
            continue
        # What each example adds to child less member: as answered, and at best.
        answered = np.stack(
            [difference(archive, j, child[j : j + 1].astype(float))[:, 0] for j in range(size)]
        )
        at_best = np.stack(
            [difference(archive, j, possible(archive, j)).max(axis=1) for j in range(size)]
        )
        # The grid may miss the very best score, where that lies between 0 and 1.
        doubt = 1e-3 if not binary and alpha > 2 else 1e-7
        exam = LosslessPlan(archive, parents_of(draws, archive), unknown(archive))
        while not exam.done:
            block = exam.next()
            exam.record(block, child[block])
            asked = ~np.isnan(exam.scores)
            hope = np.where(asked[:, None], answered, at_best).sum(axis=0).max()
            if abs(hope) > doubt * np.abs(at_best).sum():
                assert exam.rejected == (hope < 0)
                settled += exam.rejected
    # Where everybody is nearly as good, fierce fighting leaves room for nearly anything.
    assert settled >= (1 if doubt == 1e-3 and baseline == "worst" else 5)


@pytest.mark.parametrize("grain", [1, 3, 8, 100])
@pytest.mark.parametrize("binary", [True, False])
def test_every_example_is_asked_once_in_blocks_of_the_grain(grain: int, binary: bool) -> None:
    for seed in range(30):
        draws = np.random.default_rng([seed, grain])
        archive = random_archive(draws, binary, 1.0, largest=200)
        archive = replace(archive, examples=replace(archive.examples, grain=grain))
        size = archive.scores.shape[1]
        # Better than everybody: never settled.
        exam = LosslessPlan(archive, parents_of(draws, archive), unknown(archive))
        blocks = sit(exam, np.ones(size, dtype=np.float32))
        asked = np.concatenate(blocks)
        assert asked.dtype == np.int64
        np.testing.assert_array_equal(np.sort(asked), np.arange(size))
        assert all(block.size % grain == 0 for block in blocks[:-1])
        assert not exam.rejected and bool((exam.scores == 1).all())


@pytest.mark.parametrize("binary", [True, False])
def test_blocks_of_examples_are_asked_as_a_whole(binary: bool) -> None:
    sizes = set()
    for seed in range(30):
        draws = np.random.default_rng([seed, 5])
        archive = random_archive(draws, binary, 1.0, largest=200)
        size = archive.scores.shape[1]
        blocks = draws.integers(0, max(1, size // 4), size)
        archive = replace(archive, examples=replace(archive.examples, blocks=blocks))
        # Some of them are known from before.
        known = unknown(archive)
        known[blocks == blocks[0]] = 1.0
        exam = LosslessPlan(archive, parents_of(draws, archive), known)
        asked = sit(exam, np.ones(size, dtype=np.float32))
        sizes.add(len(asked))
        for part in asked:
            inside = np.isin(blocks, blocks[part])
            np.testing.assert_array_equal(np.sort(part), np.flatnonzero(inside))
        every = np.sort(np.concatenate([*asked, np.flatnonzero(blocks == blocks[0])]))
        np.testing.assert_array_equal(every, np.arange(size))
    assert max(sizes) > 3


def test_more_blocks_than_sixteen_bits_can_number() -> None:
    draws, size = np.random.default_rng(0), 66_000
    scores = (draws.random((2, size)) < 0.5).astype(np.float32)
    archive = archive_of(scores, np.ones(size), binary=True, alpha=1.0)
    archive = replace(archive, examples=replace(archive.examples, blocks=np.arange(size)))
    known = np.where(draws.random(size) < 0.3, np.float32(1), np.float32(np.nan))
    exam = LosslessPlan(archive, [(0, 1.0)], known)
    asked = np.concatenate(sit(exam, np.ones(size, dtype=np.float32)))
    np.testing.assert_array_equal(np.sort(asked), np.flatnonzero(np.isnan(known)))
    assert not exam.rejected and bool((exam.scores == 1).all())


def test_what_is_asked_depends_on_nothing_else() -> None:
    for seed in range(20):
        draws = np.random.default_rng(seed)
        archive = random_archive(draws, seed % 2 == 0, 1.0, largest=150)
        again = archive_of(
            archive.scores.astype(np.float32),
            archive.examples.capacity,
            archive.examples.binary,
            archive.alpha,
        )
        child, parents = random_child(draws, archive), parents_of(draws, archive)
        exams = [LosslessPlan(one, parents, unknown(archive)) for one in (archive, archive, again)]
        first, *others = [[block.tolist() for block in sit(exam, child)] for exam in exams]
        assert all(blocks == first for blocks in others)


def test_the_known_is_copied() -> None:
    archive = random_archive(np.random.default_rng(0), True, 1.0)
    known = unknown(archive)
    exam = LosslessPlan(archive, [(0, 1.0)], known)
    exam.record(exam.next(), np.ones(exam.next().size, dtype=np.float32))
    assert bool(np.isnan(known).all()) and not np.isnan(exam.scores).all()
    full = FullPlan(known)
    full.record(full.next(), np.ones(known.size, dtype=np.float32))
    assert bool(np.isnan(known).all()) and full.done


@pytest.mark.slow
@pytest.mark.parametrize(("binary", "alpha", "baseline"), SOME)
def test_an_exam_can_be_resumed_against_another_archive(
    binary: bool, alpha: float, baseline: Baseline
) -> None:
    changed = 0
    for seed in range(60):
        draws = np.random.default_rng([seed, int(10 * alpha), binary])
        archive = random_archive(draws, binary, alpha, baseline=baseline)
        child, parents = random_child(draws, archive), parents_of(draws, archive)
        exam = LosslessPlan(archive, parents, unknown(archive))
        sit(exam, child)
        # Meanwhile others have entered the archive.
        later = archive
        for _ in range(3):
            rival = random_child(draws, later)
            slot, _ = later.challenge(rival)
            member = later.members[0]
            if slot is not None and member is not None:
                later = later.replaced(slot, member, rival)
        resumed = LosslessPlan(later, parents, exam.scores)
        asked = np.concatenate([unknown(archive)[:0].astype(np.int64), *sit(resumed, child)])
        # Nothing is asked twice, and what has been answered stands.
        assert bool(np.isnan(exam.scores[asked]).all())
        before = ~np.isnan(exam.scores)
        np.testing.assert_array_equal(resumed.scores[before], child[before])
        if not np.isnan(resumed.scores).any():
            continue
        changed += later is not archive
        for full in completions(draws, later, resumed.scores):
            assert later.challenge(full)[0] is None
    assert changed >= 2


def test_bounds_are_kept_no_longer_than_their_archive() -> None:
    archive = random_archive(np.random.default_rng(2), True, 1.0)
    assert bounds(archive) is bounds(archive)
    gone = weakref.ref(archive)
    del archive
    gc.collect()
    assert gone() is None


def test_nothing_left_to_ask() -> None:
    archive = random_archive(np.random.default_rng(1), True, 1.0)
    answered = np.ones(archive.scores.shape[1], dtype=np.float32)
    exam = LosslessPlan(archive, [(0, 1.0)], answered)
    assert exam.done and exam.next().size == 0 and not exam.rejected


def test_while_a_slot_is_empty_nobody_is_rejected() -> None:
    scores = np.ones((2, 40), dtype=np.float32)
    archive = archive_of(scores, np.ones(40), True, 1.0, empty=1)
    exam = LosslessPlan(archive, [(0, 1.0)], unknown(archive))
    # So everything may as well be asked at once.
    assert len(sit(exam, np.zeros(40, dtype=np.float32))) == 1
    assert not np.isnan(exam.scores).any() and not exam.rejected
    assert archive.challenge(exam.scores)[0] == 2


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_stopping_does_not_depend_on_the_unit_of_capacity(scale: float) -> None:
    draws = np.random.default_rng(4)
    scores = (draws.random((8, 300)) < 0.6).astype(np.float32)
    child = scores[0] * (draws.random(300) < 0.4)
    counts = []
    for unit in (1.0, scale):
        archive = archive_of(scores, np.full(300, unit), True, 1.0)
        exam = LosslessPlan(archive, [(0, 1.0)], unknown(archive))
        sit(exam, child)
        counts.append(int((~np.isnan(exam.scores)).sum()))
    assert counts[0] == counts[1] < 200


@pytest.mark.parametrize("order", [1, -1])
def test_a_child_that_ties_but_for_rounding_is_asked_to_the_end(order: int) -> None:
    # It fails one example that is worth next to nothing: by the tie rule it takes the slot.
    scores = np.array([[1, 1, 1, 0], [1, 1, 0, 1]], dtype=np.float32)[:, ::order]
    weights = np.array([1e-13, 1.0, 2.0, 3.0])[::order]
    child = np.array([0, 1, 1, 0], dtype=np.float32)[::order]
    archive = archive_of(scores, weights, True, 1.0)
    assert archive.challenge(child)[0] == 0
    for last in range(4):
        known = child.copy()
        known[last] = np.nan
        assert not LosslessPlan(archive, [(0, 1.0)], known).rejected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("binary", "baseline"), [(True, "none"), (False, "none"), (False, "worst"), (True, "worst")]
)
def test_clones_are_asked_to_the_end_however_many_examples_there_are(
    binary: bool, baseline: Baseline
) -> None:
    # A clone of the weakest takes its slot, so it must never be rejected; sums over a hundred
    # thousand unclaimed examples leave rounding behind that is large beside its small fitness.
    for seed in range(4):
        draws = np.random.default_rng(seed)
        size = 100_000
        scores = np.zeros((3, size), dtype=np.float32)
        scores[:, :3] = np.eye(3)
        if not binary:
            floor = 0.0 if baseline == "none" else draws.random(size - 3)
            scores[:, 3:] = floor + 1e-7 * draws.random((1 if baseline == "none" else 3, size - 3))
        weights = draws.random(size) + 0.1
        archive = archive_of(scores, weights, binary, 1.0, baseline=baseline)
        weakest = int(archive.fitness.argmin())
        child = scores[weakest].copy()
        assert archive.challenge(child)[0] == weakest
        solved = np.flatnonzero(child == 1)
        known = np.where(np.isin(np.arange(size), solved), np.nan, child).astype(np.float32)
        exam = LosslessPlan(archive, [(weakest, 1.0)], unknown(archive))
        for block in np.array_split(np.setdiff1d(np.arange(size), solved), 97):
            exam.record(block, child[block])
            assert not exam.rejected
        assert not LosslessPlan(archive, [(weakest, 1.0)], known).rejected


def test_the_expected_failures_are_asked_first() -> None:
    # Parents that solve the first half; the second half is what everybody solves.
    scores = np.zeros((4, 100), dtype=np.float32)
    scores[:2, :50] = 1
    scores[2:, 50:] = 1
    archive = archive_of(scores, np.ones(100), True, 1.0)
    exam = LosslessPlan(archive, [(0, 0.5), (1, 0.5)], unknown(archive))
    first = exam.next()
    assert bool((first >= 50).all())
    exam.record(first, np.zeros(first.size, dtype=np.float32))
    assert not exam.done
