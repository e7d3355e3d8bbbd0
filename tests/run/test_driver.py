"""The loop: what a run leaves in its pool, and that nothing but its configuration decides it."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from genepool.core.archive import Verdict
from genepool.core.genome import Recipe, digest
from genepool.errors import ConfigError, EvaluationError, PoolError
from genepool.pool.reader import Pool
from genepool.pool.writer import PoolWriter
from genepool.run.evolve import evolve
from genepool.run.inputs import open_inputs
from genepool.run.pins import require_same_tasks
from genepool.run.progress import SeedReport, Silence, StepReport
from genepool.run.run_file import load_run
from tests.quick import quick
from tests.runs import contents, seed_file, write_run

# Python keeps a module that it has loaded, so that each needs a name of its own.
_NUMBERS = itertools.count()

VARIANTS: list[dict[str, Any]] = [
    {},
    {"in_flight": 4},
    {"strategy": {"name": "m2n2", "archive": 6, "mutation": 0.05}},
    {"strategy": {"name": "m2n2", "archive": 6, "mutation": 0.05}, "in_flight": 3},
    {"strategy": {"name": "ga", "archive": 5}},
    {"strategy": {"name": "m2n2", "archive": 5, "alpha": 0.5, "angle": "side", "warmup": 5}},
    {"strategy": {"name": "m2n2", "archive": 5, "attraction": False, "angle": "tensor"}},
    {"strategy": {"name": "m2n2", "archive": 5, "baseline": "worst"}},
    {"seeds": ["seed1.safetensors", "seed2.safetensors", "seed3.safetensors"]},
    {"chromosomes": {"weights": ["*.weight"]}},
    {"track_held_out": True},
]


@pytest.mark.parametrize("changes", quick(VARIANTS, (1, 5)), ids=lambda value: str(value)[:60])
def test_stopping_early_changes_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    evolve(write_run(tmp_path / "with", **changes, early_stop=True))
    evolve(write_run(tmp_path / "without", **changes, early_stop=False))
    short, full = contents(tmp_path / "with/pool"), contents(tmp_path / "without/pool")
    assert short[-2:] == full[-2:]
    saved = 0
    for mine, other in zip(short[:-2], full[:-2], strict=True):
        if mine["verdict"] == "stopped":
            assert other["verdict"] == "rejected"
            known = np.frombuffer(mine["scores"], dtype=np.float32)
            asked = ~np.isnan(known)
            complete = np.frombuffer(other["scores"], dtype=np.float32)
            assert np.array_equal(known[asked], complete[asked])
            saved += int((~asked).sum())
            for name in ("verdict", "scores", "asked", "train", "fitness"):
                mine[name] = other[name] = None
        assert mine == other
    assert saved > 0


@pytest.mark.parametrize("changes", quick(VARIANTS, (6, 9)), ids=lambda value: str(value)[:60])
def test_a_run_in_pieces_is_the_run_in_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    evolve(write_run(tmp_path / "one", **changes))
    file = write_run(tmp_path / "many", **changes)
    for budget in (1, 2, 7, 23, 41, 60):
        evolve(file, budget=budget)
    one, many = contents(tmp_path / "one/pool"), contents(tmp_path / "many/pool")
    # Stopping on the way scores the champion of that moment on the held-out examples as well.
    known = many[-2]["held_out"]
    assert one[-2]["held_out"] == {k: v for k, v in known.items() if k in one[-2]["held_out"]}
    assert one[:-2] == many[:-2]
    assert one[-1] == many[-1]


_SERVED = """
from pathlib import Path
DOWN = Path({down!r})
examples = list(range(20))
def score(model, chosen):
    bias = abs(float(model["hidden.bias"].sum()))
    if DOWN.exists() or int(bias * 1e5) % 3 == {odd}:
        raise ConnectionError("nobody answers")
    return [min(1.0, bias / (1 + n)) for n in chosen]
