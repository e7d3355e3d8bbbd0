"""Comparisons: the statistics, the grid of runs, and that nothing can be told of interruptions."""

from __future__ import annotations

import contextlib
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from genepool.errors import ConfigError, GenepoolError, InputError, MissingExtraError, PoolError
from genepool.pool.reader import Pool
from genepool.pool.writer import PoolWriter
from genepool.run.evolve import evolve
from genepool.run.progress import Silence
from genepool.run.run_file import load_run
from genepool.study.compare import compare, parse_variant, plan_jobs, read_curve
from genepool.study.comparison import Curve, assemble, smallest_p
from genepool.study.significance import (
    confidence_band,
    evaluations_to_reach,
    holm,
    sign_flip_test,
)
from tests.cli import run_cli
from tests.curves import curve
from tests.runs import contents, slow_run, write_data, write_run

# Statistics


def test_a_level_is_reached_at_the_first_evaluation_at_or_above_it() -> None:
    at, scores = [0, 3, 10, 40], [0.25, 0.5, 0.75, 0.7]
    assert evaluations_to_reach(at, scores, 0.2) == 0
    assert evaluations_to_reach(at, scores, 0.5) == 3
    assert evaluations_to_reach(at, scores, 0.51) == 10
    assert evaluations_to_reach(at, scores, 0.76) is None
    assert evaluations_to_reach(at, [float("nan"), 0.1, 0.2, 0.3], 0.1) == 3
    # The mean of ten equal scores lies above them by a rounding error.
    mean = float(np.mean([0.1 + 0.2] * 10))
    assert evaluations_to_reach([5], [np.nextafter(mean, 0)], mean) == 5
    assert evaluations_to_reach([], [], 0.1) is None


def test_the_sign_flip_test_by_hand() -> None:
    # Of 8 assignments only + + + and - - - reach 6.
    assert sign_flip_test([1, 2, 3]) == 2 / 8
    # |sum| of 1 2 -3 is 0, which all reach.
    assert sign_flip_test([1, 2, -3]) == 1
    assert sign_flip_test([0, 0, 0]) == 1
    assert sign_flip_test([0.1] * 6) == 2 / 64
    # + + - : sums 1.5, 0.5, 0.5, 0.5 and their opposites; those at 0.5 are tied.
    assert sign_flip_test([0.5, 0.5, -0.5]) == 1
    for wrong in ([], [1, float("nan")], [[1, 2]]):
        with pytest.raises(InputError, match="differences: expected"):
            sign_flip_test(wrong)


@settings(max_examples=30)
@given(st.lists(st.integers(-4, 4).map(lambda n: n / 360), min_size=2, max_size=9))
def test_the_sign_flip_test_is_scipys(differences: list[float]) -> None:
    expected = stats.permutation_test(
        (np.array(differences),),
        lambda x, axis: np.round(x.sum(axis=axis), 9),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    )
    assert sign_flip_test(differences) == pytest.approx(expected.pvalue)


def test_with_many_pairs_the_sign_flip_test_draws_the_same_signs_every_time() -> None:
    draws = np.random.default_rng(1)
    differences = draws.normal(0.3, 1, size=40)
    p = sign_flip_test(differences)
    assert p == sign_flip_test(differences)
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.02)
    assert sign_flip_test(np.full(40, 0.5)) == 1 / 100_001


@pytest.mark.parametrize(
    ("pairs", "p"), [(17, 0.6100838991610084), (40, 0.7787822121778782), (100, 0.15797842021579783)]
)
def test_many_pairs_need_no_more_memory_than_few(pairs: int, p: float) -> None:
    """All assignments of signs at once take 24 bytes for each draw and pair."""
    differences = np.random.default_rng(pairs).normal(0.1, 1, pairs)
    tracemalloc.start()
    try:
        assert sign_flip_test(differences) == p
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_holms_correction_by_hand() -> None:
    # Sorted 0.01 * 3, 0.03 * 2, then no less than the one before.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == pytest.approx([1, 1])
    assert holm([]).size == 0


