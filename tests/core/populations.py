"""Random archives and children, with everything that makes early stopping delicate."""

from __future__ import annotations

import numpy as np

from genepool.core.archive import Archive, Member
from genepool.core.competition import Baseline
from genepool.core.examples import examples_of
from genepool.core.genome import seed_recipe

GENOME = seed_recipe(1, 0, 1)


def archive_of(
    scores: np.ndarray,
    weights: np.ndarray,
    binary: bool,
    alpha: float,
    empty: int = 0,
    baseline: Baseline = "none",
) -> Archive:
    """An archive with these scores, float32[P, N], and further empty slots at the end."""
    matrix = np.concatenate([scores, np.zeros((empty, scores.shape[1]))]).astype(np.float64)
    members = [Member(slot, GENOME, (), 0.0) for slot in range(scores.shape[0])]
    examples = examples_of(weights.size, binary=binary, capacity=weights)
    return Archive((*members, *([None] * empty)), matrix, examples, alpha, baseline)


def random_scores(draws: np.random.Generator, members: int, size: int, binary: bool) -> np.ndarray:
    """float32[members, size]: specialists, clones, unclaimed examples, zeros and ones."""
    skill = draws.random((members, 1)) * draws.random((1, size))
    scores = (draws.random((members, size)) < np.sqrt(skill)).astype(np.float32)
    if not binary:
        scores *= draws.choice([0.1, 0.5, 1.0], size=(members, size))
        rough = draws.random((members, size)) < 0.5
        scores = np.where(rough, scores * draws.random((members, size)), scores)
    scores[:, draws.random(size) < 0.15] = 0.0
    if members > 1 and draws.random() < 0.4:
        scores[draws.integers(members)] = scores[draws.integers(members)]
    return scores.astype(np.float32)


def random_archive(
    draws: np.random.Generator,
    binary: bool,
    alpha: float,
    largest: int = 30,
    baseline: Baseline = "none",
) -> Archive:
    """2 to 7 members, 4 to `largest` examples; now and then an empty slot.

    With a baseline some examples are such that nobody does badly on them.
    """
    members, size = int(draws.integers(2, 8)), int(draws.integers(4, largest + 1))
    weights = {
        0: np.ones(size),
        1: draws.random(size) + 0.01,
        2: draws.choice([1e-3, 1.0, 40.0], size=size),
    }[int(draws.integers(3))]
    scores = random_scores(draws, members, size, binary)
    if draws.random() < 0.5:
        # Everything is claimed, and nobody is empty-handed.
        scores[draws.integers(members, size=size), np.arange(size)] = 1.0
        scores[:, draws.integers(size)] = 1.0
    if baseline == "worst":
        floor = draws.choice([0.0, 1.0] if binary else [0.0, 0.5, 0.98, 0.999999, 1.0], size=size)
        lifted = draws.random(size) < 0.5
        scores = np.where(lifted, floor + (1 - floor) * scores, scores).astype(np.float32)
        if draws.random() < 0.7:
            # On every example somebody stands out.
            (flat,) = np.nonzero(scores.min(axis=0) == scores.max(axis=0))
            one = draws.integers(members, size=flat.size)
            scores[one, flat] = np.where(scores[one, flat] > 0.5, 0.0, 1.0)
    return archive_of(scores, weights, binary, alpha, int(draws.random() < 0.1), baseline)


def random_child(draws: np.random.Generator, archive: Archive) -> np.ndarray:
    """float32[N]: a clone, a member that has lost something, a mixture of two, or a stranger."""
    rows = archive.scores.astype(np.float32)
    one, two = rows[draws.integers(rows.shape[0], size=2)]
    kind = int(draws.integers(4))
    if kind == 0:
        return one.copy()
    if kind == 1:
        return np.where(draws.random(one.size) < 0.25, np.float32(0), one)
    if kind == 2:
        return np.where(draws.random(one.size) < 0.5, one, two)
    return random_scores(draws, 1, one.size, archive.examples.binary)[0] * draws.integers(0, 2)
