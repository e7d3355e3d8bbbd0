"""The early stop with a bounded risk: the bound holds, and it saves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from genepool.core.archive import Archive
from genepool.core.competition import Baseline
from genepool.core.early_stop.lossless import LosslessPlan
from genepool.core.early_stop.risk_limited import RiskLimitedPlan
from genepool.core.rng import generator
from genepool.strategies.m2n2 import M2N2
from tests.core.early_stop.test_lossless import parents_of, sit, unknown
from tests.core.populations import archive_of, random_archive
from tests.core.trial import problem_of, run
from tests.quick import quick

Parents = list[tuple[int | None, float]]


def specialists(
    draws: np.random.Generator, binary: bool, alpha: float, size: int, baseline: Baseline = "none"
) -> Archive:
    """Six members, each good at some of three kinds of examples; everything is claimed."""
    kind = draws.integers(3, size=size)
    skill = draws.choice([0.1, 0.5, 0.9], size=(6, 3))[:, kind]
    scores = (draws.random((6, size)) < skill).astype(np.float32)
    scores[draws.integers(6, size=size), np.arange(size)] = 1.0
    if not binary:
        scores *= draws.choice([0.25, 0.5, 1.0], size=scores.shape).astype(np.float32)
    weights = np.ones(size) if draws.random() < 0.5 else draws.choice([0.2, 1.0, 3.0], size=size)
    if baseline == "worst" and not binary:
        scores = (0.5 + scores / 2).astype(np.float32)
    return archive_of(scores, weights, binary, alpha, baseline=baseline)


def barely_good(draws: np.random.Generator, archive: Archive) -> np.ndarray:
    """A child that belongs in the archive but would not with one example less: float32[N]."""
    rows = archive.scores.astype(np.float32)
    one, two = rows[draws.integers(rows.shape[0], size=2)]
    child = np.where(draws.random(one.size) < 0.5, one, two)
    best = np.ones_like(child)
    for example in draws.permutation(child.size):
        if archive.challenge(child)[0] is not None:
            break
        child[example] = best[example]
    for example in draws.permutation(child.size):
        worse = child.copy()
        worse[example] = 0.0
        if archive.challenge(worse)[0] is not None:
            child = worse
    assert archive.challenge(child)[0] is not None
    return child


@pytest.mark.slow
@pytest.mark.parametrize("risk", [0.05, 0.3])
@pytest.mark.parametrize(
    ("binary", "alpha", "lots", "baseline"),
    [
        (True, 1.0, 1, "none"),
        (True, 0.0, 1, "none"),
        (True, 2.0, 4, "none"),
        (False, 1.0, 1, "none"),
        (False, 3.0, 3, "none"),
        (False, 1.0, 1, "worst"),
        (True, 1.0, 2, "worst"),
    ],
)
def test_a_child_that_belongs_is_turned_away_no_more_often_than_the_bound(
    binary: bool, alpha: float, lots: int, baseline: Baseline, risk: float
) -> None:
    trials, wrong, worst = 0, 0, 0.0
    for seed in range(6):
        draws = np.random.default_rng([seed, binary, int(alpha * 10)])
        archive = specialists(draws, binary, alpha, 90, baseline)
        if lots > 1:
            blocks = draws.permutation(90) // lots
            examples = replace(archive.examples, blocks=blocks)
            archive = replace(archive, examples=examples)
        child, parents = barely_good(draws, archive), parents_of(draws, archive)
        here = 0
        for repeat in range(100):
            audit = RiskLimitedPlan(
                archive, parents, unknown(archive), risk, generator(repeat, seed)
            )
            sit(audit, child)
            here += bool(np.isnan(audit.scores).any())
        trials, wrong, worst = trials + 100, wrong + here, max(worst, here / 100)
    assert wrong / trials <= risk
    # Each child by itself too, as far as 100 repeats can tell.
    assert worst <= risk + 4 * (risk * (1 - risk) / 100) ** 0.5


@pytest.mark.parametrize(("binary", "alpha"), [(True, 1.0), (True, 2.0), (False, 1.0)])
def test_it_asks_less_than_the_lossless_stop(binary: bool, alpha: float) -> None:
    asked = {"lossless": 0, "0.05": 0, "0.3": 0}
    for seed in range(20):
        draws = np.random.default_rng([seed, binary])
        archive = specialists(draws, binary, alpha, 400)
        parents: Parents = [(0, 0.5), (1, 0.5)]
        one, two = archive.scores[:2].astype(np.float32)
        child = np.where(draws.random(400) < 0.5, one, two) * (draws.random(400) < 0.7)
        for name in asked:
            exam = (
                LosslessPlan(archive, parents, unknown(archive))
                if name == "lossless"
                else RiskLimitedPlan(
                    archive, parents, unknown(archive), float(name), generator(1, seed)
                )
            )
            sit(exam, child.astype(np.float32))
            asked[name] += int(np.count_nonzero(~np.isnan(exam.scores)))
    assert asked["0.3"] < asked["0.05"] < 0.85 * asked["lossless"]


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("baseline", ["none", "worst"])
def test_any_child_of_any_archive_can_be_asked(
    binary: bool, alpha: float, baseline: Baseline
) -> None:
    for seed in range(60):
        draws = np.random.default_rng([seed, binary, int(alpha)])
        archive = random_archive(draws, binary, alpha, baseline=baseline)
        child = archive.scores[draws.integers(len(archive.members))].astype(np.float32)
        child = np.where(draws.random(child.size) < 0.5, np.float32(0), child)
        known = np.where(draws.random(child.size) < 0.3, child, np.float32(np.nan))
        parents = parents_of(draws, archive)
        with np.errstate(all="raise", under="ignore"):
            audit = RiskLimitedPlan(archive, parents, known, 0.2, generator(0, seed))
            blocks = sit(audit, child)
            again = sit(RiskLimitedPlan(archive, parents, known, 0.2, generator(0, seed)), child)
        asked = np.concatenate([np.empty(0, dtype=np.int64), *blocks])
        assert np.isnan(known[asked]).all() and np.unique(asked).size == asked.size
        left = np.isnan(audit.scores)
        np.testing.assert_array_equal(audit.scores[~left], child[~left])
        assert audit.rejected or not left.any()
        assert len(again) == len(blocks)
        for first, second in zip(blocks, again, strict=True):
            np.testing.assert_array_equal(first, second)
        if left.any():
            # Who has nothing cannot be beaten for certain, so everything is asked.
            assert archive.fitness.min() > 0


def test_examples_are_asked_in_the_evaluators_batches_and_blocks() -> None:
    draws = np.random.default_rng(0)
    archive = specialists(draws, True, 1.0, 200)
    child = np.zeros(200, dtype=np.float32)
    child[:120] = 1.0
    for grain, blocks in ((7, None), (1, draws.permutation(200) // 9)):
        examples = replace(archive.examples, grain=grain, blocks=blocks)
        here = Archive(archive.members, archive.scores.copy(), examples, 1.0)
        asked = sit(RiskLimitedPlan(here, [(0, 1.0)], unknown(here), 0.01, generator(0, 0)), child)
        for block in asked[:-1]:
            if blocks is None:
                assert block.size % grain == 0
            else:
                assert np.isin(blocks, blocks[block]).sum() == block.size


@pytest.mark.parametrize("blocks", [None, np.arange(200) // 9], ids=["examples", "blocks"])
def test_nothing_is_asked_where_all_is_known(blocks: np.ndarray | None) -> None:
    """As of a child that was scored whole while another was in flight."""
    archive = specialists(np.random.default_rng(0), True, 1.0, 200)
    examples = replace(archive.examples, blocks=blocks)
    here = Archive(archive.members, archive.scores.copy(), examples, 1.0)
    known = archive.scores[0].astype(np.float32)
    for plan in (
        RiskLimitedPlan(here, [(0, 1.0)], known, 0.1, generator(0, 0)),
        LosslessPlan(here, [(0, 1.0)], known),
    ):
        assert plan.done and plan.next().size == 0


def test_what_is_asked_first_is_drawn() -> None:
    archive = specialists(np.random.default_rng(1), True, 1.0, 200)
    first = [
        frozenset(
            RiskLimitedPlan(archive, [], unknown(archive), 0.1, generator(seed, 1)).next().tolist()
        )
        for seed in range(10)
    ]
    assert len(set(first)) == 10


@pytest.mark.slow
@pytest.mark.parametrize("width", quick([1, 3]))
def test_a_run_turns_few_away_wrongly_and_repeats(width: int) -> None:
    problem, score = problem_of(np.random.default_rng(4), seeds=4, examples=200)
    trial = run(M2N2(archive=8, risk=0.2), problem, score, 200, width)
    again = run(M2N2(archive=8, risk=0.2), problem, score, 200, width)
    assert trial.asked == again.asked and trial.slots == again.slots
    lossless = run(M2N2(archive=8), problem, score, 200, width)
    assert sum(trial.asked) < sum(lossless.asked)
    best = [
        max(m.train for m in found.archive.members if m is not None) for found in (trial, lossless)
    ]
    assert best[0] > best[1] - 0.1