"""


def _served(directory: Path, odd: int, **changes: Any) -> tuple[dict[str, Any], Path]:
    """What a run with an evaluator of its own needs, and the file that takes this down.

    Of three models it fails about one, unless `odd` is more than 2.
    """
    module = f"served_{next(_NUMBERS)}"
    script = _SERVED.format(down=str(directory / "down"), odd=odd)
    (directory / f"{module}.py").write_text(script)
    task = {"name": "served", "evaluator": "function", "function": f"{module}:score"}
    return {"tasks": [task], **changes}, directory / "down"


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 3])
def test_an_evaluator_that_is_down_costs_no_children(tmp_path: Path, width: int) -> None:
    changes, down = _served(tmp_path, 3, in_flight=width, budget=40)
    evolve(write_run(tmp_path, **changes, pool="whole"))
    file = write_run(tmp_path, **changes)

    class End(Silence):
        def step(self, report: StepReport) -> None:
            if report.evaluations == 7:
                down.touch()

    for said in (
        r"all failed.*'seed1' fails too .*nobody.*anew",
        r"seed 'seed\d', whose scores are in the pool, cannot be scored now: .*nobody",
    ):
        with pytest.raises(EvaluationError, match=said):
            evolve(file, progress=End())
        with Pool(tmp_path / "pool") as pool:
            assert (pool.evaluations, pool.status()["failed"]) == (7, 0)
    down.unlink()
    evolve(file)
    assert contents(tmp_path / "pool") == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"budget": 20},
        {"budget": 8},
        {"budget": 40, "strategy": {"name": "m2n2", "archive": 6, "share": 0.4, "renew": 10}},
        {"budget": 40, "strategy": {"name": "ga", "archive": 6, "share": 0.4, "renew": 7}},
    ],
)
def test_an_evaluator_that_is_down_at_an_end_costs_no_children(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Few failures at the end of a run, or of a subset, were taken for the children's own."""
    given, down = _served(tmp_path, 3, **changes)
    evolve(write_run(tmp_path, **given, pool="whole"))
    file = write_run(tmp_path, **given)

    class End(Silence):
        def step(self, report: StepReport) -> None:
            if report.evaluations == 7:
                down.touch()

    with pytest.raises(EvaluationError, match=r"failed.* and now seed 'seed1' fails too .*anew"):
        evolve(file, progress=End())
    with Pool(tmp_path / "pool") as pool:
        assert (pool.evaluations, pool.status()["failed"], pool.departed()) == (7, 0, {})
    down.unlink()
    evolve(file)
    assert contents(tmp_path / "pool") == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("calls", [2, 4])
def test_an_evaluator_that_is_down_costs_no_members(tmp_path: Path, calls: int) -> None:
    """While the archive, or the finalists, are asked other examples; they left it for good."""
    rounds = {"name": "m2n2", "archive": 6, "share": 0.4, "renew": 10}
    given, down = _served(tmp_path, 3, budget=20, strategy=rounds)
    evolve(write_run(tmp_path, **given, pool="whole"))
    file = write_run(tmp_path, **given)

    class End(Silence):
        stages = 0

        def stage(self, text: str) -> None:
            self.stages += "scoring the archive" in text or "finalists" in text
            if self.stages == calls // 2:
                down.touch()

    with pytest.raises(EvaluationError, match=r"failed|cannot be scored"):
        evolve(file, progress=End())
    with Pool(tmp_path / "pool") as pool:
        assert (pool.departed(), pool.finalists()) == ({}, [])
    down.unlink()
    evolve(file)
    assert contents(tmp_path / "pool") == contents(tmp_path / "whole")


_ON_HELD_OUT = """
from pathlib import Path
examples, held = list(range(20)), list(range(20, 30))
def score(model, chosen):
    bias = abs(float(model["hidden.bias"].sum()))
    if chosen[0] >= 20 and {condition}:
        raise ValueError("not to be judged")
    return [min(1.0, bias / (1 + n)) for n in chosen]
"""


