"""A run against a server that breaks in every way: nothing is lost, and no child is falsely scored.

A proxy stands between genepool and the shop, and spoils every few answers in one of many ways. What
the run computes must be what it computes with a shop that never fails.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from safetensors.numpy import save_file

pytest.importorskip("tests.examples.needs")  # genepool[shop]

from genepool.errors import EnvironmentDown, EpisodeError
from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from genepool.tasks.agent.environment import open_environment
from tests.cli import run_cli
from webshop import Shop, made, serve
from webshop.clerk import CLERKS, FEATURES

# Seconds that the client waits, and that a server that hangs does.
PATIENT, HANGS = 0.4, 0.6

# Each spoils an answer, which may come before or after the shop has done what was asked.
FAULTS = (
    "no answer", "no answer, but done", "hangs", "hangs, but done", "500", "502", "503", "429",
    "empty", "no JSON", "half of the JSON", "HTML", "cut short", "no HTTP", "another type",
    "a list for an object", "no reward", "NaN", "infinite", "reward as text", "done as text",
    "null", "deep", "huge", "packed", "no UTF-8", "drips", "session forgotten",
)  # fmt: skip


class Proxy:
    """Passes requests on, and spoils one in `every` answers, each time in the next way."""

    def __init__(self, target: str, every: int, faults: tuple[str, ...] = FAULTS) -> None:
        self.target, self.every, self.faults = urlsplit(target), every, faults
        self.lock = threading.Lock()
        self.requests = 0
        self.spoilt: list[str] = []
        self.broken = False

    def fault(self) -> str | None:
        """What is wrong with the next answer."""
        with self.lock:
            self.requests += 1
            if self.broken:
                return "no answer"
            if not self.every or self.requests % self.every:
                return None
            self.spoilt.append(self.faults[len(self.spoilt) % len(self.faults)])
            return self.spoilt[-1]

    def asked(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """What the shop answers."""
        to = http.client.HTTPConnection(str(self.target.hostname), self.target.port, timeout=120)
        try:
            to.request(method, path, body or None, {"Content-Type": "application/json"})
            answer = to.getresponse()
            return answer.status, answer.read()
        finally:
            to.close()


def handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    """Serves a proxy."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.pass_on()

        def do_POST(self) -> None:
            self.pass_on()

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = proxy.fault()
            before = {"no answer", "hangs", "500", "502", "503", "429", "no HTTP"}
            status, data = 200, b""
            if fault not in before:
                status, data = proxy.asked(self.command, self.path, body)
            with contextlib.suppress(OSError):
                self.spoil(fault, status, data)

        def spoil(self, fault: str | None, status: int, data: bytes) -> None:
            if fault is None:
                self.reply(status, data)
            elif fault.startswith(("hangs", "no answer")):
                threading.Event().wait(HANGS if fault.startswith("hangs") else 0)
                self.close_connection = True
            elif fault.isdigit():
                self.reply(int(fault), b'{"detail": "busy"}')
            elif fault == "no HTTP":
                self.wfile.write(b"\x16\x03\x01 what?\r\n\r\n")
            elif fault == "cut short":
                self.reply(200, data[: len(data) // 2], length=len(data))
            elif fault == "packed":
                self.reply(200, b"\x1f\x8b\x08\x00rest", coding="gzip")
            elif fault == "drips":
                self.reply(200, b"", length=len(data))
                for byte in data[:40]:
                    self.wfile.write(bytes([byte]))
                    threading.Event().wait(HANGS / 10)
            elif fault == "session forgotten":
                self.reply(404, b'{"detail": "no such session"}')
            else:
                self.reply(200, spoilt(fault, data))

        def reply(
            self, status: int, data: bytes, length: int | None = None, coding: str = ""
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data) if length is None else length))
            if coding:
                self.send_header("Content-Encoding", coding)
            self.end_headers()
            self.wfile.write(data)

    return Handler


