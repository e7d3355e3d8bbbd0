"""A run file is read once, and all that is wrong with it is told at once."""

from __future__ import annotations

import os
import pickle
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

import genepool
from genepool.checkpoints.layout import PRESETS
from genepool.errors import ConfigError
from genepool.run.file.run_settings import RunConfig
from genepool.run.run_file import load_run, resolve
from genepool.strategies.by_name import find_strategy
from tests.cli import run_cli
from tests.runs import write_run

EVALUATOR = """
import os
from pathlib import Path
from pydantic import model_validator
from genepool.tasks.classifier.evaluator import Classifier

class Counting(Classifier):
    class Options(Classifier.Options):
        @model_validator(mode="after")
        def count(self):
            with (Path(__file__).parent / "parsed").open("a") as file:
                file.write(f"{os.getpid()}\\n")
            return self
"""


def counting_run(directory: Path, **changes: Any) -> Path:
    task = {"name": "clouds", "evaluator": "counting:Counting", "data": "data.npz"}
    file = write_run(directory, tasks=[task], budget=12, **changes)
    (directory / "counting.py").write_text(EVALUATOR)
    return file


def fresh_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a module beside a run file be found anew, and forgotten afterwards."""
    monkeypatch.delitem(sys.modules, "counting", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])


def parsed(directory: Path) -> Counter[int]:
    return Counter(int(line) for line in (directory / "parsed").read_text().split())


def counted(monkeypatch: pytest.MonkeyPatch, kind: Any) -> list[object]:
    """What a section is parsed from, each time that it is."""
    calls: list[object] = []
    whole = kind.model_validate

    def validate(data: object, **options: Any) -> Any:
        calls.append(data)
        return whole(data, **options)

    monkeypatch.setattr(kind, "model_validate", validate)
    return calls


def test_everything_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_modules(monkeypatch)
    file = counting_run(tmp_path)
    whole, strategy = (counted(monkeypatch, kind) for kind in (RunConfig, find_strategy("m2n2")))
    genepool.evolve(file)
    assert (len(whole), len(strategy)) == (1, 1)
    assert parsed(tmp_path) == {os.getpid(): 1}


@pytest.mark.slow
def test_a_worker_parses_a_run_once_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_modules(monkeypatch)
    genepool.evolve(counting_run(tmp_path, executor="process", workers=2, in_flight=2))
    found = parsed(tmp_path)
    assert len(found) == 3
    assert set(found.values()) == {1}


def test_a_run_travels_as_plain_values(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, seeds=["seed1.safetensors", {"path": "seed2.safetensors"}]))
    again = resolve(pickle.loads(pickle.dumps(run.given)))
    assert again.config == run.config
    assert again.seeds == run.seeds and [seed.name for seed in run.seeds] == ["seed1", "seed2"]
    assert again.strategy == run.strategy
    assert again.where("tasks", 0, "data") == run.where("tasks", 0, "data")


MISTAKES: dict[str, tuple[str, str]] = {
    # What stands in the file, and what is said of it.
    "bugdet: 5": ("bugdet", "unknown key; did you mean 'budget'?"),
    "seed: [a, b]": ("seed", "input should be a whole number"),
    "in_flight: 0": ("in_flight", "input should be greater than or equal to 1 or 'auto'; got 0"),
    "executor: threads": (
        "executor",
        "input should be 'serial', 'process' or 'ray'; got 'threads'",
    ),
    "model: {knd: arrays}": ("model.knd", "unknown key; did you mean 'kind'?"),
    "model: {device_map: autom}": ("model.device_map", "expected a mapping, or the word 'auto'"),
    "devices: auto\nexecutor: process\nmodel: {device_map: auto}": (
        "devices",
        "each worker's model lies on one of them",
    ),
    "chromosomes: {a: ['re:(']}": ("chromosomes.a.0", "'re:(' is not a regular expression"),
    "chromosomes: atention": ("chromosomes", "expected a mapping, or the word 'attention'"),
    "strategy: {name: m2n2, aplha: 1.0}": ("strategy.aplha", "did you mean 'alpha'?"),
    "strategy: {name: m3n2}": ("strategy.name", "did you mean 'm2n2'?"),
    "strategy: {name: m2n2, splits: 2, split_point: false}": ("strategy.splits", "there are none"),
    "seeds: [a, 5]": ("seeds.1", "a valid string or a mapping; got 5"),
    "seeds: [{pth: a}]": ("seeds.0.pth", "unknown key; did you mean 'path'?"),
    "seeds: [{path: a, dtype: Q4}]": ("seeds.0.dtype", "'F32'; got 'Q4'"),
    "tasks: [{name: a, evaluater: classifier, data: digits}]": (
        "tasks.0.evaluater",
        "unknown key; did you mean 'evaluator'?",
    ),
    "tasks: [{nmae: a, evaluator: classifier, data: digits}]": (
        "tasks.0.nmae",
        "unknown key; did you mean 'name'?",
    ),
    "tasks: [{name: a, evaluator: clasifier, anything: 1}]": (
        "tasks.0.evaluator",
        "did you mean 'classifier'?",
    ),
    "tasks: [{name: a, evaluator: classifier, dta: digits}]": (
        "tasks.0.dta",
        "unknown key; did you mean 'data'?",
    ),
    "tasks: [{name: a, evaluator: classifier, data: digits, tolerance: -1}]": (
        "tasks.0.tolerance",
        "is not a guard",
    ),
    "tasks: [{name: a, evaluator: classifier, data: digits, guard: true}]": (
        "tasks",
        "all 1 are guards",
    ),
    "tusks: [{name: a, evaluator: classifier, data: digits}]": ("tusks", "did you mean 'tasks'?"),
    'pool: "a\\0b"': ("pool", "holds a character that is no text"),
    'pool: "\\ud800"': ("pool", "holds a character that is no text"),
    f"pool: {'x' * 300}": ("pool", "no file has so long a name"),
    f"pool: {'x/' * 1500}": ("pool", "no file has so long a name"),
    f"seeds: [{'x/' * 3000}]": ("seeds.0", "no file has so long a name"),
}
FINE = {
    "pool": "pool: pool",
    "seeds": "seeds: [a, b]",
    "tasks": "tasks: [{name: a, evaluator: classifier, data: digits}]",
}


def refused(directory: Path, text: str) -> list[str]:
    file = directory / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_run(file)
    return str(caught.value).replace(f"{file}, ", "").split("\n")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_alone(tmp_path: Path, mistake: str) -> None:
    field, words = MISTAKES[mistake]
    key = mistake.partition(":")[0].replace("tusks", "tasks")
    rest = [text for name, text in FINE.items() if name != key]
    (line,) = refused(tmp_path, "\n".join([*rest, mistake]))
    assert line.startswith(f"line {len(rest) + 1}: {field}: ")
    assert words in line


@pytest.mark.parametrize("given", ["[a, b]", "\n- a\n- path: b", "[]"])
def test_models_under_the_key_of_the_random_seed(tmp_path: Path, given: str) -> None:
    rest = [FINE["pool"], FINE["tasks"]]
    line, *others = refused(tmp_path, "\n".join([*rest, f"seed: {given}"]))
    assert line == "line 3: seed: input should be a whole number; did you mean 'seeds'?"
    assert [other.partition(": ")[2][:7] for other in others] == ["seeds: "] * (given == "[]")


MANY = """\
pool: pool
seeds:
  - {pth: a}
  - 7
