"""Errors in users' code name its file and line; GENEPOOL_DEBUG=1 shows the traceback."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from genepool.errors import ConfigError, EvaluationError
from genepool.models.user_code import load_function
from genepool.tasks.task import open_task
from tests.cli import run_cli
from tests.runs import write_run

BODIES = {
    "its own line": ("    x = 1\n    raise ValueError('no')\n", 3),
    "in a package": ("    import numpy\n\n    return numpy.zeros((2, -1))\n", 4),
    "deeper": ("    return [inner() for _ in examples]\ndef inner():\n    return {}['a']\n", 4),
    "in the standard library": ("    import json\n    return json.loads('{')\n", 3),
}


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "gp_blame", raising=False)


def write(directory: Path, text: str) -> Path:
    (directory / "e.jsonl").write_text('{"id": 1}\n{"id": 2}\n')
    (directory / "gp_blame.py").write_text(text)
    return directory / "gp_blame.py"


@pytest.mark.parametrize("case", BODIES)
def test_the_line_of_a_function(tmp_path: Path, case: str) -> None:
    body, line = BODIES[case]
    file = write(tmp_path, f"def score(tensors, examples):\n{body}")
    task = open_task("function", {"function": "gp_blame:score", "examples": "e.jsonl"}, tmp_path)
    with pytest.raises(EvaluationError) as caught:
        task.score({}, np.arange(2))
    assert str(caught.value).endswith(f"(in {file}, line {line})")
    assert len(str(caught.value).splitlines()) == 1


def test_arguments_that_do_not_fit(tmp_path: Path) -> None:
    file = write(tmp_path, "\n\ndef score(tensors):\n    return [1]\n")
    task = open_task("function", {"function": "gp_blame:score", "examples": "e.jsonl"}, tmp_path)
    with pytest.raises(EvaluationError, match="takes 1 positional argument") as caught:
        task.score({}, np.arange(2))
    hint = "(it is called as function(model, examples))"
    assert str(caught.value).endswith(f"(in {file}, line 3) {hint}")


@pytest.mark.parametrize(
    ("text", "line"), [("x = 1\ny = x +\n", 2), ("x = 1\n\nimport gp_nowhere\n", 3)]
)
def test_the_line_of_an_import(tmp_path: Path, text: str, line: int) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_function("gp_blame:score", tmp_path)
    assert str(caught.value).endswith(f"(in {file}, line {line})")


@pytest.mark.parametrize("debug", ["", "1"])
def test_the_traceback_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, debug: str
) -> None:
    file = write(tmp_path, "def score(tensors, examples):\n    raise ValueError('no')\n")
    task = {"name": "t", "evaluator": "function", "function": "gp_blame:score"}
    run = write_run(tmp_path, tasks=[{**task, "examples": "e.jsonl"}])
    monkeypatch.setenv("GENEPOOL_DEBUG", debug)
    code, _, error = run_cli(["evolve", str(run)])
    assert code == 1
    assert f"ValueError: no (in {file}, line 2)" in error.splitlines()[-1]
    assert ("Traceback (most recent call last)" in error) == bool(debug)
    assert (f'File "{file}", line 2, in score' in error) == bool(debug)
