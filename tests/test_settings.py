"""Settings that are made in Python: what is wrong with them is told in one line."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from genepool.checkpoints.seed_options import SeedOptions
from genepool.errors import InputError
from genepool.strategies.ga import GA
from genepool.strategies.m2n2 import M2N2
from genepool.strategies.map_elites import MapElites, Measure


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


def test_settings_are_given_by_name() -> None:
    kind: Any = Measure
    with pytest.raises(InputError, match=r"Measure: expected .* by name \(task, labels\); got 'a'"):
        kind("a")
