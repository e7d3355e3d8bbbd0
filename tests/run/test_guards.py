"""Guard tasks: no child that breaks one is admitted, and nothing else about a run changes."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genepool.errors import EvaluationError, PoolError
from genepool.output.member import export
from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from genepool.run.executors.scorer import Scorer
from genepool.run.inputs import open_inputs
from genepool.run.run_file import load_run
from tests.runs import contents, write_data, write_run

CLOUDS: dict[str, Any] = {"name": "clouds", "evaluator": "classifier", "data": "data.npz"}
OTHERS: dict[str, Any] = {"name": "others", "evaluator": "classifier", "data": "others.npz"}
GUARD: dict[str, Any] = {**OTHERS, "guard": True, "tolerance": 0.01}
SEEDS = [f"seed{number}.safetensors" for number in (1, 2, 3)]

STRATEGIES: list[dict[str, Any]] = [
    {"name": "m2n2", "archive": 6},
    {"name": "m2n2", "archive": 6, "mutation": 0.05, "risk": 0.2},
    {"name": "ga", "archive": 5},
    {"name": "map-elites", "measures": [{"task": "clouds"}]},
    {"name": "cma-es", "population": 6},
    {"name": "cma-es", "population": 6, "weights": True, "sigma": 0.1, "archive": 4},
    {"name": "sweep", "grid": 20},
    {"name": "random"},
]


def guarded_run(directory: Path, **changes: Any) -> Path:
    """A run that competes for one set of clouds and must not lose another."""
    directory.mkdir(parents=True, exist_ok=True)
    write_data(directory / "others.npz", seed=1)
    return write_run(directory, **{"tasks": [CLOUDS, GUARD], "seeds": SEEDS, **changes})


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda value: str(value)[:40])
def test_a_guarded_run_in_pieces_is_the_run_in_one(
    tmp_path: Path, strategy: dict[str, Any], width: int
) -> None:
    changes: dict[str, Any] = {"strategy": strategy, "in_flight": width}
    evolve(guarded_run(tmp_path / "one", **changes))
    file = guarded_run(tmp_path / "many", **changes)
    for budget in (1, 5, 20, 47, 60):
        evolve(file, budget=budget)
    one, many = contents(tmp_path / "one/pool"), contents(tmp_path / "many/pool")
    assert one[:-2] == many[:-2]
    assert one[-1] == many[-1]
    assert any(row["verdict"] == "guarded" for row in one[:-2])
    assert any(row["verdict"] == "accepted" for row in one[:-2] if row["step"])


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [0.0, 0.03, 0.1])
def test_nothing_below_the_bound_is_admitted(tmp_path: Path, tolerance: float) -> None:
    """Every member ever bred is asked again, by hand."""
    file = guarded_run(tmp_path, tasks=[{**GUARD, "tolerance": tolerance}, CLOUDS], budget=100)
    status = evolve(file).status
    plain = open_inputs(load_run(guarded_run(tmp_path / "plain", tasks=[OTHERS])))
    scorer = Scorer(plain)

    def mean(pool: Pool, member: int) -> float:
        scorer.load(pool.genome(member))
        scores = scorer.score(np.arange(plain.examples.size, dtype=np.int64))
        return float(scores.mean(dtype=np.float64))

    with Pool(tmp_path / "pool") as pool:
        means, kept = {m.id: mean(pool, m.id) for m in pool.records()}, pool.guard_means()
        bound = max(means[k] for k in range(3)) - tolerance
        records = list(pool.records())
    for record in records:
        if record.verdict in ("accepted", "guarded") or not record.step:
            assert kept[record.id] == (means[record.id],)
        else:
            # Nobody who would be rejected anyway was asked.
            assert record.id not in kept
        if record.step and record.verdict == "accepted":
            assert means[record.id] >= bound - 1e-9
        if record.verdict == "guarded":
            assert means[record.id] < bound
            assert (record.slot, record.evicted, record.asked) == (None, None, 120)
            assert record.error == (
                f"guard 'others': scores {means[record.id]:.4f}, and at least {bound:.4f} is "
                f"needed (best seed '{best_seed(means)}' {bound + tolerance:.4f}, tolerance "
                f"{tolerance:g})"
            )
    guarded = sum(record.verdict == "guarded" for record in records)
    assert guarded == status["guarded"] == status["guards"][0]["broken"] > 0
    assert status["guards"][0]["champion"] == means[status["champion"]["member"]]
    assert {record.verdict for record in records if not record.step} <= {"accepted", "rejected"}


def best_seed(means: dict[int, float]) -> str:
    return f"seed{1 + max(range(3), key=lambda k: means[k])}"


def test_a_seed_below_the_bound_competes(tmp_path: Path) -> None:
    evolve(guarded_run(tmp_path, tasks=[CLOUDS, {**GUARD, "tolerance": 0}], budget=0))
    with Pool(tmp_path / "pool") as pool:
        means = [pool.guard_means()[k][0] or 0.0 for k in range(3)]
        assert min(means) < max(means)
        assert sorted(pool.slots().values()) == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 4])
def test_worker_processes_give_the_same_guarded_run(tmp_path: Path, width: int) -> None:
    changes: dict[str, Any] = {"in_flight": width, "budget": 30}
    evolve(guarded_run(tmp_path / "serial", **changes))
    evolve(guarded_run(tmp_path / "process", **changes, executor="process", workers=2))
    assert contents(tmp_path / "serial/pool") == contents(tmp_path / "process/pool")


def test_a_wide_tolerance_changes_nothing(tmp_path: Path) -> None:
    evolve(guarded_run(tmp_path / "with", tasks=[CLOUDS, {**GUARD, "tolerance": 1.0}]))
    evolve(guarded_run(tmp_path / "without", tasks=[CLOUDS]))
    guarded, plain = contents(tmp_path / "with/pool"), contents(tmp_path / "without/pool")
    assert guarded[:-1] == plain[:-1]
    assert guarded[-1]["slots"] == plain[-1]["slots"]


def test_stopping_early_admits_the_same_guarded_children(tmp_path: Path) -> None:
    evolve(guarded_run(tmp_path / "with"))
    evolve(guarded_run(tmp_path / "without", early_stop=False))
    short, full = contents(tmp_path / "with/pool"), contents(tmp_path / "without/pool")
    assert short[-1] == full[-1]
    for mine, other in zip(short[:-2], full[:-2], strict=True):
        if mine["verdict"] in ("accepted", "guarded"):
            assert mine == other


_NUMBERS = count()

# A guard that writes down when it is asked, and may refuse.
_NOTED = """
from pathlib import Path
LOG = Path({log!r})
examples = [float(n) for n in range(20)]
def score(model, chosen):
    bias = float(model["hidden.bias"].sum())
    with LOG.open("a") as log:
        log.write(f"{{bias}}\\n")
    {more}
    return [min(1.0, abs(bias) / (1 + n)) for n in chosen]