@pytest.mark.parametrize("track", [True, False])
def test_a_champion_that_fails_on_held_out_examples(tmp_path: Path, track: bool) -> None:
    """The run could never go on: it came to the same child each time."""
    name = f"held_{next(_NUMBERS)}"
    whose = "not any(abs(bias - seed) < 1e-6 for seed in SEEDS)"
    task = {"name": "held", "evaluator": "function", "function": f"{name}:score"}
    task["held_out_examples"] = f"{name}:held"
    # So that children lead: neither seed is the best.
    file = write_run(tmp_path, tasks=[task], budget=40, track_held_out=track)
    seeds = [
        abs(float(load_file(seed_file(tmp_path, number))["hidden.bias"].sum())) for number in (1, 2)
    ]
    (tmp_path / f"{name}.py").write_text(
        _ON_HELD_OUT.format(condition=whose) + f"SEEDS = {seeds}\n"
    )
    told: list[str] = []

    class Listener(Silence):
        def notice(self, text: str) -> None:
            told.append(text)

    evolve(file, progress=Listener())
    with Pool(tmp_path / "pool") as pool:
        champion = pool.champion()
        assert pool.evaluations == pool.meta()["finished"] == 40
        assert champion is not None and champion > 1
        assert pool.held_out().keys() == {0, 1}
    said = f"member {champion} cannot be scored on the held-out examples: .*not to be judged"
    assert any(re.match(said, text) for text in told)


@pytest.mark.slow
def test_a_best_seed_that_finds_no_place_is_told(tmp_path: Path) -> None:
    """It is the least fit where others solve its examples too; then the champion is a worse one."""
    name = f"crowded_{next(_NUMBERS)}"
    seeds = [f"seed{number}.safetensors" for number in (1, 2, 3)]
    task = {"name": "crowded", "evaluator": "function", "function": f"{name}:score"}
    strategy = {"name": "m2n2", "archive": 2}
    told: list[str] = []

    class Listener(Silence):
        def notice(self, text: str) -> None:
            told.append(text)

    for pool, place in (("pool", 2), ("roomy", 3)):
        changes = {"seeds": seeds, "strategy": {**strategy, "archive": place}, "pool": pool}
        file = write_run(tmp_path, tasks=[task], budget=2, **changes)
        biases = [float(load_file(seed_file(tmp_path, n))["hidden.bias"][0]) for n in (1, 2, 3)]
        (tmp_path / f"{name}.py").write_text(
            f"SOLVED = dict(zip({biases}, (range(10), range(10, 20), [*range(6), *range(10, 16)])))"
            "\nexamples = list(range(20))\n"
            "def score(model, given):\n"
            "    mine = SOLVED.get(float(model['hidden.bias'][0]), ())\n"
            "    return [example in mine for example in given]\n"
        )
        for budget in (2, 3):
            evolve(file, budget=budget, progress=Listener())
        assert len(told) == 2
    assert all(text.startswith("seed 'seed3' has the best selection score of") for text in told)


@pytest.mark.parametrize(
    ("solved", "share", "told"),
    [([[], []], 1.0, "ab"), ([[], [2]], 1.0, "a"), ([[0], [2, 3]], 1.0, ""), ([[], []], 0.5, "ab")],
)
def test_a_task_on_which_no_seed_scores_is_told(
    tmp_path: Path, solved: list[list[int]], share: float, told: str
) -> None:
    name, notices = f"silent_{next(_NUMBERS)}", list[str]()

    class Listener(Silence):
        def notice(self, text: str) -> None:
            notices.append(text)

    lines = ["examples = list(range(4))"]
    for task, right in zip("ab", solved, strict=True):
        lines.append(f"def {task}(model, given): return [float(each in {right}) for each in given]")
    (tmp_path / f"{name}.py").write_text("\n".join(lines))
    tasks = [{"name": each, "evaluator": "function", "function": f"{name}:{each}"} for each in "ab"]
    strategy = {"name": "m2n2", "archive": 2, "share": share}
    evolve(write_run(tmp_path, tasks=tasks, strategy=strategy, budget=0), progress=Listener())
    assert [text[6] for text in notices if "every seed scores 0 on every" in text] == list(told)


