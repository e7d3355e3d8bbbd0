"""A real Ray cluster of two nodes on this machine: the results are those of `serial`, or an error.

Workers and a node are killed in the middle of runs; what a worker finds where it is differs from
the run by its environment variables.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from genepool.checkpoints.files.cache import cache_directory
from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.core.early_stop.evaluation_plan import FullPlan
from genepool.core.genome import Recipe
from genepool.errors import ConfigError
from genepool.run.evolve import evolve
from genepool.run.inputs import open_inputs
from genepool.run.pins import pins_of
from genepool.run.run_file import Run, load_run
from genepool.testing import check_executor
from tests.checkpoints.test_by_url import Server
from tests.cli import run_cli
from tests.run.test_crash import evaluations
from tests.runs import contents, slow_run, write_run

SOURCES = Path(__file__).parents[3] / "src"
LARGEST = 64_000  # bytes of a job and its answer


class Cluster:
    """Two nodes; the second one may go, and another one come."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as RayCluster

        self._store = {"object_store_memory": 80_000_000}
        self._cluster: Any = RayCluster(
            initialize_head=True,
            head_node_args={"num_cpus": 2, "include_dashboard": False, **self._store},
        )
        self.address: str = self._cluster.address
        self.second: Any = None
        self.add()

    def add(self) -> None:
        self.second = self._cluster.add_node(num_cpus=2, resources={"second": 2.0}, **self._store)

    def on_second(self) -> list[int]:
        """The workers there: their parent is that node's raylet."""
        raylet: int = self.second.all_processes["raylet"][0].process.pid
        return [worker for worker in workers() if parent(worker) == raylet]

    def spared(self) -> list[int]:
        """The workers but one on the second node. On a busy machine a run is over before a new one
        comes there."""
        kept = self.on_second()[:1]
        return [worker for worker in workers() if kept and worker not in kept]

    def remove(self) -> None:
        self._cluster.remove_node(self.second, allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Generator[Cluster, None, None]:
    pytest.importorskip("ray", exc_type=ImportError)
    if sys.platform != "linux":
        pytest.skip("several nodes on one machine, which are looked into in /proc")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # What nodes start with, workers have.
    paths = os.pathsep.join([str(SOURCES), os.environ.get("PYTHONPATH", "")])
    before, os.environ["PYTHONPATH"] = os.environ.get("PYTHONPATH"), paths
    made = Cluster()
    try:
        yield made
    finally:
        made.close()
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def ray_run(directory: Path, cluster: Cluster, *, ray: Any = None, **changes: Any) -> Path:
    # Where much else runs, a worker takes its time to start.
    options = {"address": cluster.address, "wait": 240, **(ray or {})}
    settings = {"executor": "ray", "workers": 2, "in_flight": 3, "ray": options, **changes}
    file = slow_run(directory, **{key: settings[key] for key in settings if key != "tasks"})
    if "tasks" in changes:
        file = write_run(directory, **settings)
    return file


_STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def ended() -> Generator[None, None, None]:
    """Runs of a test that has failed are over before the next one begins."""
    yield
    while _STARTED:
        process = _STARTED.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


def start(file: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "genepool", "evolve", str(file), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _STARTED.append(process)
    return process


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and errors; standard output holds the result and nothing else."""
    out, errors = process.communicate(timeout=240)
    if process.returncode == 0:
        json.loads(out)
    assert "Traceback" not in errors
    return process.returncode, errors


def run_serial(directory: Path, **changes: Any) -> list[dict[str, Any]]:
    file = slow_run(directory, **{"in_flight": 3, **changes, "executor": "serial"})
    evolve(file)
    return contents(directory / "pool")


def workers() -> list[int]:
    """Processes of our actors, on all nodes; Ray writes on them what they are."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(b"ray::Worker"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def parent(process: int) -> int | None:
    """The parent of a process, None if it is gone. What stands in brackets is any text."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[1])


def until(happened: Callable[[], object], seconds: float = 240) -> bool:
    end = time.monotonic() + seconds
    while not happened() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(happened())


@pytest.fixture
def by_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[tuple[Server, dict[str, Any]], None, None]:
    """A server of seeds, and the settings of a run from them; copies go into a cache of the test,
    in which nothing has to be compiled again."""
    pytest.importorskip("aiohttp")
    cache, usual = tmp_path / "cache", cache_directory() / "compiled"
    cache.mkdir()
    usual.mkdir(parents=True, exist_ok=True)
    (cache / "compiled").symlink_to(usual)
    monkeypatch.setenv("GENEPOOL_CACHE", str(cache))
    write_run(tmp_path / "served")
    server = Server(tmp_path / "served")
    seeds = [f"{server.url}/seed{number}.safetensors" for number in (1, 2)]
    try:
        environment = {"env_vars": {"GENEPOOL_CACHE": str(cache)}}
        yield server, {"seeds": seeds, "ray": {"environment": environment}}
    finally:
        server.close()


@pytest.mark.slow
def test_the_contract(tmp_path: Path, cluster: Cluster) -> None:
    from ray import is_initialized

    from genepool.run.executors.ray import RayExecutor

    def make(run: Run) -> RayExecutor:
        ray = {"address": cluster.address, "wait": 240}
        data = {**run.given.data, "executor": "ray", "workers": 2, "ray": ray}
        inputs = open_inputs(load_run(data, tmp_path))
        return RayExecutor(inputs, pins_of(inputs, tmp_path))

    check_executor(make, tmp_path)
    assert until(lambda: not workers())
    # No thread that was late has joined a cluster of its own accord.
    time.sleep(1)
    assert not is_initialized()


@pytest.mark.slow
def test_killed_workers_and_a_lost_node_change_nothing(
    tmp_path: Path, cluster: Cluster, by_url: tuple[Server, dict[str, Any]]
) -> None:
    """With seeds by URL: driver and workers, old and new, have the one copy of this machine."""
    changes: dict[str, Any] = {"budget": 150}
    expected = run_serial(tmp_path / "whole", **changes)
    server, settings = by_url
    file = ray_run(tmp_path / "ray", cluster, workers=3, **changes, **settings)
    pool = file.parent / "pool"
    process = start(file)
    assert until(lambda: evaluations(pool) >= 20 and len(workers()) == 3)
    for target in (20, 45):
        until(lambda target=target: evaluations(pool) >= target)
        assert until(cluster.spared)
        os.kill(cluster.spared()[0], signal.SIGKILL)
    until(lambda: evaluations(pool) >= 70)
    assert cluster.on_second()
    cluster.remove()
    try:
        code, errors = finish(process)
    finally:
        cluster.add()
    assert code == 0, errors
    # Others may have answered all that the lost node was asked before its loss is noticed.
    assert errors.count("was lost") >= 2
    assert contents(pool) == expected
    assert until(lambda: not workers())
    assert len(server.fetched) == 2
    assert set(server.fetched.values()) == {1}


@pytest.mark.slow
def test_ctrl_c_and_a_crash_lose_nothing_and_leave_no_worker(
    tmp_path: Path, cluster: Cluster
) -> None:
    changes: dict[str, Any] = {"budget": 60}
    expected = run_serial(tmp_path / "whole", **changes)
    file = ray_run(tmp_path / "ray", cluster, **changes)
    pool = file.parent / "pool"
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        process, before = start(file), evaluations(pool)
        assert until(lambda before=before: evaluations(pool) >= max(before, 0) + 8)
        process.send_signal(number)
        assert finish(process)[0] == code
        assert until(lambda: not workers())
    assert 16 <= evaluations(pool) < 60
    # Resumed by another executor, it is the same run.
    evolve(slow_run(file.parent, **changes, in_flight=3, executor="serial"))
    assert contents(pool) == expected


@pytest.mark.slow
def test_a_model_that_kills_its_workers(tmp_path: Path, cluster: Cluster) -> None:
    file = ray_run(tmp_path, cluster, budget=5)
    (module,) = tmp_path.glob("slow_*.py")
    module.write_text(
        "import os, sys\ndef score(model, examples):\n    os.kill(os.getpid(), 9)\n" + "#" * 9
    )
    code, errors = finish(start(file))
    last = errors.strip().splitlines()[-1]
    assert code == 1
    assert "3 workers were lost one after another" in last
    assert "run the same command again" in last


def home(directory: Path) -> Path:
    """A home directory with the two seeds."""
    write_run(directory)
    return directory


@pytest.mark.slow
def test_other_seeds_where_a_worker_is(tmp_path: Path, cluster: Cluster) -> None:
    mine, other = home(tmp_path / "mine"), home(tmp_path / "other")
    shutil.copy(other / "seed3.safetensors", other / "seed2.safetensors")
    file = ray_run(
        tmp_path / "run",
        cluster,
        seeds=["~/seed1.safetensors", {"path": "~/seed2.safetensors", "name": "two"}],
        ray={"environment": {"env_vars": {"HOME": str(other)}}, "custom": {"second": 1}},
        workers=1,
    )
    environment = {**os.environ, "HOME": str(mine)}
    process = subprocess.run(
        [sys.executable, "-m", "genepool", "evolve", str(file)],
        env=environment,
        capture_output=True,
        text=True,
    )
    last = process.stderr.strip().splitlines()[-1]
    assert process.returncode == 1
    for folder in (mine, other):
        assert open_checkpoint(folder / "seed2.safetensors").digest()[:12] in last
    assert "node " in last
    assert "seed 'two'" in last
    assert evaluations(file.parent / "pool") <= 0


MODULE = """
def score(model, examples):
    total = float(sum(abs(array).sum() for array in model.values()))
    return [((total * 1000 + 37 * example) % {}) / 10 for example in examples]
examples = list(range(20))
"""


@pytest.mark.slow
@pytest.mark.parametrize("there", ["none", "other", "sent"])
def test_a_function_that_is_another_where_a_worker_is(
    tmp_path: Path, cluster: Cluster, there: str
) -> None:
    task = {"name": "own", "evaluator": "function", "function": "own_scores:score"}
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    for folder, number in ((mine, 10), (theirs, 7 if there == "other" else 10)):
        folder.mkdir()
        if folder == mine or there != "none":
            (folder / "own_scores.py").write_text(MODULE.format(number))
    # Workers have another PYTHONPATH.
    there_path = os.pathsep.join([str(theirs), os.environ["PYTHONPATH"]])
    environment: dict[str, Any] = {"env_vars": {"PYTHONPATH": there_path}}
    if there == "sent":
        # A package, which Ray copies.
        task["function"] = "sent_scores:score"
        (mine / "sent_scores").mkdir()
        (mine / "sent_scores/__init__.py").write_text(MODULE.format(10))
        environment = {"py_modules": [str(mine / "sent_scores")]}
    file = ray_run(
        tmp_path / "run", cluster, tasks=[task], budget=10, ray={"environment": environment}
    )
    paths = os.pathsep.join([str(mine), os.environ["PYTHONPATH"]])
    process = subprocess.run(
        [sys.executable, "-m", "genepool", "evolve", str(file)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert process.returncode == (0 if there == "sent" else 1), process.stderr
    # A run that goes well may say nothing there.
    last = process.stderr.strip().rpartition("\n")[2]
    if there == "none":
        assert "node " in last and "there is no module 'own_scores'" in last
    if there == "other":
        assert "node " in last and "the module 'own_scores' there is not the run's" in last


@pytest.mark.slow
@pytest.mark.parametrize("what", ["absent", "other"])
def test_another_genepool_where_a_worker_is(tmp_path: Path, cluster: Cluster, what: str) -> None:
    folder = tmp_path / "sources"
    if what == "absent":
        folder.mkdir()
        (folder / "genepool.py").write_text("raise ImportError('No module named genepool')\n")
    else:
        shutil.copytree(SOURCES, folder, ignore=shutil.ignore_patterns("__pycache__"))
        with (folder / "genepool/core/slerp.py").open("a") as file:
            file.write("# changed\n")
    environment = {"env_vars": {"PYTHONPATH": str(folder)}}
    code, errors = finish(start(ray_run(tmp_path, cluster, ray={"environment": environment})))
    last = errors.strip().splitlines()[-1]
    assert code == 1
    assert "node " in last
    assert ("cannot be imported" if what == "absent" else "genepool 0.1.0 (sources") in last


@pytest.mark.slow
def test_nothing_that_fits(tmp_path: Path, cluster: Cluster) -> None:
    code, errors = finish(start(ray_run(tmp_path, cluster, ray={"gpus": 3, "wait": 1})))
    last = errors.strip().splitlines()[-1]
    assert code == 1
    assert "no node of the Ray cluster has what a worker needs, 1 CPU and 3 GPU" in last


@pytest.mark.slow
def test_a_seed_that_changes_where_a_worker_is(tmp_path: Path, cluster: Cluster) -> None:
    file = ray_run(tmp_path, cluster, budget=150)
    process = start(file)
    assert until(lambda: evaluations(tmp_path / "pool") >= 10)
    shutil.copy(tmp_path / "seed3.safetensors", tmp_path / "seed2.safetensors")
    code, errors = finish(process)
    assert code == 1
    assert "seed2.safetensors" in errors.strip().splitlines()[-1]


@pytest.mark.slow
def test_a_job_and_its_answer_are_kilobytes(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 10,000 examples, and recipes of 1,000 segments over four seeds."""
    from genepool.run.executors import ray as module

    sizes: list[int] = []
    ask = module._Actor.ask

    def counting(actor: Any, message: bytes) -> bytes:
        reply = ask(actor, message)
        if message[:4] == b"load":
            sizes.append(0)
        sizes[-1] += len(zlib.compress(message, 1)) + len(zlib.compress(reply, 1))
        return reply

    monkeypatch.setattr(module._Actor, "ask", counting)
    draws, size = np.random.default_rng(1), 4000
    names = [f"seed{number}.safetensors" for number in range(4)]
    for name in names:
        weights = draws.standard_normal((size // 8, 8)).astype(np.float32)
        save_file({"a.weight": weights}, tmp_path / name)
    (tmp_path / "binary.py").write_text(
        "def score(model, examples):\n"
        "    total = float(model['a.weight'].sum())\n"
        "    return [float(hash((total, example)) % 3 == 0) for example in examples]\n"
        "examples = list(range(10_000))\n"
    )
    task = {"name": "many", "evaluator": "function", "function": "binary:score"}
    data = {"pool": "pool", "seeds": names, "tasks": [task], "executor": "ray", "workers": 1}
    run = load_run({**data, "ray": {"address": cluster.address, "wait": 240}}, tmp_path)
    inputs = open_inputs(run)
    executor = module.RayExecutor(inputs, pins_of(inputs, tmp_path))
    bounds = np.r_[0, np.sort(draws.choice(np.arange(1, size), 999, replace=False)), size]
    genome = Recipe(bounds, draws.random((1000, 4)))
    try:
        executor.submit(1, genome, _Shuffled(10_000))
        found = executor.result(1)
    finally:
        executor.close()
    assert found.asked == 10_000
    print(f"{sizes[0]} bytes")
    assert sizes[0] <= LARGEST
    assert len(sizes) == 1


class _Shuffled(FullPlan):
    """Asks in the order of a draw, as an early stop does, in ten blocks."""

    def __init__(self, size: int) -> None:
        super().__init__(np.full(size, np.nan, dtype=np.float32))
        self._blocks = np.array_split(np.random.default_rng(2).permutation(size), 10)

    def next(self) -> Any:
        return self._blocks[0]

    def record(self, indices: Any, scores: Any) -> None:
        super().record(indices, scores)
        self._blocks.pop(0)


# No cluster is needed for what follows.


@pytest.mark.slow
def test_no_cluster(tmp_path: Path) -> None:
    pytest.importorskip("ray", exc_type=ImportError)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = write_run(tmp_path, executor="ray", ray={"address": f"127.0.0.1:{port}"})
    code, errors = finish(start(file))
    assert code == 1
    assert "cannot be reached" in errors.strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "head"])
def test_addresses_that_are_none(tmp_path: Path, address: str) -> None:
    pytest.importorskip("ray", exc_type=ImportError)
    with pytest.raises(ConfigError, match="expected 'auto' or HOST:PORT"):
        evolve(write_run(tmp_path, executor="ray", ray={"address": address}))


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "genepool.run.executors.ray", raising=False)
    code, _, errors = run_cli(["evolve", str(write_run(tmp_path, executor="ray"))])
    assert code == 1
    assert "the executor 'ray' needs the package 'ray'" in errors.strip().splitlines()[-1]
    assert "[ray]" in errors