def test_the_band_is_students() -> None:
    values = np.random.default_rng(2).normal(size=(8, 3))
    low, high = confidence_band(values)
    for column in range(3):
        expected = stats.t.interval(0.95, 7, values[:, column].mean(), stats.sem(values[:, column]))
        assert (low[column], high[column]) == pytest.approx(expected)
    assert np.isnan(confidence_band(values[:1])).all()


def test_the_table_by_hand() -> None:
    curves = [curve("a", seed, 0.5, 0.5 + seed / 100) for seed in range(6)]
    curves += [curve("b", seed, 1.0, 0.6 + seed / 100) for seed in range(6)]
    curves += [curve("c", seed, 0.5, 0.5 + (seed % 2) / 100) for seed in range(6)]
    found = assemble(Path("x"), curves, 100)
    assert (found.labels, found.seeds, found.score) == (
        ("a", "b", "c"),
        tuple(range(6)),
        "held_out",
    )
    a, b, c = found.rows
    assert a.train == pytest.approx((0.5, 0.0))
    assert a.held_out == pytest.approx((0.525, np.std([0, 1, 2, 3, 4, 5], ddof=1) / 100))
    assert (a.difference, a.p, a.p_corrected) == (None, None, None)
    assert b.difference == pytest.approx(0.1)
    assert b.p == 2 / 64
    assert b.p_corrected == 4 / 64 == smallest_p(6, 2)
    assert c.difference == pytest.approx(-0.02)
    assert c.p == sign_flip_test([0, 0, -2, -2, -4, -4])
    assert a.examples_share == 0.5
    # b is at 0.625, above a's 0.5, from child 10 + seed on; a never is as good as b.
    assert (b.reaches["a"].median, b.reaches["a"].runs) == (12.5, 6)
    assert (a.reaches["b"].median, a.reaches["b"].runs) == (None, 0)
    assert (a.reaches["a"].median, a.reaches["a"].runs) == (60, 6)


def test_without_held_out_scores_in_every_run_the_training_scores_are_compared() -> None:
    curves = [curve("a", seed, 0.5, 0.5) for seed in range(6)]
    curves += [curve("b", seed, 0.75, 0.9 if seed else float("nan")) for seed in range(6)]
    found = assemble(Path("x"), curves, 100)
    assert found.score == "train"
    assert found.rows[1].difference == pytest.approx(0.25)
    assert found.rows[1].held_out is None