def test_seeds_that_fail_on_held_out_examples_end_the_run(tmp_path: Path) -> None:
    name = f"held_{next(_NUMBERS)}"
    (tmp_path / f"{name}.py").write_text(_ON_HELD_OUT.format(condition="True"))
    task = {"name": "held", "evaluator": "function", "function": f"{name}:score"}
    task["held_out_examples"] = f"{name}:held"
    for track in (True, False):
        file = write_run(tmp_path, tasks=[task], track_held_out=track, pool=f"pool-{track}")
        with pytest.raises(EvaluationError, match=r"member \d+ cannot be scored on the held-out"):
            evolve(file)


def test_children_that_fail_where_seeds_do_not_are_at_fault(tmp_path: Path) -> None:
    told: list[str] = []

    class Listener(Silence):
        def notice(self, text: str) -> None:
            told.append(text)

    changes, down = _served(tmp_path, 3, strategy={"name": "m2n2", "archive": 6, "mutation": 1e30})
    file = write_run(tmp_path, **changes, budget=45)
    module = tmp_path / f"{changes['tasks'][0]['function'].partition(':')[0]}.py"
    module.write_text(module.read_text().replace("DOWN.exists()", "bias > 1e6"))
    evolve(file, progress=Listener())
    with Pool(tmp_path / "pool") as pool:
        status = pool.status()
    assert (status["evaluations"], status["failed"]) == (45, 45)
    # Nothing was saved on them.
    assert (status["examples_evaluated"], status["examples_total"]) == (0, 0)
    assert len([text for text in told if "the children's fault" in text]) == 2
    assert not down.exists()


