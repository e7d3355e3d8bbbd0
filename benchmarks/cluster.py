"""How busy 1 to 64 workers of a real Ray cluster are, and what a child costs the driver.

The cluster is on this machine. Its workers open the run and answer as anywhere, by messages through
Ray; what they do not do is compute: a child's score takes as long as a recorded child's did,
asleep, and up to 16 workers are threads of one actor, so that a few cores carry them all (64
processes of 100 MB would fit, but take minutes of the processor to start). For each number of
workers:

- the share of the workers' time in which they score, beginning and end left out; beside it what
  `order.py` simulates for the very same children if nobody helps with the slow ones, and the same
  where really nobody does (--alone);
- seconds of the processor that the driver takes for a child, and bytes of questions and answers,
  as they are sent, for a question and a child.

    python benchmarks/cluster.py --pool DIR --json FILE

Times are those of the children of --pool, scaled so that their mean is --seconds; without it they
are those of order.py's digits with early stop. `--smoke` is a tiny run for CI.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parent))
from order import asked, digits, efficiency, recorded

from genepool.errors import GenepoolError
from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from genepool.run.progress import Silence, StepReport

EXAMPLES, BATCH, SIZE = 200, 10, 4096
SHARED = 16
# A function that sleeps, and writes down when and for which model.
FUNCTION = """
import json, os, time
from pathlib import Path
import zlib

HERE = Path(__file__).parent
SECONDS = json.loads((HERE / "seconds.json").read_text())
# Each line at once, whichever thread writes it.
LOG = (HERE / f"log-{os.getpid()}").open("a", buffering=1)
examples = list(range(%d))


def score(model, examples):
    known = zlib.crc32(model["a.weight"].tobytes())
    begin = time.monotonic()
    time.sleep(SECONDS[known %% len(SECONDS)] * len(examples) / %d)
    LOG.write(f"{known} {examples[0]} {begin} {time.monotonic()}\\n")
    return [float((known ^ zlib.crc32(bytes([e]))) %% 100 < 60) for e in examples]
"""


class Clock(Silence):
    """When each child was absorbed, and what the processor had done for this process by then."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float]] = []

    def step(self, report: StepReport) -> None:
        """Note both."""
        self.steps.append((time.monotonic(), time.process_time()))


class Counted:
    """Bytes of questions and answers as the executor sends them."""

    def __init__(self) -> None:
        self.questions: list[int] = []
        self.answers: list[int] = []

    def note(self, message: bytes, reply: bytes) -> None:
        """One question, uncompressed."""
        self.questions.append(len(zlib.compress(message, 1)))
        self.answers.append(len(zlib.compress(reply, 1)))


