"""Functions of users that raise what nobody expects, fork, or outlive the run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli import run_cli
from tests.runs import contents, write_run

SLOW = pytest.mark.slow

RAISING = """
import asyncio, os
from pathlib import Path
from genepool import errors

examples = list(range(6))


class Mute(Exception):
    def __str__(self):
        raise ValueError("no text")


class Panic(BaseException):
    '''What libraries written in Rust raise.'''


class Dumb:
    def __repr__(self):
        raise Panic("no text either")


RAISE = {
    "mute": Mute(), "panic": Panic("index out of bounds"), "exit": SystemExit(3),
    "cancelled": asyncio.CancelledError(), "generator": StopIteration(7),
    "half": ValueError("half of \\ud800"), "lines": ValueError("one\\ntwo\\x1b[2J"),
    "own": errors.EvaluationError(Mute()), "memory": MemoryError(), "group": Mute(Mute()),
}


def score(model, given):
    what = Path(__file__).with_name("what").read_text()
    if what == "dumb":
        return [Dumb() for _ in given]
    raise RAISE[what]


def network():
    raise RAISE[Path(__file__).with_name("what").read_text()]


listed = network
"""

WORDS = {
    "mute": "Mute",
    "panic": "Panic: index out of bounds",
    "exit": "SystemExit: 3",
    "cancelled": "CancelledError",
    "generator": "StopIteration: 7",
    "half": "half of",
    "lines": "ValueError: one",
    "own": "text cannot be made",
    "memory": "MemoryError",
    "group": "Mute",
    "dumb": "Dumb, whose text cannot be made",
}


def prepared(folder: Path, what: str, **changes: Any) -> Path:
    task = {"name": "t", "evaluator": "function", "function": "raising:score"}
    file = write_run(folder, **{"tasks": [task], "budget": 6, **changes})
    (folder / "raising.py").write_text(RAISING)
    (folder / "what").write_text(what)
    return file


def fails(file: Path, word: str) -> None:
    sys.modules.pop("raising", None)
    try:
        code, _, error = run_cli(["evolve", str(file)])
    finally:
        sys.path[:] = [folder for folder in sys.path if folder != str(file.parent)]
        sys.modules.pop("raising", None)
    assert code == 1, error
    last = error.splitlines()[-1]
    assert "Traceback" not in error and "\x1b[2J" not in error
    assert last.startswith("genepool: ") and word in last, last


@pytest.mark.slow
@pytest.mark.parametrize("what", sorted(WORDS))
def test_whatever_a_function_raises_is_one_line(tmp_path: Path, what: str) -> None:
    fails(prepared(tmp_path, what), WORDS[what])


@pytest.mark.parametrize("what", ["mute", "panic", "cancelled", "exit"])
@pytest.mark.parametrize("where", ["network", "examples"])
def test_whatever_making_a_model_or_examples_raises(tmp_path: Path, what: str, where: str) -> None:
    changes: dict[str, Any] = {"model": {"network": "raising:network"}}
    if where == "examples":
        task = {"name": "t", "evaluator": "function", "function": "raising:score"}
        changes = {"tasks": [{**task, "examples": "raising:listed"}]}
    fails(prepared(tmp_path, what, **changes), WORDS[what])


@pytest.mark.parametrize("place", ["function", "examples", "network"])
def test_sys_exit_as_a_function(tmp_path: Path, place: str) -> None:
    task = {"name": "t", "evaluator": "function", "function": "raising:score"}
    changes: dict[str, Any] = {"tasks": [task]}
    if place == "network":
        changes["model"] = {"network": "sys:exit"}
    else:
        task[place] = "sys:exit"
        if place == "function":
            task["examples"] = "raising:examples"
    fails(prepared(tmp_path, "exit", **changes), "sys:exit")


@pytest.mark.parametrize(
    "what",
    [
        pytest.param("panic", marks=SLOW),
        pytest.param("mute", marks=SLOW),
        pytest.param("exit", marks=SLOW),
    ],
)
def test_workers_tell_it_in_one_line_too(tmp_path: Path, what: str) -> None:
    file = prepared(tmp_path, what, executor="process", workers=2)
    words = [sys.executable, "-m", "genepool", "evolve", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert WORDS[what] in done.stderr.splitlines()[-1]


FORKING = """
import os

examples = list(range(6))
children = []


def score(model, given):
    if not children:
        children.append(os.fork())
    total = float(sum(abs(array).sum() for array in model.values()))
    return [(total * (k + 1)) % 1.0 for k in range(len(given))]