# The grid


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as text:
        return list(csv.DictReader(text))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run file, and a comparison of three strategies over two seeds, 30 children each."""
    folder = tmp_path_factory.mktemp("compare")
    file = write_run(folder, strategy={"name": "m2n2", "archive": 5, "alpha": 0.5})
    variants = [parse_variant("blind={name: m2n2, attraction: false}")]
    compare(file, folder / "out", strategies=["m2n2", "ga"], variants=variants, runs=2, budget=30)
    return file, folder / "out"


@pytest.mark.slow
def test_every_run_is_what_evolve_would_have_made(small: tuple[Path, Path], tmp_path: Path) -> None:
    file, out = small
    expected = {"m2n2": {"archive": 5, "alpha": 0.5}, "ga": {}, "blind": {"attraction": False}}
    assert sorted(path.name for path in (out / "runs").iterdir()) == sorted(expected)
    for label, options in expected.items():
        assert sorted(path.name for path in (out / "runs" / label).iterdir()) == ["3", "4"]
        strategy = {"name": "ga" if label == "ga" else "m2n2", **options}
        alone = write_run(
            tmp_path / label, strategy=strategy, budget=30, seed=4, track_held_out=True
        )
        evolve(alone)
        assert contents(tmp_path / label / "pool") == contents(out / "runs" / label / "4")
    assert not (file.parent / "pool").exists()


@pytest.mark.slow
def test_the_tables_agree_with_the_pools(small: tuple[Path, Path]) -> None:
    _, out = small
    curves, summary = table(out / "curves.csv"), table(out / "summary.csv")
    assert len(curves) == 3 * 2 * 31
    assert len(summary) == 6
    for row in summary:
        with Pool(out / "runs" / row["strategy"] / row["seed"]) as pool:
            status = pool.status()
        assert row["evaluations"] == "30"
        assert float(row["train"]) == status["champion"]["train"]
        assert float(row["held_out"]) == status["champion"]["held_out"]
        assert int(row["examples_evaluated"]) == status["examples_evaluated"]
        mine = [c for c in curves if (c["strategy"], c["seed"]) == (row["strategy"], row["seed"])]
        assert [int(c["evaluations"]) for c in mine] == list(range(31))
        last = {name: mine[-1][name] for name in mine[-1]}
        assert last == {name: row[name] for name in last}
        assert float(mine[0]["train"]) == max(seed["train"] for seed in status["seeds"])
        # Where the curve first is as good as the mean of another strategy.
        for other in ("m2n2", "ga", "blind"):
            finals = [float(r["train"]) for r in summary if r["strategy"] == other]
            level = np.mean(finals) - 1e-12
            reached = [c["evaluations"] for c in mine if float(c["train"]) >= level]
            assert row[f"train_reaches_{other}"] == (reached[0] if reached else "")


def test_a_curve_stops_at_the_budget_though_the_pool_went_on(tmp_path: Path) -> None:
    for name, budget in (("short", 20), ("long", 45)):
        evolve(write_run(tmp_path / name, budget=budget, track_held_out=True))
    with Pool(tmp_path / "short/pool") as short, Pool(tmp_path / "long/pool") as long:
        expected, found = (read_curve(pool, "m2n2", 3, 20) for pool in (short, long))
        with pytest.raises(PoolError, match="has 20 children of 45"):
            read_curve(short, "m2n2", 3, 45)
    for name in Curve.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_the_champion_of_a_part_of_a_run_with_subsets_is_not_known(tmp_path: Path) -> None:
    """Its score on a subset stood for that on all examples, and a later champion's for its own."""
    strategy = {"name": "m2n2", "archive": 6, "share": 0.3, "renew": 15}
    evolve(write_run(tmp_path, strategy=strategy, budget=40))
    with Pool(tmp_path / "pool") as pool:
        assert read_curve(pool, "m2n2", 3, 40).champion_evaluations[-1] == 40
        for budget in (39, 15, 0):
            with pytest.raises(PoolError, match=rf"after {budget} is not known: give --budget 40"):
                read_curve(pool, "m2n2", 3, budget)


@pytest.mark.slow
def test_a_comparison_can_be_widened(small: tuple[Path, Path], tmp_path: Path) -> None:
    file, _ = small
    names = ["m2n2", "random"]
    compare(file, tmp_path / "grown", strategies=names[:1], runs=1, budget=10, workers=1)
    compare(file, tmp_path / "grown", strategies=names, runs=2, budget=15, workers=1)
    compare(file, tmp_path / "at once", strategies=names, runs=2, budget=15)
    first = compare(file, tmp_path / "grown", strategies=names[:1], runs=1, budget=10, workers=1)
    assert len(first.curves) == 1
    again = compare(file, tmp_path / "grown", strategies=names, runs=2, budget=15, workers=1)
    assert again.rows[0].train[0] > 0
    for name in ("curves.csv", "summary.csv"):
        assert (tmp_path / "grown" / name).read_bytes() == (
            tmp_path / "at once" / name
        ).read_bytes()


@pytest.mark.slow
def test_the_seeds_are_read_once_for_all_runs(small: tuple[Path, Path]) -> None:
    _, out = small
    names = sorted(path.name.partition("-")[0] for path in (out / "cache").iterdir())
    assert names == ["digests.json", "gram"]
    inside = {path.name for path in (out / "runs").rglob("*") if path.is_file()}
    assert not any("gram" in name or "digests" in name for name in inside)