def spoilt(fault: str, data: bytes) -> bytes:
    """An answer of the shop that makes no sense any longer."""
    whole = {
        "empty": b"", "no JSON": b"{]", "half of the JSON": data[: len(data) // 2],
        "HTML": b"<html><body>login</body></html>", "another type": b"true",
        "a list for an object": b"[[]]", "null": b"null", "deep": b"[" * 5000 + b"]" * 5000,
        "huge": b'"' + b"x" * (5 << 20) + b'"', "no UTF-8": b'{"state": "\xff\xfe"}',
    }  # fmt: skip
    if fault in whole:
        return whole[fault]
    found = json.loads(data)
    if not isinstance(found, dict) or "reward" not in found:
        return b"{}"
    changed: dict[str, Any] = {
        "no reward": {key: value for key, value in found.items() if key != "reward"},
        "NaN": {**found, "reward": float("nan")},
        "infinite": {**found, "reward": float("-inf")},
        "reward as text": {**found, "reward": "1"},
        "done as text": {**found, "done": "no"},
    }
    return json.dumps(changed[fault]).encode()


@contextlib.contextmanager
def proxied(
    every: int, faults: tuple[str, ...] = FAULTS
) -> Generator[tuple[str, Proxy], None, None]:
    """A shop behind a proxy: the proxy's address, and the proxy."""
    with serve(Shop(*made(), page=5)) as url:
        proxy = Proxy(url, every, faults)
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler(proxy))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", proxy
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def run_file(folder: Path, url: str, timeout: float = 20.0, **task: Any) -> dict[str, Any]:
    """Two clerks and eight wishes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, weights in CLERKS.items():
        named = dict(zip(FEATURES, np.array(weights, dtype=np.float32)[:, None], strict=True))
        save_file(named, folder / f"{name}.safetensors")
    shop = {
        "name": "shop",
        "evaluator": "agent",
        "environment": "agentgym",
        "settings": {"url": url, "actions": True, "timeout": timeout},
        "policy": "webshop.clerk:act",
        "limit": 8,
        "batch": 4,
        "patience": 60.0,
        **task,
    }
    return {
        "pool": str(folder / "pool"),
        "seeds": [str(folder / f"{name}.safetensors") for name in CLERKS],
        "tasks": [shop],
        "strategy": {"name": "m2n2", "archive": 4},
        "budget": 6,
        "seed": 3,
    }


def told(pool: Path) -> list[Any]:
    """All that a run computes."""
    with Pool(pool) as opened:
        records = opened.records()
        return [
            (r.id, r.verdict, r.digest, r.scores.tobytes() if r.scores is not None else None)
            for r in records
        ]


@pytest.mark.slow
def test_a_server_that_breaks_in_every_way_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genepool.tasks.agent.sessions._FIRST", 0.01)
    with proxied(every=0) as (url, _):
        whole = evolve(run_file(tmp_path / "whole", url))
    with proxied(every=31) as (url, proxy):
        spoilt_run = evolve(run_file(tmp_path / "spoilt", url, timeout=PATIENT))
    assert set(proxy.spoilt) == set(FAULTS)
    assert told(spoilt_run.pool) == told(whole.pool)
    assert whole.status["champion"]["train"] > 0.5


@pytest.mark.slow
def test_a_session_that_somebody_else_has_got_is_noticed() -> None:
    """As after a restart, when another process makes sessions of the same numbers."""
    with proxied(every=0) as (url, proxy):
        session = open_environment("agentgym", {"url": url}, Path())()
        session.reset("3")
        session.step("search[socks]")
        proxy.asked("POST", "/reset", b'{"env_idx": 0, "session_id": 4}')
        with pytest.raises(EnvironmentDown, match="a page with another instruction"):
            session.step("search[socks]")
        assert "search" in session.reset("3").text.lower()


@pytest.mark.slow
def test_a_server_that_dies_stops_the_run_and_nothing_is_lost(tmp_path: Path) -> None:
    with proxied(every=0) as (url, _):
        whole = evolve(run_file(tmp_path / "whole", url))
    with proxied(every=0) as (url, proxy):
        run = run_file(tmp_path / "part", url, patience=0.5)
        with monkeypatched_death(proxy, after=420):
            with pytest.raises(
                EpisodeError, match=r"expected.*got no connection|nothing complete|breaks off"
            ) as caught:
                evolve(run)
            assert "\n" not in str(caught.value) and "Nothing is lost" in str(caught.value)
        with Pool(tmp_path / "part/pool") as pool:
            assert 0 < pool.evaluations < 6
        again = evolve(run)
    assert told(again.pool) == told(whole.pool)


@contextlib.contextmanager
def monkeypatched_death(proxy: Proxy, after: int) -> Generator[None, None, None]:
    """The server answers nothing from some request on, until the context ends."""
    own = proxy.fault

    def fault() -> str | None:
        with proxy.lock:
            proxy.broken = proxy.broken or proxy.requests >= after
        return own()

    proxy.fault = fault  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        proxy.fault = own  # pyright: ignore[reportAttributeAccessIssue]
        proxy.broken = False


@pytest.mark.slow
def test_the_command_ends_in_one_line_and_the_export_is_scored_against_the_server(
    tmp_path: Path,
) -> None:
    import yaml

    with proxied(every=0) as (url, proxy):
        run = run_file(tmp_path, url, patience=0.5)
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump(run))
        with monkeypatched_death(proxy, after=250):
            code, out, err = run_cli(["evolve", str(file)])
            assert code == 1 and "Traceback" not in err
            assert "the environment is broken" in err
        code, out, err = run_cli(["evolve", str(file)])
        assert code == 0, err
        code, out, err = run_cli(["export", run["pool"], "-o", str(tmp_path / "out"), "--verify"])
        assert code == 0, err
        assert "same" in out or "verified" in out or "scored" in out, out
        with monkeypatched_death(proxy, after=0):
            code, out, err = run_cli(
                ["export", run["pool"], "-o", str(tmp_path / "no"), "--verify"]
            )
            assert code == 1 and "the environment is broken" in err
            assert not (tmp_path / "no").exists()
