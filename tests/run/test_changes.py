"""Going on with a pool: what has changed since then is told, and other scores stop the run."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from genepool.core.examples import TaskExamples, lay_out
from genepool.errors import EpisodeError, GenepoolError, PoolError
from genepool.pool.reader import Pool
from genepool.run import changes
from genepool.run.evolve import evolve
from tests.runs import contents, opened_database, write_run

_NUMBERS = itertools.count()

# Each module has its own name, since tests share a process.
_FUNCTION = """
from {helper} import SCALE
examples = list(range(40))
def score(model, chosen):
    bias = abs(float(model["hidden.bias"].sum()))
    return [SCALE * min(1.0, bias * (n + 1) / 40) for n in chosen]
"""
_WORLD = """
from pydantic import BaseModel, ConfigDict
from genepool.tasks.agent.environment import Step, Turn
from {helper} import SCALE
class World:
    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid")
    instructions = "Say a number."
    def __init__(self, options, directory):
        pass
    def tasks(self, split):
        return [str(n) for n in range(20)]
    def reset(self, id):
        self._wanted = int(id)
        return Turn(f"wanted: {{id}}")
    def step(self, text):
        return Step(Turn("thanks"), SCALE / (1 + abs(float(text) - self._wanted)), True)
    def close(self):
        pass
def act(model, asked):
    return [str(abs(float(model["hidden.bias"].sum())) * 5) for _ in asked]
"""
_POLICY = """
from {helper} import SCALE
def act(model, asked):
    return [str(SCALE * abs(float(model["hidden.bias"].sum())) * 5) for _ in asked]
"""
_FROM_FILE = """
from pathlib import Path
examples = list(range(40))
def score(model, chosen):
    scale = float(Path({catalogue!r}).read_text())
    bias = abs(float(model["hidden.bias"].sum()))
    return [scale * min(1.0, bias * (n + 1) / 40) for n in chosen]
"""


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> Generator[None, None, None]:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    # Other tests' runs would tell that the files of these have changed.
    _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name.startswith(("helper_", "rules_"))]:
        del sys.modules[name]


class Rules:
    """A folder with a run whose score is computed by modules there."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory, number = directory, next(_NUMBERS)
        self.settings: dict[str, Any] = {"budget": 30, **settings}
        self.helper, self.module = f"helper_{number}", f"rules_{number}"
        self.told: list[str] = []
        self.write(self.helper, "SCALE = 1.0\n")
        self.write(self.module, _FUNCTION.format(helper=self.helper))
        self.task: dict[str, Any] = {
            "name": "rule",
            "evaluator": "function",
            "function": f"{self.module}:score",
        }

    def write(self, module: str, text: str) -> None:
        (self.directory / f"{module}.py").write_text(text)

    def world(self) -> None:
        self.write(self.module, _WORLD.format(helper=self.helper))
        self.task = {
            "name": "rule",
            "evaluator": "agent",
            "environment": f"{self.module}:World",
            "policy": f"{self.module}:act",
        }

    def policy(self) -> None:
        plain = Rules(self.directory)
        plain.world()
        self.write(self.module, _POLICY.format(helper=self.helper))
        self.task = {**plain.task, "policy": f"{self.module}:act"}

    def evolve(self, budget: int = 30, **settings: Any) -> tuple[str, ...]:
        """As in a new process."""
        _forget()
        return self.evolve_here(budget, **settings)

    def evolve_here(self, budget: int = 30, **settings: Any) -> tuple[str, ...]:
        given = {"tasks": [self.task], **self.settings, **settings}
        result = evolve(write_run(self.directory, **given), budget=budget)
        return tuple(note for note in result.notices if "mean scores" not in note)

    def stored(self) -> list[Any]:
        with opened_database(self.directory / "pool") as db:
            return [db.execute(f"SELECT * FROM {name}").fetchall() for name in ("meta", "members")]