bugdet: 5
tasks:
  - name: one
    evaluater: classifier
    dta: digits
    weight: -1
  - name: one
    evaluator: clasifier
    tolerance: 0.1
  - evaluator: classifier
    data: [1]
strategy:
  name: m2n2
  aplha: 1
  archive: 1
model: {knd: arrays, device: 5}
in_flight: 0
chromosomes:
  a: ["re:["]
"""


def test_all_mistakes_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    lines = refused(tmp_path, MANY)
    assert [line.split(": ")[:2] for line in lines] == [
        ["line 3", "seeds.0.pth"],
        ["line 4", "seeds.1"],
        ["line 5", "bugdet"],
        ["line 8", "tasks.0.evaluater"],
        ["line 9", "tasks.0.dta"],
        ["line 10", "tasks.0.weight"],
        ["line 11", "tasks.1.name"],
        ["line 12", "tasks.1.evaluator"],
        ["line 13", "tasks.1.tolerance"],
        ["line 14", "tasks.2.name"],
        ["line 15", "tasks.2.data"],
        ["line 18", "strategy.aplha"],
        ["line 19", "strategy.archive"],
        ["line 20", "model.knd"],
        ["line 20", "model.device"],
        ["line 21", "in_flight"],
        ["line 23", "chromosomes.a.0"],
    ]


def test_each_mistake_is_a_line_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(MANY)
    code, out, error = run_cli(["evolve", str(tmp_path / "run.yaml")])
    assert (code, out) == (1, "")
    assert len(error.splitlines()) == 17
    assert all(line.startswith("genepool: ") for line in error.splitlines())


def test_so_many_mistakes_are_enough(tmp_path: Path) -> None:
    seeds = "\n".join(f"  - {{path: a, dtype: Q{number}}}" for number in range(30))
    lines = refused(tmp_path, f"pool: p\nseeds:\n{seeds}\n{FINE['tasks']}\n")
    assert len(lines) == 21
    assert lines[-1].endswith(": and 10 more")


def test_a_mapping_has_its_mistakes_told_likewise(tmp_path: Path) -> None:
    config = yaml.safe_load(MANY)
    with pytest.raises(ConfigError) as caught:
        load_run(config, tmp_path)
    lines = str(caught.value).split("\n")
    assert len(lines) == 17
    assert "run: tasks.0.evaluater: unknown key; did you mean 'evaluator'?" in lines


def test_merge_keys_and_aliases_are_read(tmp_path: Path) -> None:
    task = "{name: a, evaluator: classifier, data: digits}"
    text = f"pool: p\nseeds: [a, b]\ntasks: [&one {task}, {{<<: *one, name: b, held_out: 0.5}}]\n"
    (tmp_path / "run.yaml").write_text("\ufeff" + text)
    tasks = load_run(tmp_path / "run.yaml").tasks
    assert [task.settings.name for task in tasks] == ["a", "b"]
    assert [task.options.model_dump()["data"] for task in tasks] == ["digits", "digits"]


def test_a_word_stands_for_the_chromosomes_of_the_paper(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("\n".join([*FINE.values(), "chromosomes: attention"]))
    config = load_run(tmp_path / "run.yaml").config
    assert config.chromosomes == PRESETS["attention"]
    assert RunConfig.model_validate(config.model_dump()).chromosomes == config.chromosomes


@pytest.mark.parametrize("name", ["m2n2", "ga", "cma-es"])
def test_the_name_of_a_strategy_stands_for_its_defaults(tmp_path: Path, name: str) -> None:
    short = load_run(write_run(tmp_path, strategy=name))
    assert short.strategy == load_run(write_run(tmp_path, strategy={"name": name})).strategy
    assert resolve(short.given).strategy == short.strategy
    with pytest.raises(ConfigError, match=r"line .*: strategy.name: .*did you mean 'm2n2'"):
        load_run(write_run(tmp_path, strategy="m2m2"))
