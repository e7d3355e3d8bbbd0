"""The Ray executor: workers on the nodes of a Ray cluster that is there already.

Each worker is an actor that belongs to this process, so that none outlives it. It opens the seeds
where it is, by the paths of the run file, and says how it differs from the run if it does. Workers
and nodes may be lost: another worker takes the place, and another one the job.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from genepool.errors import ConfigError, GenepoolError
from genepool.messages import at, cause, one_line, spoken
from genepool.run.executors.installation import installed, named_modules, own_modules, unlike
from genepool.run.executors.node import Assignment
from genepool.run.executors.remote import THREAD_VARIABLES, Lost, RemoteExecutor, Sample
from genepool.run.file.run_settings import RunConfig
from genepool.run.inputs import Inputs
from genepool.run.pins import Pins

# Its own types say little.
ray: Any = importlib.import_module("ray")

# A job that loses so many workers ends the run; so do so many that are lost as they open the run.
_LOSSES = 3
_POLL = 0.2
_CONNECT_SECONDS = 5.0
_AGAIN = "nothing recorded is lost: run the same command again to go on"


class RayExecutor(RemoteExecutor):
    """Scores on the nodes of a Ray cluster."""

    def __init__(
        self,
        inputs: Inputs,
        pins: Pins,
        asked: Callable[[int, int], None] | None = None,
        notice: Callable[[str], None] | None = None,
        *,
        as_exported: bool = True,
        sample: Sample | None = None,
        interrupted: threading.Event | None = None,
    ) -> None:
        """Connect to the cluster, and ask it for workers; they may come later.

        Args:
            inputs: of the run, opened here.
            pins: what every worker must find where it is.
            asked: as `RemoteExecutor` takes it.
            notice: told what is good to know of the workers, in one line.
            as_exported: as `Scorer` takes it.
            sample, interrupted: as `RemoteExecutor` takes them.

        Raises:
            GenepoolError: there is no such cluster, or what the workers need cannot be sent.
        """
        config = inputs.run.config
        options = config.ray
        self._wait_for, self._needed = options.wait, _needed(config)
        self._notice, self._news = notice, deque[str]()
        self._processors: dict[str, str] = {}
        self._actors: dict[int, Any] = {}
        # Which workers are somewhere in the cluster, and since when there is none.
        self._placed: set[int] = set()
        self._nowhere_since: float | None = time.monotonic()
        self._installed = installed()
        threads = max(1, int(options.cpus))
        given = inputs.run.given
        modules = {**named_modules(given.data), **own_modules()}
        self._assignment = Assignment(given, pins, modules, threads, as_exported)
        environment = options.environment.model_dump(exclude={"py_modules"}, exclude_defaults=True)
        folders = [_folder(inputs.run.resolve(path)) for path in options.environment.py_modules]
        variables = {name: str(threads) for name in THREAD_VARIABLES}
        environment["env_vars"] = {**variables, **options.environment.env_vars}
        self._connected = _connect(options.address, folders)
        self._class: Any = ray.remote(_actor_class()).options(
            num_cpus=options.cpus,
            num_gpus=options.gpus,
            resources=dict(options.custom),
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
            runtime_env=environment,
        )
        room = sum(_fitting(node, self._needed) for node in _nodes())
        workers = config.workers or max(1, min(room, config.width))
        terms: dict[str, Any] = {"losses": _LOSSES, "confirm": True, "sample": sample}
        terms["interrupted"] = interrupted
        super().__init__(self._new, workers, asked, inputs.blocks, **terms)

    def close(self) -> None:
        """End the workers, and leave the cluster if this executor has joined it."""
        super().close()
        for number in list(self._actors):
            self._dismiss(number)
        for thread in self._threads:
            thread.join(timeout=5)
        if self._connected is not None:
            self._connected.close()
            self._connected = None

    def _look(self) -> None:
        while self._news and self._notice is not None:
            self._notice(self._news.popleft())
        since = self._nowhere_since
        if since is not None and time.monotonic() - since > self._wait_for:
            raise GenepoolError(_no_place(self._needed, self._wait_for))

    def _new(self, number: int) -> _Actor:
        """A worker that has opened the run, in the place of the one that was lost, if any."""
        for attempt in range(1, _LOSSES + 1):
            # What is lost to us may live on behind a network that is down.
            if self._dismiss(number):
                self._news.append("a worker of the Ray cluster was lost; another takes its place")
            try:
                return self._open(number)
            except Lost as lost:
                if attempt == _LOSSES or self._closing:
                    raise
                self._news.append(str(lost))
        raise RuntimeError("unreachable")

    def _open(self, number: int) -> _Actor:
        with self._ready:
            # After `close` there is no cluster, and Ray would look for another one by itself.
            if self._closing:
                raise Lost(GenepoolError("the run has ended"))
            try:
                handle = self._actors[number] = self._class.remote()
            except (TypeError, ValueError) as error:
                raise GenepoolError(f"Ray refuses to make a worker: {spoken(error)}") from error
        hello = handle.hello.remote()
        with _spoken_of("a worker"):
            while not ray.wait([hello], timeout=_POLL)[0]:
                if self._closing:
                    raise Lost(GenepoolError("the run has ended"))
            found = ray.get(hello)
        with self._ready:
            self._placed.add(number)
            self._nowhere_since = None
        place, theirs = str(found["place"]), found["installed"]
        if "genepool" not in theirs:
            raise GenepoolError(
                f"{place}: {one_line(found['missing'])}; install this version of genepool there, "
                "in the Python that Ray was started with"
            )
        if (name := unlike(self._installed, theirs)) is not None:
            raise GenepoolError(
                f"{place}: {name} {theirs[name]} is installed there, and {self._installed[name]} "
                "here; a worker must compute with the same versions"
            )
        with _spoken_of(place):
            refusal = ray.get(handle.open.remote(place, self._assignment))
        if refusal:
            raise GenepoolError(refusal)
        self._compare(place, str(found["processor"]))
        return _Actor(handle, place)

    def _compare(self, place: str, processor: str) -> None:
        """Say it once if a worker's processor is another kind than the first one's."""
        kinds = set(self._processors.values())
        self._processors[place] = processor
        if len(kinds) == 1 and processor not in kinds:
            first = next(iter(self._processors))
            self._news.append(
                f"the processors of workers differ ({first}: {self._processors[first]}; {place}: "
                f"{processor}), and the last bits of scores may differ with them; 'ray.custom' "
                "chooses nodes of one kind"
            )

    def _dismiss(self, number: int) -> bool:
        """End a worker; whether there was one."""
        handle = self._actors.pop(number, None)
        with self._ready:
            self._placed.discard(number)
            if not self._placed and self._nowhere_since is None:
                self._nowhere_since = time.monotonic()
        if handle is not None:
            with contextlib.suppress(Exception):
                ray.kill(handle)
        return handle is not None


@dataclass(frozen=True, slots=True)
class _Actor:
    """A worker that has opened the run, and where it is."""

    handle: Any
    place: str

    def ask(self, message: bytes) -> bytes:
        """Wait for its answer."""
        with _spoken_of(self.place):
            return zlib.decompress(ray.get(self.handle.ask.remote(zlib.compress(message, 1))))


def _actor_class() -> type[Any]:
    # A class that is made in a function is sent by value, so that a node without genepool can say
    # so. For the same reason its methods import what they need.
    class Worker:
        def hello(self) -> dict[str, Any]:
            import importlib
            import platform

            ray: Any = importlib.import_module("ray")
            context = ray.get_runtime_context()
            address, node = ray.util.get_node_ip_address(), context.get_node_id()
            found: dict[str, Any] = {"place": f"node {address} ({node[:8]})"}
            try:
                from genepool.run.executors.installation import installed, processor

                found |= {"installed": installed(), "processor": processor()}
            except ImportError as error:
                found |= {"installed": {"Python": platform.python_version()}}
                found |= {"missing": f"genepool cannot be imported ({error})"}
            return found

        def open(self, place: str, assignment: Assignment) -> str:
            import os

            from genepool.errors import GenepoolError
            from genepool.run.executors.node import Node

            self._pid = os.getpid()
            try:
                self._node = Node(place, assignment)
            except GenepoolError as error:
                return str(error)
            return ""

        def ask(self, message: bytes) -> bytes:
            import os
            import zlib

            reply = self._node.answer(zlib.decompress(message))
            if os.getpid() != self._pid:
                os._exit(1)  # A function of the user's has forked: the actor is its parent.
            return zlib.compress(reply, 1)

    return Worker


@contextlib.contextmanager
def _spoken_of(place: str) -> Generator[None, None, None]:
    """What Ray says of a call that failed, in our words."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise GenepoolError(f"{place}: {cause(error.cause)}") from error
    except ray.exceptions.RayError as error:
        text = str(error)
        if "runtime_env" in text or "runtime environment" in text.lower():
            raise GenepoolError(
                f"what 'ray.environment' asks for could not be prepared: {spoken(error)}"
            ) from error
        found = re.search(r"dead because (.*?)[.\n]", text)
        why = found[1] if found else type(error).__name__
        if "memory" in text.lower():
            why += ", perhaps for lack of memory"
        raise Lost(GenepoolError(f"{place}: the worker was lost ({why}); {_AGAIN}")) from error


