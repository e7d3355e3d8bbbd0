"""A device for each worker process: the same archive, or a line before the run begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genepool.errors import ConfigError, GenepoolError
from genepool.run.evolve import evolve
from genepool.run.executors.devices import on_device, worker_devices
from genepool.run.run_file import load_run, resolve
from tests.runs import contents, write_run

PROCESS: dict[str, Any] = {"executor": "process"}


@pytest.mark.slow
def test_workers_on_devices_give_the_archive_of_serial(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"budget": 30, "in_flight": 4}
    evolve(write_run(tmp_path / "serial", **changes))
    evolve(write_run(tmp_path / "devices", **changes, **PROCESS, devices=["cpu", "cpu"]))
    assert contents(tmp_path / "devices/pool") == contents(tmp_path / "serial/pool")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ()),
        ({"devices": "auto"}, ("cpu",)),
        ({"devices": ["cpu", "cpu"]}, ("cpu", "cpu")),
        ({"devices": ["cpu"], "workers": 3}, ("cpu", "cpu", "cpu")),
    ],
)
def test_who_has_what(tmp_path: Path, changes: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert worker_devices(load_run(write_run(tmp_path, **PROCESS, **changes))) == expected


def test_a_worker_opens_the_run_on_its_device(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, **PROCESS, model={"device": "cuda", "kind": "network"}))
    there = resolve(on_device(run.given, "cuda:1")).config.model
    assert (there.device, there.kind) == ("cuda:1", "network")
    assert run.config.model.device == "cuda"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"devices": ["cpu", "cuda:0"]},
            "devices: 'cuda:0' is another kind of device than 'model.device' says ('cpu')",
        ),
        (
            {"devices": ["cuda:99"], "model": {"device": "cuda"}},
            "devices: 'cuda:99' is not there; this machine has",
        ),
        ({"devices": ["cpu:1"]}, "devices: 'cpu:1' is not there; this machine has cpu"),
        ({"devices": "auto", "model": {"device": "tpu"}}, "this machine has no tpu device"),
        ({"devices": ["cpu"], "executor": "serial"}, "only the executor 'process' shares"),
        ({"devices": []}, "devices: "),
    ],
)
def test_a_device_that_cannot_be_had_ends_the_run_before_it_begins(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    if "model" in changes:
        pytest.importorskip("torch")
    with pytest.raises(GenepoolError) as caught:
        evolve(write_run(tmp_path, **{**PROCESS, **changes}))
    assert isinstance(caught.value, ConfigError)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pool").exists()