"""


def noted(directory: Path, more: str = "pass", **changes: Any) -> tuple[Path, Path]:
    """A run with a function as a guard, and the file in which it notes its calls."""
    log = directory / "log"
    # Python keeps a module that it has loaded, so that each needs a name of its own.
    module = f"noted_{next(_NUMBERS)}"
    function = f"{module}:score"
    guard = {"name": "noted", "evaluator": "function", "function": function, "guard": True}
    file = guarded_run(directory, tasks=[CLOUDS, guard], **changes)
    (directory / f"{module}.py").write_text(_NOTED.format(log=str(log), more=more))
    return file, log


def test_guards_are_asked_once_of_seeds_and_of_children_that_would_enter(tmp_path: Path) -> None:
    file, log = noted(tmp_path)
    for budget in (0, 10, 40):
        evolve(file, budget=budget)
    calls = log.read_text().splitlines()
    with Pool(tmp_path / "pool") as pool:
        verdicts = [record.verdict for record in pool.records() if record.step]
    assert len(calls) == 3 + 3 + verdicts.count("accepted") + verdicts.count("guarded")
    assert len(set(calls[:3])) == 3
    # The first seed for a sample of its scores: when all are known, and whenever the run goes on.
    assert calls[3:].count(calls[0]) == 3
    assert not set(calls[3:]) & set(calls[1:3])


@pytest.mark.slow
@pytest.mark.parametrize("weights", [False, True])
def test_a_strategy_learns_from_no_child_that_breaks_a_guard(tmp_path: Path, weights: bool) -> None:
    """CMA-ES learns from rejected children too, so they are asked as well."""
    strategy = {"name": "cma-es", "population": 6, "weights": weights, "archive": 3}
    evolve(guarded_run(tmp_path, strategy=strategy, budget=90))
    with Pool(tmp_path / "pool") as pool:
        kept, records = pool.guard_means(), list(pool.records(3))
        bound = max(kept[k][0] or 0.0 for k in range(3)) - 0.01
    assert {record.id for record in records} <= set(kept)
    for record in records:
        assert (record.verdict == "guarded") == ((kept[record.id][0] or 0.0) < bound)
    # Some break it whom the archive would not have taken in any case.
    worst = min(record.train or 0.0 for record in records if record.verdict == "accepted")
    assert any(r.verdict == "guarded" and (r.train or 0.0) < worst for r in records)


def test_a_child_that_a_guard_cannot_score_has_failed(tmp_path: Path) -> None:
    more = "if LOG.read_text().count(chr(10)) in (5, 7): raise ValueError()"
    file, _ = noted(tmp_path, more)
    evolve(file)
    with Pool(tmp_path / "pool") as pool:
        failed = [record for record in pool.records() if record.verdict == "failed"]
        status = pool.status()
        assert len(failed) == status["failed"] == 2
        # All that they compete for was asked of them.
        assert status["examples_total"] == status["evaluations"] * pool.header.examples.size
        for record in failed:
            assert "guard 'noted'" in (record.error or "")
            assert record.slot is None
            assert record.id not in pool.guard_means()


def test_a_seed_that_a_guard_cannot_score_ends_the_run(tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    file, _ = noted(tmp_path, f"open({str(mended)!r}).close()")
    with pytest.raises(EvaluationError, match=r"seed 'seed1' .*guard 'noted'.*mended"):
        evolve(file)
    mended.touch()
    assert evolve(file).session == 60


def test_two_guards_are_asked_in_turn(tmp_path: Path) -> None:
    guards = [GUARD, {**CLOUDS, "name": "again", "guard": True, "tolerance": 0.05}]
    evolve(guarded_run(tmp_path, tasks=[*guards, CLOUDS], strategy={"name": "ga", "archive": 20}))
    with Pool(tmp_path / "pool") as pool:
        broken = {1: 0, 2: 0}
        for record in pool.records():
            means = pool.guard_means().get(record.id)
            if record.verdict == "guarded":
                assert means is not None and record.error is not None
                first = means[1] is None
                assert ("'others'" in record.error) == first
                broken[1 if first else 2] += 1
            elif record.verdict == "accepted":
                assert means is not None
                # The second guard is the very task that is competed for.
                assert means[1] == pytest.approx(record.train, abs=1e-6)
        standing = pool.status()["guards"]
    assert [entry["broken"] for entry in standing] == [broken[1], broken[2]]
    assert broken[1] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tasks", "named"),
    [
        ([CLOUDS, {**GUARD, "tolerance": 0.02}], "tolerance 0.01 of guard 'others' (now 0.02)"),
        ([CLOUDS, {**GUARD, "data": "data.npz"}], "settings of guard 'others'"),
        ([CLOUDS], "the guards: others; and the run file has: none"),
        ([CLOUDS, GUARD, {**GUARD, "name": "more"}], "the run file has: others, more"),
        ([CLOUDS, OTHERS], "tasks clouds"),
    ],
)
def test_a_pool_with_other_guards_is_refused(
    tmp_path: Path, tasks: list[dict[str, Any]], named: str
) -> None:
    evolve(guarded_run(tmp_path, budget=5))
    before = contents(tmp_path / "pool")
    with pytest.raises(PoolError) as caught:
        evolve(guarded_run(tmp_path, budget=9, tasks=tasks))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path / "pool") == before


def test_a_guard_cannot_be_added_to_a_pool(tmp_path: Path) -> None:
    evolve(guarded_run(tmp_path, budget=5, tasks=[CLOUDS]))
    with pytest.raises(PoolError, match="the guards: none; and the run file has: others"):
        evolve(guarded_run(tmp_path, budget=9))


def test_the_card_shows_guards(tmp_path: Path) -> None:
    evolve(guarded_run(tmp_path))
    with Pool(tmp_path / "pool") as pool:
        (guard,) = pool.status()["guards"]
        export(pool, "best", tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    row = f"| others | {guard['best_seed']['name']} | {guard['best_seed']['score']:.4f} | "
    assert f"{row}{guard['bound']:.4f} | {guard['champion']:.4f} |" in card