def test_short_sessions_get_on_with_children_that_fail_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were scored anew in each session, for ever, until one of them did not fail."""

    class Short(Silence):
        def step(self, report: StepReport) -> None:
            if report.session == 3:
                raise KeyboardInterrupt

    changes, _ = _served(tmp_path, 3, strategy={"name": "m2n2", "archive": 6, "mutation": 1e30})
    module = tmp_path / f"{changes['tasks'][0]['function'].partition(':')[0]}.py"
    module.write_text(module.read_text().replace("DOWN.exists()", "bias > 1e6"))
    evolve(write_run(tmp_path, **changes, budget=15, pool="whole"))
    file = write_run(tmp_path, **changes, budget=15)
    monkeypatch.setattr("genepool.run.failures._AT_STAKE", 0.0)
    for after in (3, 6, 9):
        with pytest.raises(KeyboardInterrupt):
            evolve(file, progress=Short())
        with Pool(tmp_path / "pool") as pool:
            assert pool.evaluations == pool.status()["failed"] == after
    evolve(file)
    assert contents(tmp_path / "pool") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_single_failures_are_children_like_others(tmp_path: Path) -> None:
    changes, _ = _served(tmp_path, 0)
    file = write_run(tmp_path, **changes)
    last: set[str] = set()
    failed = 0
    for budget in range(10, 30):
        evolve(file, budget=budget)
        with Pool(tmp_path / "pool") as pool:
            assert pool.evaluations == budget
            last.add(list(pool.records())[-1].verdict)
            failed = pool.status()["failed"]
    assert "failed" in last
    assert len(last) > 1
    evolve(write_run(tmp_path, **changes, pool="whole"), budget=29)
    assert failed > 3
    assert contents(tmp_path / "pool")[:-1] == contents(tmp_path / "whole")[:-1]


_CALLS = {
    "evolve": "genepool.evolve('run.yaml')",
    "compare": "compare('run.yaml', 'all', strategies=['ga'], runs=2, workers=2)",
}


@pytest.mark.slow
@pytest.mark.parametrize("call", _CALLS.values(), ids=_CALLS.keys())
def test_a_script_that_workers_run_again_is_told_so(tmp_path: Path, call: str) -> None:
    write_run(tmp_path, in_flight=2, executor="process", workers=1, budget=6)
    imports = "import genepool; from genepool.study.compare import compare"

    def run(script: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "script.py").write_text(f"{imports}\n{script}\n")
        words = [sys.executable, "script.py"]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)

    done = run(call)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("genepool.errors.GenepoolError: every worker process imports the script")
    # What the workers themselves met is not shown beside it.
    assert done.stderr.count("Traceback") == 1
    done = run(f"if __name__ == '__main__':\n    {call}")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_worker_processes_give_the_same_run(tmp_path: Path) -> None:
    evolve(write_run(tmp_path / "serial", in_flight=3))
    evolve(write_run(tmp_path / "process", in_flight=3, executor="process", workers=2))
    assert contents(tmp_path / "serial/pool") == contents(tmp_path / "process/pool")


def test_every_member_ever_bred_can_be_made_again(tmp_path: Path) -> None:
    for name, mutation in (("recipes", 0.0), ("vectors", 0.05)):
        strategy = {"name": "m2n2", "archive": 4, "mutation": mutation}
        evolve(write_run(tmp_path / name, strategy=strategy))
        with Pool(tmp_path / name / "pool") as pool:
            records = list(pool.records())
            stored = [record for record in records if record.genome is not None]
            assert len(stored) < len(records)
            for record in records:
                genome = pool.genome(record.id)
                assert isinstance(genome, Recipe) == (mutation == 0)
                if record.digest is not None:
                    assert digest(genome) == record.digest
            if mutation:
                kept = {record.id for record in stored}
                assert kept <= {*pool.slots().values(), pool.champion(), 0, 1}


def test_the_champion_is_the_best_ever_accepted(tmp_path: Path) -> None:
    evolve(write_run(tmp_path))
    with Pool(tmp_path / "pool") as pool:
        accepted = [record for record in pool.records() if record.verdict == "accepted"]
        best = max(record.train or 0.0 for record in accepted)
        first = next(record.id for record in accepted if record.train == best)
        status = pool.status()
    assert status["champion"]["member"] == first
    assert status["champion"]["train"] == best >= max(s["train"] for s in status["seeds"])
    assert status["champion"]["held_out"] is not None
    assert status["evaluations"] == status["budget"] == 60
    assert status["examples_total"] == 60 * 120
    assert 0 < status["examples_evaluated"] < status["examples_total"]


def test_a_finished_run_does_nothing_and_a_larger_budget_goes_on(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    assert evolve(file).session == 60
    before = contents(tmp_path / "pool")
    assert evolve(file).session == 0
    assert contents(tmp_path / "pool") == before
    assert evolve(file, budget=70).session == 10
    assert evolve(file, budget=65).session == 0


def test_a_budget_is_a_whole_number(tmp_path: Path) -> None:
    file = write_run(tmp_path, budget=2)
    whole: Any = np.int64(4)
    assert evolve(file, budget=whole).status["budget"] == 4
    wrong: list[Any] = [5.5, np.float32(6), -1]
    for budget in wrong:
        with pytest.raises(PoolError, match="a whole number of at least 0; got"):
            evolve(file, budget=budget)


def test_a_task_that_opens_otherwise_in_a_worker_is_refused(tmp_path: Path) -> None:
    inputs = open_inputs(load_run(write_run(tmp_path)))
    digest = inputs.tasks[0].digest
    require_same_tasks(inputs, {"clouds": digest})
    with pytest.raises(ConfigError, match="other examples or settings of task 'clouds'"):
        require_same_tasks(inputs, {"clouds": digest[::-1]})


_OTHERS_EACH_TIME = """
import os
def examples():
    return [{"id": f"{os.getpid()}-{number}"} for number in range(9)]
def score(model, chosen):
    return [0.5 for one in chosen]
