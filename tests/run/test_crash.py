"""Killed at any moment, a run resumes and ends exactly as if it had not been."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from genepool.run.progress import Silence, StepReport
from tests.runs import contents, slow_run, write_run

# 50 by hand (GENEPOOL_CRASHES=50), 3 where every minute counts.
CRASHES = int(os.environ.get("GENEPOOL_CRASHES", "3"))
_EVOLVE = "import sys; from genepool.run.evolve import evolve; evolve(sys.argv[1])"


def _start(file: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _EVOLVE, str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def evaluations(pool: Path) -> int:
    try:
        with Pool(pool) as opened:
            return opened.evaluations
    except Exception:
        return -1


def wait_for(process: subprocess.Popen[Any], pool: Path, target: int) -> None:
    """Wait for so many children, or the end; looking more often would slow it down."""
    while process.poll() is None and evaluations(pool) < target:
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"budget": 150},
        {
            "budget": 150,
            "in_flight": 3,
            "strategy": {"name": "m2n2", "archive": 5, "mutation": 0.1},
        },
        {
            "budget": 150,
            "strategy": {"name": "m2n2", "archive": 5, "share": 0.3, "renew": 9, "mutation": 0.1},
        },
    ],
    ids=["recipes", "vectors, three in flight", "rounds"],
)
def test_killed_at_random_moments(tmp_path: Path, changes: dict[str, Any]) -> None:
    evolve(slow_run(tmp_path / "whole", **changes))
    file = slow_run(tmp_path / "killed", **changes)
    pool = tmp_path / "killed/pool"
    moments = random.Random(CRASHES)
    targets = sorted(moments.randrange(-1, 150) for _ in range(CRASHES))
    killed = 0
    for target in targets:
        process = _start(file)
        wait_for(process, pool, target)
        time.sleep(moments.random() * 0.02)
        if process.poll() is None:
            killed += 1
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert killed >= CRASHES // 2
    evolve(file)
    assert contents(pool) == contents(tmp_path / "whole/pool")


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_clearly_and_loses_nothing(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"budget": 80, "in_flight": 2}
    evolve(slow_run(tmp_path / "whole", **changes))
    file = slow_run(tmp_path / "killed", **changes, executor="process", workers=2)
    pool = tmp_path / "killed/pool"
    process = subprocess.Popen(
        [sys.executable, "-m", "genepool", "evolve", str(file)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    wait_for(process, pool, 20)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    _, text = process.communicate(timeout=240)
    assert process.returncode == 1
    last = text.strip().splitlines()[-1]
    assert "died (signal SIGKILL" in last
    assert "run the same command again" in last
    assert "Traceback" not in text
    assert 20 <= evaluations(pool) < 80
    evolve(file)
    assert contents(pool) == contents(tmp_path / "whole/pool")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, signal.SIGINT),
        (0.2, signal.SIGTERM),
        (None, signal.SIGINT),
    ],
)
def test_the_process_group_is_told_to_end(
    tmp_path: Path, seconds: float | None, told: signal.Signals
) -> None:
    """That reaches the workers too; they would die of it, before they could ignore it above all."""
    file = slow_run(tmp_path, budget=10_000, in_flight=2, executor="process", workers=2)
    process = subprocess.Popen(
        [sys.executable, "-m", "genepool", "evolve", str(file)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        # What runs in the background of a shell has been told to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    if seconds is None:
        wait_for(process, tmp_path / "pool", 10)
    while process.poll() is None and not _spawned(process.pid):
        time.sleep(0.01)
    time.sleep(seconds or 0)
    os.killpg(process.pid, told)
    _, text = process.communicate(timeout=240)
    assert process.returncode == 130, text
    assert "Traceback" not in text and "died" not in text


def _spawned(driver: int) -> bool:
    children = Path(f"/proc/{driver}/task/{driver}/children").read_text().split()
    lines = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
    return any(b"spawn_main" in line for line in lines)


@pytest.mark.slow
def test_ctrl_c_finishes_the_child_and_exits_130(tmp_path: Path) -> None:
    evolve(slow_run(tmp_path / "whole", budget=100))
    file = slow_run(tmp_path / "stopped", budget=100)
    pool = tmp_path / "stopped/pool"
    process = subprocess.Popen(
        [sys.executable, "-m", "genepool", "evolve", str(file)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    wait_for(process, pool, 10)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "Traceback" not in text
    assert 10 <= evaluations(pool) < 100
    evolve(file)
    assert contents(pool) == contents(tmp_path / "whole/pool")


# Seeds are scored at once, children once a file is there.
_WAITING = """
import os, time
from pathlib import Path
HERE = Path(__file__).parent
examples = list(range(10))
def score(model, given):
    while not (HERE / "free").exists():
        (HERE / f"waiting-{os.getpid()}").touch()
        time.sleep(0.01)
    return [float(example % 2) for example in given]
"""


@pytest.mark.slow
def test_ctrl_c_begins_no_child_of_those_in_flight(tmp_path: Path) -> None:
    class Interrupted(Silence):
        children = 0

        def stage(self, text: str) -> None:
            if text == "evolving":
                (tmp_path / "free").unlink()
                threading.Thread(target=self.interrupt, daemon=True).start()

        def interrupt(self) -> None:
            while len([*tmp_path.glob("waiting-*")]) < 2:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
            while signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
                time.sleep(0.01)
            (tmp_path / "free").touch()

        def step(self, report: StepReport) -> None:
            self.children = report.evaluations

    task = {"name": "a", "evaluator": "function", "function": "waiting_for_ctrl_c:score"}
    changes = {"tasks": [task], "in_flight": 20, "executor": "process", "workers": 2}
    file, seen = write_run(tmp_path, **changes, budget=30), Interrupted()
    (tmp_path / "waiting_for_ctrl_c.py").write_text(_WAITING)
    (tmp_path / "free").touch()
    with pytest.raises(KeyboardInterrupt):
        evolve(file, progress=seen)
    # The workers were at these; it was all 20.
    assert seen.children == 2
    assert evolve(file).status["evaluations"] == 30
