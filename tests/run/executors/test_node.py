"""Workers on other machines: what lies there must be what the run has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from genepool.errors import GenepoolError
from genepool.run.executors.installation import own_modules
from genepool.run.executors.node import Assignment, Node
from genepool.run.inputs import open_inputs
from genepool.run.pins import pins_of
from genepool.run.run_file import load_run
from tests.runs import write_run


@pytest.mark.parametrize(
    ("here", "there", "said"),
    [
        ({"config.json": "1"}, {"config.json": "2"}, "another config.json lies there than in"),
        ({"config.json": "1"}, {}, "the run has config.json, which is not there; copy it over"),
        ({}, {"config.json": "1"}, "config.json lies there, and the run has none; take it away"),
        ({"config.json": "1"}, {"config.json": "1"}, None),
    ],
)
def test_other_files_beside_the_seeds_are_told_apart(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    here: dict[str, str],
    there: dict[str, str],
    said: str | None,
) -> None:
    """Whatever differed, another file was to be copied over."""
    run = load_run(write_run(tmp_path))
    pins = pins_of(open_inputs(run), tmp_path)
    pins = replace(pins, settings={**pins.settings, "companions": here})
    monkeypatch.setattr("genepool.run.pins.model_file_digests", lambda *_: there)
    assignment = Assignment(run.given, pins, own_modules(), 1, True)
    if said is None:
        assert Node("node 7", assignment).answer(b"meas") == b"fine[]"
        return
    with pytest.raises(GenepoolError, match=f"node 7: {said}"):
        Node("node 7", assignment)