"""


@pytest.mark.slow
def test_examples_that_are_others_in_each_process_end_the_run(tmp_path: Path) -> None:
    """They were scored, and kept as the scores of those that this process has."""
    (tmp_path / "others.py").write_text(_OTHERS_EACH_TIME)
    task = {"name": "mine", "evaluator": "function", "function": "others:score"}
    for process in ({}, {"executor": "process", "workers": 1, "pool": "other"}):
        file = write_run(tmp_path, tasks=[task], budget=3, **process)
        words = [sys.executable, "-m", "genepool", "evolve", str(file)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert done.returncode == bool(process), done.stderr
    assert "a worker finds other examples or settings of task 'mine'" in done.stderr


def test_progress_is_reported_for_every_child(tmp_path: Path) -> None:
    class Watcher(Silence):
        def __init__(self) -> None:
            self.seeds: list[SeedReport] = []
            self.examples: list[tuple[int, int]] = []
            self.stages: list[str] = []
            self.steps: list[StepReport] = []

        def stage(self, text: str) -> None:
            self.stages.append(text)

        def notice(self, text: str) -> None:
            self.stages.append(text)

        def seed(self, report: SeedReport) -> None:
            self.seeds.append(report)

        def asked(self, examples: int, of: int) -> None:
            self.examples.append((examples, of))

        def step(self, report: StepReport) -> None:
            self.steps.append(report)

    watcher = Watcher()
    evolve(write_run(tmp_path, track_held_out=True), progress=watcher)
    assert [report.evaluations for report in watcher.steps] == list(range(1, 61))
    assert watcher.steps[-1].champion == max(report.champion for report in watcher.steps)
    assert watcher.steps[-1].held_out is not None
    assert watcher.steps[-1].examples <= watcher.steps[-1].examples_total == 60 * 120
    assert "evolving" in watcher.stages
    with Pool(tmp_path / "pool") as pool:
        seeds = [(seed["name"], seed["train"]) for seed in pool.status()["seeds"]]
    assert [(report.name, report.score) for report in watcher.seeds] == seeds
    assert all(report.tasks == (("clouds", report.score),) for report in watcher.seeds)
    assert watcher.steps[-1].tasks == (("clouds", watcher.steps[-1].champion),)
    # The seeds were asked all at once.
    assert watcher.examples[:2] == [(120, 120), (120, 120)]


@pytest.mark.parametrize(("batch", "told"), [(1, True), (10, False)])
def test_who_interrupts_a_long_child_is_told_that_it_was_heard(
    tmp_path: Path, batch: int, told: bool
) -> None:
    class Interrupted(Silence):
        def __init__(self) -> None:
            self.said: list[str] = []
            self.children = 0

        def asked(self, examples: int, of: int) -> None:
            if self.children == 1 and not self.said:
                os.kill(os.getpid(), signal.SIGINT)
                self.said.append("")

        def notice(self, text: str) -> None:
            self.said.append(text)

        def step(self, report: StepReport) -> None:
            self.children, self.said = self.children + 1, self.said if self.children else []

    name = f"quick_{next(_NUMBERS)}"
    task = {"name": "a", "evaluator": "function", "function": f"{name}:score", "batch": batch}
    (tmp_path / f"{name}.py").write_text(_SLOW.replace("0.1", "0.0"))
    watcher = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        evolve(write_run(tmp_path, tasks=[task]), progress=watcher)
    assert watcher.children == 2
    notes = [text for text in watcher.said if text.startswith("interrupted: ")]
    # Nothing was left to wait for, otherwise.
    assert len(notes) == told


_SLOW = """
import time
examples = list(range(10))
def score(model, examples):
    time.sleep(0.1 * len(examples))
    return [0.5] * len(examples)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "workers"), [(2, 1), (1, 2)])
