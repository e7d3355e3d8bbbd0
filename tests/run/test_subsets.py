"""Runs whose members compete for a part of the examples at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genepool.core import competition as niches
from genepool.errors import ConfigError, EvaluationError
from genepool.messages import percent
from genepool.pool.history import history
from genepool.pool.reader import Pool
from genepool.pool.score_matrix import score_matrix
from genepool.run.evolve import evolve
from genepool.run.progress import Silence, StepReport
from genepool.study.compare import read_curve
from genepool.tasks.classifier.evaluator import Classifier
from genepool.tasks.task import evaluator
from genepool.ui.report.report import write_report
from tests.cli import run_cli
from tests.runs import contents, write_data, write_run

CLOUDS = {"name": "clouds", "evaluator": "classifier", "data": "data.npz"}
ROUNDS = {"name": "m2n2", "archive": 6, "share": 0.25, "renew": 20}


def _whole(pool: Path) -> list[Any]:
    with Pool(pool) as opened:
        rounds = [examples.tolist() for examples in opened.subset_examples()]
        again = [opened.finalists(), opened.departed(), opened.reevaluated()]
        status = {**opened.status(), "pool": None}
    return [contents(pool), rounds, again, status]


class Stop(Silence):
    """Ctrl-C after a number of children."""

    def __init__(self, after: int) -> None:
        self.after = after

    def step(self, report: Any) -> None:
        if report.evaluations == self.after:
            raise KeyboardInterrupt


class Asked(Silence):
    """What is told of the examples of each child, and of the seconds that one takes."""

    def __init__(self) -> None:
        self.children: list[list[int]] = []
        self.begun: list[float] = []

    def stage(self, text: str) -> None:
        self.children.append([])

    def begin(self, children: int, seconds: float, abreast: int) -> None:
        self.begun.append(seconds)
        self.children = [[]]

    def asked(self, examples: int, of: int) -> None:
        self.children[-1].append(examples)

    def step(self, report: Any) -> None:
        self.children.append([])


def _in_pieces(file: Path, *stops: int) -> None:
    for after in stops:
        with pytest.raises(KeyboardInterrupt):
            evolve(file, progress=Stop(after))
    evolve(file)


def _run(tmp_path: Path, name: str = "a", **changes: Any) -> Path:
    file = write_run(tmp_path / name, **{"strategy": ROUNDS, "budget": 90, **changes})
    evolve(file)
    return tmp_path / name / "pool"


def test_children_are_asked_the_examples_of_their_round_only(tmp_path: Path) -> None:
    with Pool(_run(tmp_path)) as pool:
        rounds = pool.subset_examples()
        assert len(rounds) == 5
        assert len({tuple(examples.tolist()) for examples in rounds}) == 5
        assert {examples.size for examples in rounds} == {round(0.25 * pool.examples.size)}
        later = pool._reevaluations()
        for record in pool.records(2):
            if record.scores is None or record.id in later:
                continue
            asked = np.flatnonzero(~np.isnan(record.scores))
            assert np.isin(asked, rounds[(record.step - 1) // 20]).all()
            if record.verdict in ("accepted", "rejected"):
                assert asked.size == rounds[0].size


def test_like_is_compared_with_like(tmp_path: Path) -> None:
    """Replayed from the answers alone: everybody's scores on the examples of the child's round."""
    changes: dict[str, Any] = {"early_stop": False}
    with Pool(_run(tmp_path, **changes)) as pool:
        rounds = pool.subset_examples()
        everything = {record.id: record for record in pool.records()}
        slots: dict[int, int] = {}
        for record in everything.values():
            examples = rounds[max(0, record.step - 1) // 20]
            matrix = np.zeros((6, examples.size))
            for slot, member in slots.items():
                known = everything[member].scores
                assert known is not None
                assert not np.isnan(known[examples]).any()
                matrix[slot] = known[examples]
            assert record.scores is not None
            slot = niches.survivor(matrix, record.scores[examples])
            if slot is not None and len(slots) < 6:
                slot = min(set(range(6)) - set(slots))
            assert slot == record.slot
            if slot is not None:
                slots[slot] = record.id
        assert slots == pool.slots()


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"in_flight": 3},
        {"strategy": {**ROUNDS, "name": "ga"}},
        {"strategy": {**ROUNDS, "mutation": 0.05}},
        {"strategy": {**ROUNDS, "risk": 0.2}},
        {"tasks": [CLOUDS, {**CLOUDS, "name": "kept", "guard": True, "held_out": 0.6}]},
    ],
)
def test_a_run_in_pieces_is_the_run_in_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    whole = _run(tmp_path, "whole", **changes)
    file = write_run(tmp_path / "pieces", **{"strategy": ROUNDS, "budget": 90, **changes})

    _in_pieces(file, 7, 20, 39, 60, 61)
    with Pool(whole) as pool:
        assert (pool.status()["guarded"] > 0) == ("tasks" in changes)
    assert _whole(tmp_path / "pieces" / "pool") == _whole(whole)


@pytest.mark.slow
def test_interrupted_while_the_archive_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _run(tmp_path, "whole")
    file = write_run(tmp_path / "pieces", strategy=ROUNDS, budget=90)
    from genepool.pool.writer import PoolWriter

    add = PoolWriter.add_reevaluation
    for survives in (0, 2, 3, 1, 4, 2, 1, 3):
        left = [survives]

        def dies(pool: Any, answers: Any, left: list[int] = left) -> None:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            add(pool, answers)

        monkeypatch.setattr(PoolWriter, "add_reevaluation", dies)
        with pytest.raises(KeyboardInterrupt):
            evolve(file)
    monkeypatch.setattr(PoolWriter, "add_reevaluation", add)
    evolve(file)
    assert _whole(tmp_path / "pieces" / "pool") == _whole(whole)


@pytest.mark.slow
def test_worker_processes_give_the_same_run(tmp_path: Path) -> None:
    here = _run(tmp_path, "here", in_flight=2)
    there = _run(tmp_path, "there", in_flight=2, executor="process", workers=2)
    assert _whole(here) == _whole(there)


def test_stopping_early_changes_nothing_but_what_is_asked(tmp_path: Path) -> None:
    with Pool(_run(tmp_path, "a")) as one, Pool(_run(tmp_path, "b", early_stop=False)) as two:
        assert one.slots() == two.slots()
        assert one.champion() == two.champion()
        assert one.finalists() == two.finalists()
        assert one.status()["examples_evaluated"] < two.status()["examples_evaluated"]


def test_the_champion_is_the_best_of_what_is_known_on_all_examples(tmp_path: Path) -> None:
    with Pool(_run(tmp_path)) as pool:
        finalists = pool.finalists()
        assert len(finalists) == 5
        known = [pool.record(member) for member in (0, 1, *finalists)]
        assert all(row.scores is not None and not np.isnan(row.scores).any() for row in known)
        best = max(known, key=lambda row: (row.train or 0.0, -row.id))
        assert pool.champion() == best.id
        assert best.scores is not None
        assert best.train == pytest.approx(best.scores.mean())
        status = pool.status()
        assert status["champion"]["train"] == best.train
        assert status["rounds"]["number"] == 4
        # What is counted is what was asked: children, archives asked again, and finalists.
        cost = sum(record.asked for record in pool.records(2)) + sum(pool.reevaluated().values())
        assert status["examples_evaluated"] == cost < status["examples_total"]
        held = pool.held_out()
        assert set(held) == {0, 1, best.id}


@pytest.mark.parametrize(("share", "renew", "seed"), [(0.6, 4, 6), (0.6, 4, 3), (0.9, 1, 0)])
def test_who_is_known_on_all_examples_before_the_end_can_be_champion(
    tmp_path: Path, share: float, renew: int, seed: int
) -> None:
    file = write_run(
        tmp_path,
        tasks=[{**CLOUDS, "data": "few.npz", "held_out": 0}],
        strategy={"name": "m2n2", "archive": 6, "share": share, "renew": renew},
        budget=40,
        seed=seed,
    )
    write_data(tmp_path / "few.npz", 20)
    for budget in (40, 43):
        evolve(file, budget=budget)
        with Pool(tmp_path / "pool") as pool:
            alive = pool.chosen(pool.slots().values())
            known = {
                number: float(record.scores.mean())
                for number, record in (alive | pool.chosen((0, 1))).items()
                if record.scores is not None and not np.isnan(record.scores).any()
            }
            best = min(known, key=lambda number: (-known[number], number))
            assert set(known) - {0, 1} <= set(pool.finalists())
            if budget == 40:
                assert pool.champion() == best
                assert history(pool).train[-1] == pytest.approx(known[best])


@pytest.mark.parametrize("seed", range(4))
def test_the_best_of_seeds_alone_is_the_best_on_all_examples(tmp_path: Path, seed: int) -> None:
    """No child is in the archive, and nobody is asked anything in the end."""
    file = write_run(
        tmp_path,
        seeds=[f"seed{number}.safetensors" for number in (3, 1, 2)],
        tasks=[{**CLOUDS, "data": "few.npz", "held_out": 0}],
        strategy={"name": "m2n2", "archive": 3, "share": 0.3, "renew": 3},
        budget=0,
        seed=seed,
    )
    write_data(tmp_path / "few.npz", 11, seed=1)
    evolve(file)
    with Pool(tmp_path / "pool") as pool:
        means = [record.scores.mean() for record in pool.records() if record.scores is not None]
        assert means == pytest.approx([2 / 11, 3 / 11, 1 / 11])
        assert pool.champion() == 1
        assert history(pool).train.tolist() == pytest.approx([3 / 11])


def test_what_is_shown_of_it(tmp_path: Path) -> None:
    with Pool(_run(tmp_path)) as pool:
        past = history(pool, last=90)
        champion = pool.champion()
        assert champion is not None
        assert past.train[-1] == pool.record(champion).train
        assert not np.isnan(past.coverage).any()
        assert not np.isnan(past.entropy).any()
        seen = score_matrix(pool)
        assert seen.archive.shape == (6, pool.subset_examples()[-1].size)
        assert not np.isnan(seen.archive).any()
        curve = read_curve(pool, "m2n2", 3, 90)
        assert curve.examples_evaluated[-1] == pool.status()["examples_evaluated"]
        assert curve.champion_train[-1] == pool.record(champion).train


@pytest.mark.slow
def test_a_larger_budget_goes_on(tmp_path: Path) -> None:
    pool = _run(tmp_path)
    whole = _run(tmp_path, "whole", budget=130)
    evolve(tmp_path / "a" / "run.yaml", budget=130)
    with Pool(pool) as one, Pool(whole) as two:
        assert one.slots() == two.slots()
        assert set(two.finalists()) <= set(one.finalists())


@pytest.mark.slow
def test_a_run_that_goes_on_follows_the_leader_of_its_round(tmp_path: Path) -> None:
    """Not the champion of its first end, whose score is on other examples."""
    changes: dict[str, Any] = {
        "tasks": [{**CLOUDS, "held_out": 0.4}],
        "strategy": {**ROUNDS, "mutation": 0.1},
        "track_held_out": True,
        "seed": 1,
    }
    whole = _run(tmp_path, "whole", **changes, budget=100)
    pieces = _run(tmp_path, **changes, budget=45)
    for budget in (67, 100):
        evolve(tmp_path / "a" / "run.yaml", budget=budget)
    with Pool(whole) as one, Pool(pieces) as two:
        # Whom an end measured may not have led at any time.
        ends = {one.champion(), *two.finalists()}
        tracked = [
            {member: mean for member, mean in pool.held_out().items() if member not in ends}
            for pool in (one, two)
        ]
        assert len(tracked[0]) > 5
        assert tracked[0] == tracked[1]


def test_several_tasks_keep_their_weight_in_every_round(tmp_path: Path) -> None:
    small = {"name": "small", "evaluator": "classifier", "data": "data.npz", "held_out": 0.7}
    large = {"name": "large", "evaluator": "classifier", "data": "data.npz", "weight": 3.0}
    with Pool(_run(tmp_path, tasks=[small, large])) as pool:
        edges = np.cumsum([0, *(task.examples for task in pool.tasks())])
        for examples in pool.subset_examples():
            sizes = np.diff(examples.searchsorted(edges))
            assert sizes.tolist() == [round(0.25 * t.examples) for t in pool.tasks()]
            scores = np.zeros(pool.examples.size, dtype=np.float32)
            scores[: edges[1]] = 1.0
            assert pool.examples.select(examples).mean(scores[examples]) == pytest.approx(0.25)


def test_a_task_that_is_soon_known_weighs_no_more(tmp_path: Path) -> None:
    """Of few examples all are known after some subsets, of many a part."""
    file = write_run(
        tmp_path,
        tasks=[
            {**CLOUDS, "held_out": 0},
            {**CLOUDS, "name": "few", "data": "few.npz", "held_out": 0},
        ],
        strategy={"name": "m2n2", "archive": 8, "share": 0.2, "renew": 10},
        budget=30,
        seed=9,
    )
    write_data(tmp_path / "few.npz", 6)
    evolve(file)
    with Pool(tmp_path / "pool") as pool:
        alive = pool.chosen(pool.slots().values(), finals=False)
        means = {
            number: np.mean([np.nanmean(record.scores[:150]), np.nanmean(record.scores[150:])])
            for number, record in alive.items()
            if record.scores is not None
        }
        assert {number: record.train for number, record in alive.items()} == pytest.approx(means)
        best = sorted(means, key=lambda number: (-round(float(means[number]), 9), number))
        assert pool.finalists() == sorted(best[:5])


@pytest.mark.parametrize("strategy", [{"share": 0.2, "renew": 10}, {}])
def test_progress_tells_scores_by_task_of_which_the_best_is_the_mean(
    tmp_path: Path, strategy: dict[str, Any]
) -> None:
    """After a renewal those of all that was ever asked were told beside a score on the subset."""
    told: list[tuple[float, float]] = []

    class Watch(Silence):
        def step(self, report: StepReport) -> None:
            told.append((report.champion, float(np.mean([score for _, score in report.tasks]))))

    file = write_run(
        tmp_path,
        tasks=[CLOUDS, {**CLOUDS, "name": "few", "data": "few.npz", "held_out": 0.5}],
        strategy={"name": "m2n2", "archive": 8, **strategy},
        seed=5,
    )
    write_data(tmp_path / "few.npz", 6)
    for budget in (13, 40):
        evolve(file, budget=budget, progress=Watch())
    assert len(told) == 40
    assert [best for best, _ in told] == pytest.approx([mean for _, mean in told])


@pytest.mark.slow
def test_who_fails_on_other_examples_leaves_the_archive(tmp_path: Path) -> None:
    @evaluator("brittle")
    class Brittle(Classifier):
        """Fails for good on one example, for models that are right on another."""

        def score(self, model: Any, indices: Any, *, held_out: bool) -> Any:
            scores = super().score(model, indices, held_out=held_out)
            both = super().score(model, np.array([3, 4]), held_out=False)
            if (
                not held_out
                and 5 in indices.tolist()
                and len(indices) < 100
                and both[0]
                and both[1]
            ):
                raise EvaluationError("brittle on 5")
            return scores

    tasks = [{"name": "t", "evaluator": "brittle", "data": "data.npz"}]
    changes = {"tasks": tasks, "early_stop": False, "budget": 200}
    with Pool(_run(tmp_path, **changes)) as pool:
        left = pool.departed()
        assert left
        assert not set(left) & set(pool.slots().values())
        assert pool.status()["archive"]
        history(pool)
    whole = _whole(tmp_path / "a" / "pool")
    file = write_run(tmp_path / "b", strategy=ROUNDS, **changes)
    _in_pieces(file, 30, 100, 141)
    assert _whole(tmp_path / "b" / "pool") == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, "share"),
        ({"share": 1.5}, "share"),
        ({"renew": 0}, "renew"),
        ({"share": 0.5, "renew": 2}, "as many children as are in flight"),
        ({"name": "map-elites", "measures": [{"task": "clouds"}], "share": 0.5}, "unknown key"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    file = write_run(tmp_path, strategy={"name": "m2n2", **options}, in_flight=3)
    with pytest.raises(ConfigError, match=message):
        evolve(file)


@pytest.mark.slow
def test_pictures_of_a_run_that_goes_on_say_on_what_its_best_is_best(tmp_path: Path) -> None:
    """On a subset; the champion's score is over all that it was asked."""
    from genepool.ui import figures

    file = write_run(tmp_path, strategy=ROUNDS, budget=90)
    with pytest.raises(KeyboardInterrupt):
        evolve(file, progress=Stop(61))
    with Pool(tmp_path / "pool") as pool:
        past, champion = history(pool), pool.status()["champion"]
        assert past.train[-1] != champion["train"]
        assert f"champion {percent(champion['train'])} on selection" in figures._title(pool, past)
        write_report(pool, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert f"; at the end the champion, on all <b>{percent(float(past.train[-1]))}</b>" in page


def test_commands_tell_of_it(tmp_path: Path) -> None:
    pool = _run(tmp_path)
    code, said, _ = run_cli(["status", str(pool)])
    assert code == 0
    assert "5, for 30 examples; others every 20 children" in said
    assert "5, scored on all examples" in said
    with Pool(pool) as opened:
        (stranger,) = set(opened.slots().values()) - set(opened.finalists())
    code, said, _ = run_cli(["show", str(pool), str(stranger)])
    assert code == 0
    assert "in place of member" in said or "accepted into slot" in said
    code, said, _ = run_cli(["show", str(pool), str(stranger), "--json"])
    (task,) = json.loads(said)["tasks"]
    assert 30 <= task["asked"] < task["examples"]
    assert task["mean"] is not None
    assert run_cli(["report", str(pool), "-o", str(tmp_path / "page.html")])[0] == 0
    page = (tmp_path / "page.html").read_text()
    assert "one of the 30 selection examples" in page
    assert "finalists, scored on all examples" in page
    assert "NaN" not in page
    for member, known in (("best", True), (str(stranger), False)):
        made = tmp_path / member
        assert run_cli(["export", str(pool), member, "-o", str(made)])[0] == 0
        # What it scored on some of the examples is not its selection score.
        assert (json.loads((made / "genepool.json").read_text())["train"] is not None) == known
        assert "can be means of different examples" in (made / "README.md").read_text()


@pytest.mark.parametrize("strategy", [{**ROUNDS, "renew": 60}, {"name": "m2n2", "archive": 6}])
def test_progress_goes_on_where_a_child_is_asked_more(
    tmp_path: Path, strategy: dict[str, Any]
) -> None:
    """It began at 0 again; and a child was foretold the time of all examples, not of its subset."""
    # Two tasks, since one classifier alone is asked in compiled code.
    tasks = [CLOUDS, {**CLOUDS, "name": "again"}]
    seen = Asked()
    evolve(write_run(tmp_path, strategy=strategy, tasks=tasks, in_flight=6), progress=seen)
    with Pool(tmp_path / "pool") as pool:
        took = min(record.seconds for record in pool.records(last=1))
        total = pool.header.examples.size
        records = list(pool.records(2))
        share = pool.subset_examples()[0].size / total if "share" in strategy else 1.0
    assert seen.begun == [took * share]
    told = seen.children[: len(records)]
    assert all(one == sorted(one) for one in told)
    assert [one[-1] for one in told] == [record.asked for record in records]