def _folder(path: Path) -> str:
    if not path.is_dir():
        raise ConfigError(f"ray.environment.py_modules: {at(path)} is no folder")
    return str(path)


# The cluster


def _connect(address: str, modules: list[str]) -> contextlib.ExitStack | None:
    """Join a cluster; what is returned leaves it again. None: this process is in it already.

    Args:
        address: 'auto' or HOST:PORT.
        modules: folders with code that every node gets.

    Raises:
        GenepoolError: there is none, or this process cannot join it.
    """
    wanted = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if ray.is_initialized():
        joined = str(ray.get_runtime_context().gcs_address)
        if wanted not in ("auto", joined):
            raise GenepoolError(
                f"ray.address: this process is connected to the Ray cluster at {joined}, and the "
                f"run file names {wanted}"
            )
        if modules:
            raise GenepoolError(
                "ray.environment.py_modules: Ray copies folders only as a process connects to a "
                "cluster, and this one is connected already; give them to ray.init"
            )
        return None
    where = (
        "the Ray cluster of this machine" if wanted == "auto" else f"the Ray cluster at {wanted}"
    )
    if wanted != "auto":
        _require_reachable(wanted)
    with contextlib.ExitStack() as undo:
        # Ray takes over how the process ends, and prints what its daemons say of lost nodes.
        undo.callback(setattr, sys, "excepthook", sys.excepthook)
        module: Any = sys.modules["ray._private.worker"]
        undo.callback(setattr, module, "print_to_stdstream", module.print_to_stdstream)
        module.print_to_stdstream = _unheard
        handler = signal.getsignal(signal.SIGTERM)
        undo.callback(ray.shutdown)
        try:
            settings = {"log_to_driver": False, "logging_level": logging.ERROR}
            sent = {"py_modules": modules} if modules else None
            ray.init(address=wanted, runtime_env=sent, **settings)
        except ConnectionError as error:
            raise GenepoolError(
                f"{where} cannot be reached ({spoken(error)}); start it with 'ray start --head', "
                "or name another one in 'ray.address'"
            ) from error
        except Exception as error:
            raise GenepoolError(f"{where} cannot be joined: {spoken(error)}") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)
        return undo.pop_all()
    raise RuntimeError("unreachable")