@pytest.mark.parametrize(
    "shared",
    [
        {"executor": "process", "devices": "auto", "workers": 2},
        {"executor": "process", "devices": ["cpu"], "in_flight": "auto"},
        {"executor": "ray", "in_flight": "auto", "ray": {"gpus": 1}},
    ],
)
def test_how_the_run_file_shares_out_its_children_does_not_count(
    shared: dict[str, Any], tmp_path: Path
) -> None:
    run = load_run(write_run(tmp_path, **shared))
    (job,) = plan_jobs(run, tmp_path, ["ga"], [], 1, 2)
    assert (job.run.config.executor, job.run.config.devices) == ("serial", None)
    assert evolve(job.run).session == 2
    with Pool(job.pool) as pool:
        assert pool.meta()["pins"]["in_flight"] == 1


_SHORT = (
    "budget: 3 is less than the 101 merges of the sweep (101 ratios for each pair of seeds), so "
    "that no ratio above 0.02 is tried; make 'grid' smaller or the budget larger"
)


@pytest.mark.slow
def test_what_is_good_to_know_of_a_strategy_is_told_once(tmp_path: Path) -> None:
    told: list[str] = []

    class Watcher(Silence):
        def notice(self, text: str) -> None:
            told.append(text)

    file = write_run(tmp_path)
    for _ in range(2):
        names = ["sweep", "ga"]
        compare(file, tmp_path / "out", strategies=names, runs=2, budget=3, progress=Watcher())
    assert told == [f"sweep: {_SHORT}"]


@pytest.mark.slow
def test_it_is_told_where_held_out_scores_are_of_some_tasks_alone(tmp_path: Path) -> None:
    told: list[str] = []
    stages: list[str] = []

    class Watcher(Silence):
        def notice(self, text: str) -> None:
            told.append(text)

        def stage(self, text: str) -> None:
            stages.append(text)

    task = {"evaluator": "classifier", "data": "data.npz"}
    tasks = [{**task, "name": "a", "held_out": 0}, {**task, "name": "b", "held_out": 0.2}]
    file = write_run(tmp_path, tasks=tasks)
    compare(
        file, tmp_path / "out", strategies=["ga"], runs=2, budget=2, workers=2, progress=Watcher()
    )
    assert len(told) == 1
    assert told[0].startswith("task 'a' has no held-out examples, so that held-out scores are")
    # The bar said all the while that seeds were read.
    assert stages == ["reading the seeds", "2 runs in 2 processes", "reading the runs"]


@pytest.mark.slow
def test_what_is_good_to_know_of_the_seeds_is_told_once(tmp_path: Path) -> None:
    told: list[str] = []

    class Watcher(Silence):
        def notice(self, text: str) -> None:
            told.append(text)

    file = write_run(tmp_path, seeds=[f"seed{number}.safetensors" for number in (1, 2, 3)])
    (tmp_path / "seed3.safetensors").write_bytes((tmp_path / "seed1.safetensors").read_bytes())
    for _ in range(2):
        compare(file, tmp_path / "out", strategies=["ga"], runs=3, budget=2, progress=Watcher())
    assert len(told) == 1 and "'seed1'" in told[0] and "'seed3'" in told[0], told


# Refusals