def test_workers_tell_how_far_they_are_within_a_model(
    tmp_path: Path, batch: int, workers: int
) -> None:
    class Watcher(Silence):
        def __init__(self) -> None:
            self.models: list[list[tuple[int, int]]] = [[]]
            self.threads = set[int]()

        def asked(self, examples: int, of: int) -> None:
            self.threads.add(threading.get_ident())
            self.models[-1].append((examples, of))

        def seed(self, report: SeedReport) -> None:
            self.models.append([])

        def step(self, report: StepReport) -> None:
            self.models.append([])

    name = f"slow_{next(_NUMBERS)}"
    task = {"name": "a", "evaluator": "function", "function": f"{name}:score", "batch": batch}
    for number in (0, workers):
        more = {"executor": "process", "workers": number} if number else {}
        file = write_run(
            tmp_path,
            pool=f"pool{number}",
            tasks=[task],
            **more,
            budget=1,
            in_flight=2,
        )
        (tmp_path / f"{name}.py").write_text(_SLOW)
        watcher = Watcher()
        evolve(file, progress=watcher)
        assert watcher.threads == {threading.get_ident()}
        told = watcher.models[0]
        assert len(told) >= 3, number
        assert told == sorted(set(told))
        assert {of for _, of in told} == {10}
        # A second of scoring, and a message each fifth of it at most.
        assert not number or all(len(one) <= 10 for one in watcher.models)
        assert contents(tmp_path / f"pool{number}") == contents(tmp_path / "pool0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 4}, "seed = 3 (now 4)"),
        ({"in_flight": 2}, "in_flight = 1 (now 2)"),
        ({"early_stop": False}, "early_stop"),
        ({"strategy": {"name": "m2n2", "archive": 7}}, "strategy.archive = 6 (now 7)"),
        ({"strategy": {"name": "ga"}}, "strategy"),
        ({"seeds": ["seed1.safetensors", "seed3.safetensors"]}, "another seed 'seed2'"),
        ({"seeds": ["seed1.safetensors"]}, "2 seeds"),
        ({"chromosomes": {"weights": ["*.weight"]}}, "chromosomes"),
        (
            {"tasks": [{"name": "clouds", "evaluator": "classifier", "data": "other.npz"}]},
            "task 'clouds'",
        ),
        (
            {"tasks": [{"name": "x", "evaluator": "classifier", "data": "data.npz"}]},
            "tasks clouds",
        ),
    ],
)
def test_a_pool_made_from_something_else_is_refused(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    from tests.runs import write_data

    evolve(write_run(tmp_path, budget=5))
    write_data(tmp_path / "other.npz", seed=1)
    before = contents(tmp_path / "pool")
    with pytest.raises(PoolError) as caught:
        evolve(write_run(tmp_path, budget=9, **changes))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path / "pool") == before


@pytest.mark.slow
def test_a_pool_from_before_an_option_existed_goes_on(tmp_path: Path) -> None:
    """Such a pool was bred with what is now the option's default; another value is refused."""
    evolve(write_run(tmp_path / "whole", budget=40))
    file = write_run(tmp_path / "part", budget=40)
    evolve(file, budget=20)
    with closing(PoolWriter(tmp_path / "part/pool")) as pool:
        pins = pool.meta()["pins"]
        for section, option in (("strategy", "risk"), ("model", "kind")):
            del pins[section][option]
        pool.set_meta("pins", pins)
    other = write_run(
        tmp_path / "part", budget=40, strategy={"name": "m2n2", "archive": 6, "risk": 0.5}
    )
    with pytest.raises(PoolError, match=r"strategy\.risk = 0.0"):
        evolve(other)
    write_run(tmp_path / "part", budget=40)
    evolve(file)
    whole, part = contents(tmp_path / "whole/pool"), contents(tmp_path / "part/pool")
    assert whole[:-2] == part[:-2]


def test_what_took_long_to_score_is_written_at_once(tmp_path: Path) -> None:
    """Several children may come at the same moment, each after minutes: none waits for another."""
    evolve(write_run(tmp_path, budget=3))
    with closing(PoolWriter(tmp_path / "pool")) as writer, Pool(tmp_path / "pool") as reader:
        last = writer.record(4)
        for more in range(1, 6):
            row = replace(last, id=4 + more, step=3 + more, verdict=Verdict.REJECTED, seconds=60.0)
            writer.add(row)
            assert reader.evaluations == 3 + more