def _unheard(*_: object, **__: object) -> None:
    """What Ray's daemons say of lost nodes: a screenful each, where a notice of ours is a line."""


def _require_reachable(address: str) -> None:
    """Ray itself would try for two minutes, and then end the process."""
    host, _, port = address.rpartition(":")
    if not host or "/" in address or not port.isdigit():
        raise ConfigError(
            f"ray.address: expected 'auto' or HOST:PORT of the head node; got '{one_line(address)}'"
        )
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise GenepoolError(
            f"the Ray cluster at {one_line(address)} cannot be reached ({error}); start it with "
            "'ray start --head', or name another one in 'ray.address'"
        ) from error


def _nodes() -> list[dict[str, Any]]:
    return [node for node in cast("list[dict[str, Any]]", ray.nodes()) if node["Alive"]]


def _needed(config: RunConfig) -> dict[str, float]:
    options = config.ray
    needed = {"CPU": options.cpus, "GPU": options.gpus, **options.custom}
    return {name: amount for name, amount in needed.items() if amount}


def _fitting(node: dict[str, Any], needed: dict[str, float]) -> int:
    """How many workers a node holds if nothing else runs there."""
    has: dict[str, float] = node["Resources"]
    return min((int(has.get(name, 0) / need) for name, need in needed.items()), default=1)


def _no_place(needed: dict[str, float], waited: float) -> str:
    nodes = _nodes()
    if not nodes:
        return f"no node of the Ray cluster is left; {_AGAIN}, once there is a cluster"
    wanted = _amounts(needed, needed) or "nothing"
    listed = [
        f"{node['NodeManagerAddress']} ({node['NodeID'][:8]}) has "
        f"{_amounts(node['Resources'], {'CPU': 1, 'GPU': 1, **needed}) or 'nothing'}"
        for node in nodes
    ]
    there = ", ".join(listed[:4]) + (f", and there are {len(listed)} nodes" if listed[4:] else "")
    if not any(_fitting(node, needed) for node in nodes):
        return (
            f"no node of the Ray cluster has what a worker needs, {wanted}: {there}; ask for less "
            f"in 'ray', or add a node; {_AGAIN}"
        )
    return (
        f"no worker has found a place in the Ray cluster for {waited:g} seconds: each needs "
        f"{wanted}, and others may be using what the nodes have ({there}); {_AGAIN}, with a longer "
        "'ray.wait' if need be"
    )


def _amounts(amounts: dict[str, float], names: dict[str, float]) -> str:
    return " and ".join(f"{amounts[name]:g} {one_line(name)}" for name in names if name in amounts)