"""


@SLOW
@pytest.mark.parametrize(
    ("executor", "code"),
    [
        ("serial", FORKING),
        ("process", FORKING),
        ("serial", FORKING.replace("if not children", "if True")),
    ],
    ids=["serial", "process", "every time"],
)
def test_a_function_that_forks_leaves_one_writer(tmp_path: Path, executor: str, code: str) -> None:
    task = {"name": "t", "evaluator": "function", "function": "forking:score"}
    found: list[Any] = []
    for name in ("plain", "forked"):
        changes = {"executor": executor, "workers": 1} if name == "forked" else {}
        file = write_run(tmp_path / name, tasks=[task], budget=8, **changes)
        text = code if name == "forked" else code.replace("os.fork()", "0")
        (tmp_path / name / "forking.py").write_text(text)
        words = [sys.executable, "-m", "genepool", "evolve", str(file)]
        done = subprocess.run(words, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        found.append(contents(file.parent / "pool"))
    assert found[0] == found[1]


SLEEPING = """
import os, time
from pathlib import Path

examples = [0, 1]


def score(model, given):
    Path(__file__).with_name(f"pid-{os.getpid()}").touch()
    WAIT
    return [0.5] * len(given)
"""


@pytest.mark.parametrize(
    "wait",
    [
        pytest.param("time.sleep(600)", marks=SLOW),
        pytest.param("[time.sleep(0.01) for _ in range(60000)]", marks=SLOW),
        pytest.param("while True: pass", marks=SLOW),
    ],
)
def test_workers_end_with_their_driver(tmp_path: Path, wait: str) -> None:
    task = {"name": "t", "evaluator": "function", "function": "sleeping:score"}
    settings = {"executor": "process", "workers": 2, "in_flight": 2}
    file = write_run(tmp_path, tasks=[task], budget=4, **settings)
    (tmp_path / "sleeping.py").write_text(SLEEPING.replace("WAIT", wait))
    words = [sys.executable, "-m", "genepool", "evolve", str(file)]
    driver = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _until(lambda: bool(list(tmp_path.glob("pid-*"))))
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    workers = [int(file.name.removeprefix("pid-")) for file in tmp_path.glob("pid-*")]
    _until(lambda: not any(_alive(pid) for pid in workers))


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _until(done: Any) -> None:
    end = time.monotonic() + 240
    while not done():
        assert time.monotonic() < end, "nothing happened for minutes"
        time.sleep(0.05)


@pytest.mark.parametrize("data", [{"id": "a\ud800"}, {"id": "x", "a\udfff": 1}])
@pytest.mark.parametrize("source", ["given.jsonl", "raising:half"])
def test_halves_of_characters_in_examples(
    tmp_path: Path, data: dict[str, Any], source: str
) -> None:
    task = {"name": "t", "evaluator": "function", "function": "raising:score", "examples": source}
    file = prepared(tmp_path, "panic", tasks=[task])
    (tmp_path / "given.jsonl").write_text(json.dumps(data) + "\n")
    with (tmp_path / "raising.py").open("a") as module:
        module.write(f"half = [{data!a}]\n")
    fails(file, "not text" if source == "given.jsonl" else "half of a character")


@pytest.mark.parametrize("name", ["readme.txt", "x", "folder/x"])
def test_an_npz_with_a_member_that_is_no_array(tmp_path: Path, name: str) -> None:
    file = write_run(tmp_path, budget=5)
    arrays = dict(np.load(tmp_path / "data.npz"))
    if name == "x":
        del arrays["x"]
    np.savez(tmp_path / "data.npz", **arrays)
    with zipfile.ZipFile(tmp_path / "data.npz", "a") as archive:
        archive.writestr(name, "no array")
    fails(file, f"'{name}' in it is no array")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_workers_of_a_comparison_end_with_it(tmp_path: Path, number: int) -> None:
    task = {"name": "t", "evaluator": "function", "function": "sleeping:score"}
    file = write_run(tmp_path, tasks=[task], budget=4)
    (tmp_path / "sleeping.py").write_text(SLEEPING.replace("WAIT", "time.sleep(600)"))
    words = [sys.executable, "-m", "genepool", "compare", str(file), "--strategies", "ga,m2n2"]
    driver = subprocess.Popen(
        [*words, "--runs", "2", "-o", str(tmp_path / "out")],
        # Whoever runs the tests by nohup ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _until(lambda: bool(list(tmp_path.glob("pid-*"))))
        driver.send_signal(number)
        driver.wait(timeout=240)
    finally:
        driver.kill()
        driver.wait()
    workers = [int(file.name.removeprefix("pid-")) for file in tmp_path.glob("pid-*")]
    _until(lambda: not any(_alive(pid) for pid in workers))