@pytest.mark.parametrize(
    ("strategies", "variants", "words"),
    [
        ([], [], "nothing to compare"),
        (["m2n2", "gaa"], [], "--strategies: strategy.name: there is no strategy 'gaa'; did you"),
        (["ga", "ga"], [], "the label 'ga' is used twice"),
        (["ga"], ["GA={name: ga}"], "--variant GA: the label 'GA' is used twice"),
        (["map-elites"], [], "give it with --variant map-elites='{name: map-elites, ...}'"),
        ([], ["x={name: m2n2, atraction: 1}"], "--variant x: strategy.atraction: unknown key; did"),
        ([], ["x={name: m2n2, alpha: -1}"], "--variant x: strategy.alpha: input should be greater"),
        ([], ["../x={name: ga}"], "'../x' cannot be a label"),
        ([], ["={name: ga}"], "'' cannot be a label"),
        ([], ["x=ga"], "expected LABEL={name: STRATEGY"),
        ([], ["x={name: ga"], "--variant x: not valid YAML"),
        ([], ["x={name: 3}"], "--variant x: strategy.name: input should be a valid string; got 3"),
        ([], ["x"], "got 'x'"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line_before_anything_runs(
    strategies: list[str], variants: list[str], words: str, tmp_path: Path
) -> None:
    file = write_run(tmp_path)
    with pytest.raises(ConfigError) as caught:
        compare(
            file,
            tmp_path / "out",
            strategies=strategies,
            variants=[parse_variant(text) for text in variants],
        )
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_numbers_out_of_range_are_refused(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path))
    with pytest.raises(InputError, match="runs: expected at least 1; got 0"):
        plan_jobs(run, tmp_path, ["ga"], [], 0, 10)
    with pytest.raises(InputError, match="budget: expected at least 0; got -1"):
        plan_jobs(run, tmp_path, ["ga"], [], 1, -1)
    late = load_run(write_run(tmp_path, seed=2**63 - 1))
    assert len(plan_jobs(late, tmp_path, ["ga"], [], 1, 10)) == 1
    with pytest.raises(InputError, match="2\\*\\*63 - 1"):
        plan_jobs(late, tmp_path, ["ga"], [], 2, 10)


@pytest.mark.slow
def test_a_run_that_fails_is_named(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    compare(file, tmp_path / "out", strategies=["ga"], runs=1, budget=5)
    write_data(tmp_path / "data.npz", seed=1)
    with pytest.raises(GenepoolError, match=r"^ga, random seed 3: .* other examples or settings"):
        compare(file, tmp_path / "out", strategies=["ga"], runs=1, budget=6)


def test_a_seed_that_cannot_be_read_is_named_before_any_run(tmp_path: Path) -> None:
    file = write_run(tmp_path, seeds=["seed1.safetensors", "nowhere.safetensors"])
    with pytest.raises(GenepoolError, match=r"run.yaml, line .*nowhere"):
        compare(file, tmp_path / "out", strategies=["ga"], runs=1)
    assert not (tmp_path / "out/runs").exists()


def test_a_package_that_is_missing_is_noticed_before_any_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_run(tmp_path)
    monkeypatch.setitem(sys.modules, "cma", None)
    options = {"name": "cma-es"}
    with pytest.raises(MissingExtraError, match=r"'cma-es' needs .*'cma'.*\[strategies\]"):
        compare(file, tmp_path / "out", strategies=["ga"], variants=[("x", options)], runs=1)
    assert not (tmp_path / "out").exists()


def test_a_directory_serves_one_comparison_at_a_time(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out/compare.lock"),
        pytest.raises(PoolError, match="another `genepool compare` is at work here"),
    ):
        compare(file, tmp_path / "out", strategies=["ga"], runs=1)
    with pytest.raises(PoolError, match="cannot write here"):
        compare(file, tmp_path / "run.yaml", strategies=["ga"], runs=1)


# Interrupted

_EACH = 70


def words(file: Path, out: Path) -> list[str]:
    made = ["--strategies", "m2n2,ga", "--runs", "2", "--budget", str(_EACH)]
    return ["compare", str(file), *made, "-o", str(out)]


def start(file: Path, out: Path) -> subprocess.Popen[str]:
    """In a session of its own, as a terminal would."""
    return subprocess.Popen(
        [sys.executable, "-m", "genepool", *words(file, out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def scored(out: Path) -> int:
    """Children in all pools."""
    total = 0
    for path in (out / "runs").glob("*/*"):
        try:
            with Pool(path) as pool:
                total += pool.evaluations
        except GenepoolError:
            pass
    return total


def wait_for(process: subprocess.Popen[str], out: Path, target: int) -> None:
    while process.poll() is None and scored(out) < target:
        time.sleep(0.03)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    process = start(slow_run(folder, 0.2), folder / "out")
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    (folder / "seconds").write_text(str(time.monotonic() - began))
    return folder / "out"


def check_same(file: Path, out: Path, undisturbed: Path) -> None:
    """After the same command, by another number of workers."""
    code, _, error = run_cli([*words(file, out), "--workers", "1"])
    assert code == 0, error
    for name in ("curves.csv", "summary.csv"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes()
    assert (out / "table.md").read_bytes() == (undisturbed / "table.md").read_bytes()


@pytest.mark.slow
def test_killed_it_goes_on_to_the_same_bytes(tmp_path: Path, undisturbed: Path) -> None:
    file, out = slow_run(tmp_path, 0.2), tmp_path / "out"
    # The parent alone, so that its workers have to notice; then all of them at once.
    for target, kill in ((30, os.kill), (180, os.killpg)):
        process = start(file, out)
        wait_for(process, out, target)
        assert process.poll() is None
        kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=240)
        assert target <= scored(out) < 4 * _EACH
        assert not (out / "curves.csv").exists()
    check_same(file, out, undisturbed)


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    tmp_path: Path, undisturbed: Path
) -> None:
    # While it starts, reads the seeds, sets pools up, breeds, or writes the tables.
    whole = float((undisturbed.parent / "seconds").read_text())
    file, out = slow_run(tmp_path, 0.2), tmp_path / "out"
    draws = random.Random()
    for number in range(2):
        process = start(file, out)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=draws.uniform(0.1, whole))
        with contextlib.suppress(ProcessLookupError):
            (os.kill if number % 2 else os.killpg)(process.pid, signal.SIGKILL)
        process.communicate(timeout=240)
        if process.returncode == 0:
            check_same(file, out, undisturbed)
            shutil.rmtree(out)
    check_same(file, out, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("reach", [os.kill, os.killpg], ids=["parent", "all"])
def test_ctrl_c_ends_it_cleanly_and_it_goes_on_to_the_same_bytes(
    reach: Any, tmp_path: Path, undisturbed: Path
) -> None:
    file, out = slow_run(tmp_path, 0.2), tmp_path / "out"
    process = start(file, out)
    wait_for(process, out, 60)
    workers = workers_of(process)
    reach(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 130
    assert error.splitlines()[-1] == (
        "genepool: interrupted; what was scored is kept, and the same command goes on"
    )
    assert "Traceback" not in error
    assert workers
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert 60 <= scored(out) < 4 * _EACH
    check_same(file, out, undisturbed)


@pytest.mark.slow
def test_killed_before_a_pool_was_set_up_it_goes_on(tmp_path: Path) -> None:
    file, out = write_run(tmp_path), tmp_path / "out"
    # What a writer has made by then: the directory and an empty database.
    PoolWriter(out / "runs/ga/3").close()
    with pytest.raises(PoolError, match="interrupted before anything was written"):
        Pool(out / "runs/ga/3")
    assert len(compare(file, out, strategies=["ga"], runs=1, budget=5).curves) == 1
    PoolWriter(tmp_path / "pool").close()
    assert evolve(file, budget=5).status["evaluations"] == 5


@pytest.mark.slow
def test_a_worker_that_dies_ends_it_in_one_line(tmp_path: Path, undisturbed: Path) -> None:
    file, out = slow_run(tmp_path, 0.2), tmp_path / "out"
    process = start(file, out)
    wait_for(process, out, 40)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "died (signal SIGKILL" in error.splitlines()[-1]
    assert "Traceback" not in error
    check_same(file, out, undisturbed)