def sharing(counted: Counted, module: Any) -> type[Any]:
    """The executor, whose workers are threads of a few actors."""
    worker_class = module._actor_class()

    class Host:
        def __init__(self) -> None:
            self._workers: dict[int, Any] = {}
            # Importing is not meant to be done by several threads at once.
            self._opening = threading.Lock()

        def open(self, number: int, place: str, assignment: Any) -> str:
            with self._opening:
                self._workers[number] = worker_class()
                return self._workers[number].open(place, assignment)

        def ask(self, number: int, message: bytes) -> bytes:
            return self._workers[number].ask(message)

    @dataclass
    class Slot:
        host: Any
        number: int
        place: str

        def ask(self, message: bytes) -> bytes:
            call = self.host.ask.remote(self.number, zlib.compress(message, 1))
            reply = zlib.decompress(module.ray.get(call))
            counted.note(message, reply)
            return reply

    class Sharing(module.RayExecutor):
        hosts: ClassVar[list[Any]] = []

        def _open(self, number: int) -> Slot:
            with self._ready:
                while len(self.hosts) <= number // SHARED:
                    made = module.ray.remote(Host).options(num_cpus=0, max_concurrency=SHARED + 1)
                    self.hosts.append(made.remote())
                host = self.hosts[number // SHARED]
            place = f"worker {number}"
            refused = module.ray.get(host.open.remote(number, place, self._assignment))
            if refused:
                raise GenepoolError(refused)
            with self._ready:
                self._placed.add(number)
                self._nowhere_since = None
            return Slot(host, number, place)

        def close(self) -> None:
            for host in self.hosts:
                module.ray.kill(host)
            self.hosts.clear()
            super().close()

    return Sharing


def prepare(folder: Path, seconds: NDArray[np.float64]) -> None:
    """Seeds, and a function; seconds are those of children that are asked everything."""
    folder.mkdir()
    draws = np.random.default_rng(0)
    for name in ("one", "two", "three"):
        weights = draws.standard_normal((SIZE // 8, 8)).astype(np.float32)
        save_file({"a.weight": weights}, folder / f"{name}.safetensors")
    (folder / "sleeping.py").write_text(FUNCTION % (EXAMPLES, EXAMPLES))
    (folder / "seconds.json").write_text(json.dumps(seconds.tolist()))


def run(folder: Path, address: str, workers: int, children: int, *, alone: bool) -> dict[str, Any]:
    """One run with so many workers, of what `prepare` has left; alone: nobody helps."""
    from genepool.run.executors import jobs
    from genepool.run.executors import ray as module

    clock, counted = Clock(), Counted()
    task = {"name": "asleep", "evaluator": "function", "function": "sleeping:score"}
    settings = {
        "pool": f"pool-{workers}-{alone}",
        "seeds": [f"{name}.safetensors" for name in ("one", "two", "three")],
        "tasks": [{**task, "batch": BATCH}],
        "budget": children,
        "executor": "ray",
        "workers": workers,
        "in_flight": "auto",
        "ray": {"address": address, "wait": 900},
    }
    (folder / "run.yaml").write_text(json.dumps(settings))
    before = set(folder.glob("log-*"))
    helped, executor, began = jobs._HELPED, module.RayExecutor, time.monotonic()
    jobs._HELPED = (1e9, 1e9) if alone else helped
    module.RayExecutor = sharing(counted, module)
    try:
        evolve(folder / "run.yaml", progress=clock)
    finally:
        jobs._HELPED, module.RayExecutor = helped, executor
    wall = time.monotonic() - began
    with Pool(folder / settings["pool"]) as pool:
        records = [record for record in pool.records() if record.id >= 3]
        in_flight = int(pool.meta()["pins"]["in_flight"])
    # As `efficiency` has it: from the first that was absorbed after all had begun.
    shares, end = _shares(set(folder.glob("log-*")) - before), len(records) - in_flight
    (start, cpu), (stop, later) = clock.steps[in_flight - 1], clock.steps[end - 1]
    busy = sum(
        max(0.0, min(end, stop) - max(begin, start))
        for parts in shares.values()
        for begin, end in parts.values()
    )
    # Jobs begin in the order of proposal; the seeds are the first.
    ordered = sorted(shares.values(), key=lambda parts: min(parts.values()))[3:]
    takes = np.array([sum(end - begin for begin, end in each.values()) for each in ordered])
    absorbed, scored = end - in_flight, len(records) + 3
    sent, received = sum(counted.questions), sum(counted.answers)
    return {
        "workers": workers,
        "alone": alone,
        "in_flight": in_flight,
        "children": len(records),
        "mean_seconds_of_a_child": round(float(takes.mean()), 2),
        "longest_over_mean": round(float(takes.max() / takes.mean()), 1),
        "window_seconds": round(stop - start, 1),
        "seconds_before_the_window": round(start - began, 1),
        "wall_seconds": round(wall, 1),
        "busy": round(busy / (workers * (stop - start)), 3),
        "busy_simulated_alone": round(efficiency(takes, workers, in_flight), 3),
        "children_per_second": round(absorbed / (stop - start), 2),
        "driver_processor_ms_per_child": round(1000 * (later - cpu) / absorbed, 2),
        "questions_per_child": round(len(counted.questions) / scored, 1),
        "bytes_per_question": round(sent / len(counted.questions)),
        "bytes_per_answer": round(received / len(counted.answers)),
        "bytes_per_child": round((sent + received) / scored),
    }


Parts = dict[int, tuple[float, float]]


def _shares(logs: set[Path]) -> dict[int, Parts]:
    """Child -> first example of a part -> when it was scored first."""
    shares: dict[int, Parts] = defaultdict(dict)
    for log in logs:
        for known, part, begin, end in map(str.split, log.read_text().splitlines()):
            span = float(begin), float(end)
            parts = shares[int(known)]
            parts[int(part)] = min(span, parts.get(int(part), span))
    return shares


def main() -> None:
    """Run, print a line for each number of workers, and write them as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", type=Path, help="a recorded pool")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--alone", type=int, nargs="*", default=[64], help="workers nobody helps")
    parser.add_argument("--seconds", type=float, default=8.0, help="mean of a child asked all")
    parser.add_argument("--children", type=int, default=10, help="of each worker")
    parser.add_argument("--json", type=Path, help="file to add the result to")
    parser.add_argument("--smoke", action="store_true", help="a tiny run")
    args = parser.parse_args()
    if args.smoke:
        args.workers, args.alone, args.seconds, args.children = [2], [], 0.05, 10
    try:
        from ray.cluster_utils import Cluster
    except ImportError:
        print("the package ray is not installed; nothing is measured")
        return
    # Else whatever runs on this machine comes before the workers.
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"})
    sources = str(Path(__file__).parents[1] / "src")
    os.environ["PYTHONPATH"] = os.pathsep.join([sources, os.environ.get("PYTHONPATH", "")])
    earlier = json.loads(args.json.read_text()) if args.json and args.json.is_file() else []
    named = [Path(word).name if Path(word).is_dir() else word for word in sys.argv]
    out: dict[str, Any] = {"command": " ".join(["python", *named]), "runs": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.pool is not None:
            seconds = recorded(args.pool)
        else:
            settings = {"budget": 20 if args.smoke else 500, "seed": 0, "in_flight": 1}
            seconds = asked(digits(folder / "digits", from_scratch=False, **settings))
        out["times"] = "digits, early stop" if args.pool is None else args.pool.name
        seconds *= args.seconds / seconds.mean()
        # Ray starts an idle process for each CPU that a node says it has.
        node = {"num_cpus": 2, "include_dashboard": False}
        cluster = Cluster(
            initialize_head=True, head_node_args={**node, "object_store_memory": 100_000_000}
        )
        try:
            prepare(folder / "runs", seconds)
            every = [(workers, False) for workers in args.workers]
            for workers, alone in [*every, *((workers, True) for workers in args.alone)]:
                children = (args.children + 2) * workers
                found = run(folder / "runs", cluster.address, workers, children, alone=alone)
                out["runs"].append(found)
                print(json.dumps(found), flush=True)
                if args.json:
                    args.json.write_text(json.dumps([*earlier, out], indent=1) + "\n")
        finally:
            cluster.shutdown()


if __name__ == "__main__":
    main()