_FUNCTIONS: dict[str, Callable[[Rules], None]] = {
    "function": lambda rules: None,
    "environment": Rules.world,
    "policy": Rules.policy,
}
_WORKERS = {"executor": "process", "workers": 2, "in_flight": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *((kind, {}) for kind in _FUNCTIONS),
        ("function", _WORKERS),
    ],
)
def test_another_rule_stops_the_run(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    rules = Rules(tmp_path, **settings)
    _FUNCTIONS[kind](rules)
    assert rules.evolve(9) == ()
    before = rules.stored()
    rules.write(rules.helper, "SCALE = 0.9\n")
    with pytest.raises(PoolError) as failure:
        rules.evolve()
    text = str(failure.value)
    assert "task 'rule' scores otherwise than it did when this pool was made: seed 'seed" in text
    assert f"changed since then: the module '{rules.helper}'" in text
    assert "put back what was changed, or name another pool directory" in text
    assert "\n" not in text
    # Nothing was written, so that the rule that is put back goes on as if nothing had been.
    assert rules.stored() == before
    rules.write(rules.helper, "SCALE = 1.0\n")
    assert rules.evolve() == ()
    unbroken = Rules(tmp_path, **settings, pool="whole")
    unbroken.task = rules.task
    unbroken.evolve()
    assert contents(tmp_path / "pool") == contents(tmp_path / "whole")


def test_what_answers_otherwise_without_other_code_stops_the_run(tmp_path: Path) -> None:
    rules, catalogue = Rules(tmp_path), tmp_path / "catalogue"
    rules.write(rules.module, _FROM_FILE.format(catalogue=str(catalogue)))
    catalogue.write_text("1.0")
    rules.evolve(5)
    catalogue.write_text("0.9")
    with pytest.raises(PoolError, match=r"on example '\w+' 0\.\d+, and then \d.*16 examples") as it:
        rules.evolve()
    assert "changed since" not in str(it.value)
    notes = rules.evolve(changed_scores="tell")
    assert [note for note in notes if "Members that were scored by two rules" in note]


@pytest.mark.slow
def test_a_change_that_changes_no_score_is_told_once(tmp_path: Path) -> None:
    rules = Rules(tmp_path)
    rules.evolve(5)
    rules.write(rules.helper, "SCALE = 1.0  # Why not.\n")
    (note,) = rules.evolve(9)
    assert note.startswith(
        f"changed since this pool was last worked on: the module '{rules.helper}'; some of the"
    )
    assert rules.evolve(12) == ()


@pytest.mark.slow
def test_options_that_the_digest_has_not_are_told(tmp_path: Path) -> None:
    rules = Rules(tmp_path)
    rules.world()
    rules.task["patience"] = 10.0
    rules.evolve(5)
    rules.task.update(patience=11.0, measured=4)
    (note,) = rules.evolve(9)
    assert "worked on: the option 'measured' of task 'rule', the option 'patience' of" in note


def test_versions_and_processors_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = Rules(tmp_path)
    rules.evolve(5)
    real = changes.versions()
    monkeypatch.setattr(changes, "versions", lambda: {**real, "numpy": "0.1"})
    monkeypatch.setattr(changes, "processor", lambda: "abacus")
    (note,) = rules.evolve(9)
    assert f"numpy (it was {real['numpy']}), the processor (it was " in note


def test_packages_that_the_users_modules_import_are_known(tmp_path: Path) -> None:
    rules = Rules(tmp_path)
    rules.write(rules.helper, "SCALE = 1.0\nimport yaml\nfrom pytest import raises\n")
    rules.evolve(1)
    with Pool(tmp_path / "pool") as pool:
        packages = pool.meta()[changes.RAN_WITH]["packages"]
    assert {"genepool", "numpy", "yaml"} <= packages.keys()
    assert "json" not in packages


def test_a_task_that_does_not_repeat_itself_is_told_and_goes_on(tmp_path: Path) -> None:
    rules = Rules(tmp_path)
    noisy = _FUNCTION.replace("SCALE *", "random.Random().random() *").replace(
        "examples =", "import random\nexamples ="
    )
    rules.write(rules.module, noisy.format(helper=rules.helper))
    rules.evolve(5)
    (note,) = rules.evolve(9)
    assert note.startswith("task 'rule' does not give the same scores twice (example '")


@pytest.mark.slow
def test_an_environment_that_does_not_repeat_itself_may_be_allowed(tmp_path: Path) -> None:
    rules = Rules(tmp_path)
    rules.world()
    tired = _WORLD.replace("SCALE / (", "SCALE / (next(NUMBERS) + ")
    rules.write(
        rules.module,
        f"import itertools\nNUMBERS = itertools.count()\n{tired}".format(helper=rules.helper),
    )
    with pytest.raises(EpisodeError, match="'changed_scores: tell' goes on"):
        rules.evolve(3)
    rules.evolve(3, changed_scores="tell")
    rules.evolve(6, changed_scores="tell")
    with Pool(tmp_path / "pool") as pool:
        assert pool.evaluations == 6


def test_another_rule_of_a_guard_stops_the_run(tmp_path: Path) -> None:
    rules = Rules(tmp_path)
    guard = {**rules.task, "name": "old skill", "guard": True, "tolerance": 0.9}
    task = {"name": "clouds", "evaluator": "classifier", "data": "data.npz"}
    rules.settings["tasks"] = [task, guard]
    rules.evolve(5)
    assert rules.evolve(7) == ()
    rules.write(rules.helper, "SCALE = 0.8\n")
    with pytest.raises(PoolError, match=r"guard 'old skill' scores otherwise .* seed 'seed1'"):
        rules.evolve()


def test_another_network_stops_the_run(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    rules = Rules(tmp_path)
    network = (
        "import torch\nfrom {helper} import SCALE\n"
        "class Linear(torch.nn.Module):\n"
        "    def __init__(self, i, o):\n"
        "        super().__init__()\n"
        "        self.weight = torch.nn.Parameter(torch.zeros(i, o))\n"
        "        self.bias = torch.nn.Parameter(torch.zeros(o))\n"
        "    def forward(self, x):\n"
        "        return SCALE * (x @ self.weight + self.bias)\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.hidden, self.output = Linear(8, 16), Linear(16, 3)\n"
        "    def forward(self, x):\n"
        "        return self.output(torch.relu(self.hidden(x)))\n"
    )
    rules.write(rules.module, network.format(helper=rules.helper))
    rules.task = {"name": "rule", "evaluator": "classifier", "data": "data.npz"}
    rules.settings["model"] = {"network": f"{rules.module}:Net"}
    rules.evolve(3)
    rules.write(rules.helper, "SCALE = -1.0\n")
    with pytest.raises(PoolError, match=f"changed since then: the module '{rules.helper}'"):
        rules.evolve()


def test_a_file_that_changes_under_a_process_is_told(tmp_path: Path) -> None:
    rules = Rules(tmp_path)
    rules.evolve(5)
    rules.write(rules.helper, "SCALE = 0.5\n")
    # As in a notebook: Python goes on with what it has imported.
    (note,) = rules.evolve_here(9)
    assert note.startswith(f"'{rules.helper}': the file has changed since Python imported it")
    # What was recorded is what ran, so that the change is seen when it comes into effect.
    with pytest.raises(PoolError, match=f"changed since then: the module '{rules.helper}'"):
        rules.evolve()


@pytest.mark.slow
def test_worker_processes_refuse_modules_that_are_not_the_runs(tmp_path: Path) -> None:
    rules = Rules(tmp_path, **_WORKERS)
    rules.evolve(3)
    rules.write(rules.helper, "SCALE = 1.0  # Another file.\n")
    with pytest.raises(GenepoolError, match=f"the module '{rules.helper}' there is not the run's"):
        rules.evolve_here(5)


def test_functions_of_the_script_itself_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of theirs was called one of a file or server that is asked."""
    script = tmp_path / "script.py"
    rules = Rules(tmp_path)
    rules.task["function"] = "__main__:score"
    monkeypatch.syspath_prepend(tmp_path)

    def begin(text: str) -> None:
        main = ModuleType("__main__")
        script.write_text(text)
        vars(main)["__file__"] = str(script)
        exec(text, vars(main))
        monkeypatch.setitem(sys.modules, "__main__", main)

    text = _FUNCTION.format(helper=rules.helper)
    begin(text)
    assert rules.evolve(3) == ()
    begin(text + "# Another file.\n")
    (note,) = rules.evolve(5)
    assert "the module '__main__'" in note
    begin(text.replace("return [", "return [0.5 * "))
    with pytest.raises(PoolError, match="changed since then: the module '__main__'"):
        rules.evolve(7)


def test_looking_costs_a_block_of_examples(tmp_path: Path) -> None:
    rules, log = Rules(tmp_path), tmp_path / "asked"
    noted = f"    with open({str(log)!r}, 'a') as out: out.write(f'{{len(chosen)}}\\n')\n    return"
    rules.write(rules.module, _FUNCTION.format(helper=rules.helper).replace("    return", noted))
    rules.evolve(5)
    log.unlink()
    # Nothing is left to be scored, and the run file is another one.
    rules.evolve(5, track_held_out=True)
    assert log.read_text().split() == ["16"]


def test_a_seed_and_a_block_say_most_where_scores_differ() -> None:
    scores = np.zeros((2, 70), dtype=np.float32)
    scores[1, 20] = 1.0
    scores[0, 41:44] = 1.0
    scores[0, 66] = np.nan
    examples = lay_out([TaskExamples("a", 40), TaskExamples("b", 30)], binary=True)
    found = changes.most_telling(examples, scores)
    assert [(row, indices.tolist()) for row, indices in found.values()] == [
        (1, list(range(16, 32))),
        (0, list(range(40, 56))),
    ]
    blocks = np.repeat(np.arange(10), 7)
    examples = lay_out([TaskExamples("a", 70)], binary=True, blocks=blocks)
    ((row, indices),) = changes.most_telling(examples, scores).values()
    assert (row, indices.tolist()) == (0, list(range(35, 49)))
    scores[:] = np.nan
    assert changes.most_telling(examples, scores) == {}


class _Slim:
    """What some libraries put in place of a module."""

    __slots__ = ()


@pytest.mark.parametrize("there", [None, _Slim(), 7])
def test_what_stands_for_a_module_need_not_be_one(
    monkeypatch: pytest.MonkeyPatch, there: Any
) -> None:
    """None says that it shall not be imported. It ended in a traceback."""
    mine, other = ModuleType("mine_of_a_user"), ModuleType("packaged")
    vars(mine)["packaged"] = other
    monkeypatch.setitem(sys.modules, "mine_of_a_user", mine)
    monkeypatch.setitem(sys.modules, "packaged", there)
    assert changes._imported_by({"mine_of_a_user": "a digest"}) == {}
    vars(other)["__version__"] = "1.2+local"
    monkeypatch.setitem(sys.modules, "packaged", other)
    assert changes._imported_by({"mine_of_a_user": "a digest"}) == {"packaged": "1.2"}
