"""Settings that are made in Python: what is wrong with them is told in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from genepool.checkpoints.seed_options import SeedOptions
from genepool.errors import ConfigError, InputError
from genepool.strategies.ga import GA
from genepool.strategies.m2n2 import M2N2
from genepool.strategies.map_elites import MapElites, Measure
from genepool.tasks.task import open_task


@pytest.mark.parametrize(
    ("kind", "given", "told"),
    [
        (M2N2, {"archve": 1}, "option 'archve': unknown key; did you mean 'archive'?"),
        (GA, {"archive": 1}, "option 'archive': input should be greater than or equal to 2; got 1"),
        (MapElites, {}, "option 'measures': this is required and was not given"),
        (MapElites, {"measure": []}, "option 'measure': unknown key; did you mean 'measures'?"),
        (
            MapElites,
            {"measures": [{"tsk": "a"}]},
            "option 'measures.0.tsk': unknown key; did you mean 'task'?",
        ),
        (
            M2N2,
            {"archve": 1, "alpha": "2", "alpah": 2},
            "option 'alpha': input should be a valid number; got '2'; option 'archve': unknown "
            "key; did you mean 'archive'? option 'alpah': unknown key; did you mean 'alpha'?",
        ),
        (
            SeedOptions,
            {"pth": "a", "dtype": 1, "x": 2},
            "option 'dtype': input should be 'BF16', 'F16' or 'F32'; got 1; option 'pth': unknown "
            "key; did you mean 'path'? option 'x': unknown key; known here: path, name, base, "
            "rename, dtype, variant, licence",
        ),
        (Measure, {"task": 3}, "option 'task': input should be a valid string; got 3"),
        (
            SeedOptions,
            {"path": "a", "dtype": "Q4"},
            "option 'dtype': input should be 'BF16', 'F16' or 'F32'; got 'Q4'",
        ),
    ],
)
def test_what_is_wrong_is_told_in_a_line(kind: Any, given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as caught:
        kind(**given)
    assert str(caught.value) == f"{kind.__name__}: {told}"
    # Of a run file every mistake is told.
    with pytest.raises(ValidationError):
        kind.model_validate(given)


def test_options_of_a_task_are_told_together(tmp_path: Path) -> None:
    options = {"functoin": "a:b", "examples": "x.jsonl", "held_out": "much"}
    with pytest.raises(ConfigError) as caught:
        open_task("function", options, tmp_path)
    assert str(caught.value) == (
        "evaluator 'function': option 'held_out': input should be a valid number; got 'much'; "
        "option 'functoin': unknown key; did you mean 'function'?"
    )
    with pytest.raises(ConfigError, match=r"; and \d+ more$"):
        open_task("function", {f"key{number}": 0 for number in range(28)}, tmp_path)


def test_settings_are_given_by_name() -> None:
    kind: Any = Measure
    with pytest.raises(InputError, match=r"Measure: expected .* by name \(task, labels\); got 'a'"):
        kind("a")
