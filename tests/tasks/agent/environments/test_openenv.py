"""The client of OpenEnv against a server that follows its schema, and against ones that break."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from genepool.errors import ConfigError, EnvironmentDown, EpisodeError, MissingExtraError
from genepool.tasks.agent.environment import Step, Turn, open_environment
from genepool.tasks.agent.environments import json_over_websocket, openenv
from genepool.testing import check_environment
from tests.agent_servers import (
    FAULTS,
    Break,
    Fault,
    Server,
    changed,
    frame,
    hurry,
    in_cases,
    says,
    sends,
    serving,
)

pytest.importorskip("websockets")

SIZES = {"train": 4, "test": 2}


@pytest.fixture(autouse=True)
def _marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path))


class Guess:
    """Guess the number that a random seed stands for; as an environment behind OpenEnv."""

    def __init__(self) -> None:
        self.goal = self.asked = 0

    def reset(self, seed: int = 0, split: str = "", index: int | None = None) -> dict[str, Any]:
        self.goal = seed % 3 if index is None else len(split) + index
        self.asked = 0
        return self.answer("begin", None, False)

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        text = action["message"]
        if text == "explode":
            raise RuntimeError("boom")
        self.asked += 1
        won = text == str(self.goal)
        return self.answer("won" if won else f"no {text}", 1.0 if won else 0, won)

    def answer(self, text: str, reward: float | None, done: bool) -> dict[str, Any]:
        told = {"text": text, "legal": [] if done else ["0", "1", "2", "1"]}
        return {"observation": {"prompt": told, "step": self.asked}, "reward": reward, "done": done}


class Protocol:
    """Messages and requests as servers of OpenEnv answer them, one environment for each session."""

    def __init__(self) -> None:
        self.held: dict[str, Guess] = {}
        self.names: tuple[str, ...] = ("guess",)
        self.fields: Any = {"message": {"type": "string"}, "metadata": {"type": "object"}}

    def __call__(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "WS":
            return 200, self.message(path, body)
        if path == "/schema":
            return 200, {"action": {"type": "object", "properties": self.fields}}
        if path == "/list_environments":
            return 200, list(self.names)
        if path == "/guess/splits":
            return 200, [{"name": name, "type": name} for name in SIZES]
        if path == "/guess/num_tasks":
            return 200, {"num_tasks": SIZES[body["split"]]}
        kind = path.removeprefix("/")
        if kind not in ("reset", "step"):
            return 404, {"detail": "Not Found"}
        answer = self.message("http", {"type": kind, "data": body.get("action", body)})
        if answer["type"] == "observation":
            return 200, answer["data"]
        wrong = [
            {**one, "loc": ["body", "action", *one["loc"]]} for one in answer["data"]["errors"]
        ]
        return 422, {"detail": wrong}

    def message(self, session: str, message: Any) -> Any:
        held = self.held.setdefault(session, Guess())
        data = message["data"]
        if message["type"] == "reset":
            return {"type": "observation", "data": held.reset(**data)}
        wrong = None
        if set(data) != {"message"}:
            wrong = next(iter(data)), "Extra inputs are not permitted", "extra_forbidden"
        elif not data["message"]:
            wrong = "message", "String should have at least 1 character", "string_too_short"
        if wrong is not None:
            errors = [{"type": wrong[2], "loc": [wrong[0]], "msg": wrong[1], "input": None}]
            return error("VALIDATION_ERROR", message="Invalid message", errors=errors)
        try:
            return {"type": "observation", "data": held.step(data)}
        except RuntimeError as failure:
            return error("EXECUTION_ERROR", message=str(failure))


def error(code: str, **data: Any) -> dict[str, Any]:
    return {"type": "error", "data": {"code": code, **data}}


KEYS = {"observation": "prompt.text", "admissible": "prompt.legal"}


def opener(server: Server | str, **options: Any) -> Callable[[], Any]:
    url = server if isinstance(server, str) else server.url
    return open_environment("openenv", {"url": url, **KEYS, **options}, Path())


@contextlib.contextmanager
def real() -> Generator[str, None, None]:
    """The same protocol from a web framework, as OpenEnv itself serves it."""
    uvicorn = pytest.importorskip("uvicorn")
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocketDisconnect

    protocol, sessions = Protocol(), iter(range(10**6))

    async def plain(request: Any) -> Any:
        body = await request.json() if request.method == "POST" else None
        status, value = protocol(request.method, request.url.path, body)
        return JSONResponse(value, status)

    async def session(ws: Any) -> None:
        await ws.accept()
        number = str(next(sessions))
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await ws.send_json(protocol.message(number, await ws.receive_json()))

    routes = [WebSocketRoute("/ws", session), Route("/{path:path}", plain, methods=["GET", "POST"])]
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(
            Starlette(routes=routes), log_level="error", lifespan="off", ws="websockets-sansio"
        )
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"splits": {"train": "5-9"}}, {"admissible": None}])
def test_it_keeps_the_contract(options: dict[str, Any]) -> None:
    known = ("0", "1", "2", "9")
    with real() as url:
        check_environment(opener(url, **options), "train", actions=known)
    with serving(Protocol()) as server:
        check_environment(opener(server, **options), "train", actions=known)


def test_its_digest_says_what_is_done_with_the_text_and_not_where() -> None:
    given: list[dict[str, Any]] = [
        {},
        {"action": "a"},
        {"action": {"b": "{action}"}},
        {"name": "c"},
    ]
    digests = [opener("http://one", **one)().digest for one in given]
    assert digests[0] == "" and len(set(digests)) == 4
    assert [opener("http://other", timeout=9.0, **one)().digest for one in given] == digests


def test_an_episode_by_plain_requests() -> None:
    with serving(Protocol()) as server:
        session = opener(server, transport="http", splits={"a": "0-9"})()
        assert session.reset("2") == Turn("begin", ("0", "1", "2"))
        invalid = "This is no valid action: String should have at least 1 character"
        assert session.step("") == Step(Turn(invalid, ("0", "1", "2")), 0.0, False)
        assert session.step("2") == Step(Turn("won", ()), 1.0, True)
        assert not any("WS" in one for one in server.asked)


def test_sessions_by_plain_requests_do_not_play_in_each_others_episodes() -> None:
    with serving(Protocol()) as server:
        one, other = (opener(server, transport="http", splits={"a": "0-9"})() for _ in range(2))
        one.reset("2")
        other.reset("1")
        with pytest.raises(EpisodeError, match=r"another session.* has begun .*'batch: 1"):
            one.step("2")
        assert other.step("1").done


def test_nor_do_those_of_two_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs at one server gave each other's models their scores, without a word."""
    with serving(Protocol()) as server:
        here = opener(server, transport="http", splits={"a": "0-9"})()
        there = opener(server, transport="http", splits={"a": "0-9"})()

        def elsewhere(function: Callable[[], Any]) -> None:
            # What another process has in memory is not known here.
            with monkeypatch.context() as other:
                other.setattr(openenv, "_playing", {})
                function()

        here.reset("2")
        elsewhere(lambda: there.reset("1"))
        with pytest.raises(
            EpisodeError, match="another session, perhaps of another run, has begun"
        ):
            here.step("2")
        # It asked nothing, so that the other goes on.
        elsewhere(lambda: there.step("1"))
        # While an action is on its way, whose episode it ends up in nobody knows: both end.
        here.reset("2")
        ask = here._server.ask

        def late(*given: Any) -> Any:
            elsewhere(lambda: there.reset("1"))
            return ask(*given)

        monkeypatch.setattr(here._server, "ask", late)
        with pytest.raises(EpisodeError, match="another session"):
            here.step("2")
        with pytest.raises(EpisodeError, match="another session"):
            elsewhere(lambda: there.step("1"))


def test_an_episode() -> None:
    with real() as url:
        session = opener(url)()
        assert session.tasks("train") == ("train-0", "train-1", "train-2", "train-3")
        assert session.tasks("test") == ("test-0", "test-1")
        assert "Action:" in session.instructions
        # Each session has an episode of its own.
        other = opener(url)()
        assert session.reset("test-1") == other.reset("train-0") == Turn("begin", ("0", "1", "2"))
        assert session.step("3") == Step(Turn("no 3", ("0", "1", "2")), 0.0, False)
        assert session.step("5") == other.step("5") == Step(Turn("won", ()), 1.0, True)
        with pytest.raises(EpisodeError, match="there is no split 'dev'; the server has 'train', "):
            session.tasks("dev")
        for id in ("test-2", "dev-0"):
            with pytest.raises(EpisodeError, match="there is no"):
                session.reset(id)
        session.close()
        with pytest.raises(EnvironmentDown, match="no session any more"):
            session.step("5")


def test_a_session_that_the_server_gave_up_is_opened_again() -> None:
    with serving(Protocol()) as server:
        session = opener(server)()
        first = session.reset("train-0")
        server.drop()
        with pytest.raises(EnvironmentDown, match="got no connection"):
            session.step("1")
        session.reset("train-0")
        server.drop()
        assert session.reset("train-0") == first and server.sockets == 3


def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next() -> None:
    def twice(connection: socket.socket, data: bytes, stop: threading.Event) -> None:
        connection.sendall(frame(data) + frame(data))
        stop.wait(5)

    with serving(Protocol()) as server:
        session = opener(server)()
        server.broken["/ws reset"] = twice
        session.reset("train-0")
        with pytest.raises(EnvironmentDown, match="got something unasked"):
            for _ in range(100):
                time.sleep(0.01)
                session.step("1")


def test_what_an_agent_sees_is_chosen() -> None:
    with serving(Protocol()) as server:
        whole = opener(server, observation=None, admissible=None)().reset("test-0")
        text = '{"prompt": {"legal": ["0", "1", "2", "1"], "text": "begin"}, "step": 0}'
        assert whole == Turn(text)
        assert opener(server, observation="step")().reset("test-0").text == "0"
        with pytest.raises(EpisodeError, match=r"has no 'prompt.words'; it has 'prompt', 'step'"):
            opener(server, observation="prompt.words")().reset("test-0")
        with pytest.raises(EnvironmentDown, match="expected admissible actions as a list of texts"):
            opener(server, admissible="step")().reset("test-0")


def test_where_the_text_goes_is_chosen() -> None:
    with serving(Protocol()) as server:
        for action in ("message", {"message": "{action}"}):
            session = opener(server, action=action)()
            session.reset("test-0")
            assert session.step("4").done
        assert "GET /schema" not in server.asked
        session = opener(server, action="text")()
        session.reset("test-0")
        with pytest.raises(EpisodeError, match=r"Extra inputs .*; see what the server takes"):
            session.step("4")
        pattern = {"tool": "say", "arguments": {"text": "{action}", "to": ["{action}", 1]}}
        filled = {"tool": "say", "arguments": {"text": "hello", "to": ["hello", 1]}}
        assert openenv._filled(pattern, "hello") == filled  # pyright: ignore[reportPrivateUsage]
        text = {"type": "string"}
        for fields in ({}, {"a": {"type": "integer"}}, {"a": text, "b": text}):
            server.answer.fields = fields  # type: ignore[attr-defined]
            with pytest.raises(EpisodeError, match="say with the setting 'action'"):
                opener(server)().reset("test-0")


@pytest.mark.parametrize("names", [(), ("guess", "other")])
def test_which_tasks_are_meant_must_be_clear(names: tuple[str, ...]) -> None:
    with serving(Protocol()) as server:
        server.answer.names = names  # type: ignore[attr-defined]
        with pytest.raises(EpisodeError, match="say which with the setting 'name'"):
            opener(server)().tasks("train")
        assert len(opener(server, name="guess")().tasks("train")) == 4
        with pytest.raises(EpisodeError, match=r"got HTTP 404: .* with the setting 'splits'"):
            opener(server, name="a/b c")().tasks("train")
        assert server.asked[-1] == "GET /a%2Fb%20c/splits"


def broken(**changes: Any) -> Break:
    """The sound message, in which values of `data` are changed."""

    def change(data: bytes) -> bytes:
        message = json.loads(data)
        message["data"].update(changes)
        return frame(json.dumps(message).encode())

    return changed(change)


def message(value: Any) -> Break:
    return sends(frame(value if isinstance(value, bytes) else json.dumps(value).encode()))


def _drips(connection: socket.socket, data: bytes, stop: threading.Event) -> None:
    connection.sendall(frame(b"{", 0x01))
    while not stop.wait(0.02):
        connection.sendall(frame(b" ", 0x00))


CODES: dict[str, type[EpisodeError]] = {
    "CAPACITY_REACHED": EnvironmentDown,
    "EXECUTION_ERROR": EnvironmentDown,
    "FACTORY_ERROR": EnvironmentDown,
    "SESSION_ERROR": EnvironmentDown,
    "NEW": EnvironmentDown,
    "VALIDATION_ERROR": EpisodeError,
    "INVALID_JSON": EpisodeError,
    "UNKNOWN_TYPE": EpisodeError,
}
# Of the messages of a WebSocket.
MESSAGES: dict[str, Fault] = {
    **{name: FAULTS[name] for name in ("resets the connection", "closes without an answer")},
    **{f"error {c}": Fault(message(error(c, message="no")), kind) for c, kind in CODES.items()},
    "hangs": FAULTS["hangs"],
    "drips": Fault(_drips),
    "hangs within a frame": Fault(sends(frame(b"{" * 100)[:50])),
    "noise": Fault(sends(bytes(range(256)))),
    "a broken frame": Fault(sends(b"\xff\xff\xff\xff")),
    "a masked frame": Fault(sends(b"\x81\x81\x00\x00\x00\x00{")),
    "a huge message": Fault(sends(frame(b" " * (5 << 20)))),
    "a long message": Fault(changed(lambda data: frame(data + b" " * (5 << 20)))),
    "a huge length": Fault(sends(b"\x81\x7f" + (1 << 62).to_bytes(8, "big"))),
    "bytes": Fault(sends(frame(b"\x00\x01\x02", 0x82))),
    "no text": Fault(sends(frame(b"caf\xe9"))),
    "closes with a reason": Fault(sends(frame(b"\x03\xf3going away", 0x88))),
    "malformed JSON": Fault(message(b'{"type": ')),
    "nothing": Fault(message(b"")),
    "null": Fault(message(None)),
    "a list": Fault(message([])),
    "deep JSON": Fault(message(b"[" * 100_000 + b"]" * 100_000)),
    "another type": Fault(message({"type": "state", "data": {}})),
    "no type": Fault(message({"data": {}})),
    "no data": Fault(message({"type": "observation"})),
    "data is a text": Fault(message({"type": "observation", "data": "ok"})),
    "an error without data": Fault(message({"type": "error"})),
    "no observation": Fault(broken(observation=None)),
    "an observation that is a text": Fault(broken(observation="begin")),
    "a reward that is a text": Fault(broken(reward="1")),
    "a reward that is NaN": Fault(broken(reward=float("nan"))),
    "a reward without end": Fault(broken(reward=float("inf"))),
    "done is a number": Fault(broken(done=0)),
    "done is null": Fault(broken(done=None)),
    "half a character": Fault(broken(observation={"prompt": {"text": "\ud83d"}})),
    "actions that are numbers": Fault(broken(observation={"prompt": {"text": "a", "legal": [1]}})),
    "another shape": Fault(broken(observation={"words": "a"}), EpisodeError),
}  # fmt: skip
PLAIN = ("/ws", "/schema", "/list_environments", "/guess/splits", "/guess/num_tasks")
CASES = [
    *((path, name, fault) for name, fault in FAULTS.items() for path in PLAIN),
    *((f"/ws {k}", name, fault) for name, fault in MESSAGES.items() for k in ("reset", "step")),
    ("/guess/num_tasks", "a text", Fault(says({"num_tasks": "4"}))),
    ("/guess/num_tasks", "below 0", Fault(says({"num_tasks": -1}))),
    ("/guess/num_tasks", "too many", Fault(says({"num_tasks": 10**9}))),
    ("/guess/splits", "numbers", Fault(says([1, 2]))),
    ("/ws", "a page", Fault(FAULTS["a page"].breaks, EpisodeError)),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("path", "name", "fault"), in_cases(CASES, *PLAIN[1:]))
def test_no_fault_is_scored(path: str, name: str, fault: Fault) -> None:
    with serving(Protocol()) as server:
        session = opener(server)()
        first = session.reset("train-1") if path.endswith("step") else None
        server.broken[path] = fault.breaks
        hurry(session, name)
        with pytest.raises(EpisodeError) as caught:
            session.step("7") if path.endswith("step") else session.reset("train-1")
        text = str(caught.value)
        if path != "/ws":
            down = isinstance(caught.value, EnvironmentDown)
            # That nothing lists the tasks is said, and does not pass.
            assert down == (fault.error is EnvironmentDown), text
        assert text.startswith(server.url) and len(text) < 1200 and text.isprintable(), text
        assert re.search(r": expected .+; got .+; .+|has no '|lists no tasks|setting 'n", text), (
            text
        )
        # Nothing is lost: once the server is sound again, an episode can begin.
        server.broken.clear()
        hurry(session, name, 20)
        assert session.reset("train-1") == (first or session.reset("train-1"))
        session.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["reset", "step"])
@pytest.mark.parametrize("name", FAULTS)
def test_no_fault_of_plain_requests_is_scored(kind: str, name: str) -> None:
    with serving(Protocol()) as server:
        session = opener(server, transport="http", splits={"a": "0-9"})()
        session.reset("1")
        server.broken[f"/{kind}"] = FAULTS[name].breaks
        hurry(session, name)
        with pytest.raises(FAULTS[name].error, match=rf"{server.url}/{kind}: expected .*; got "):
            session.step("7") if kind == "step" else session.reset("1")


def test_a_full_server_says_so() -> None:
    with serving(Protocol()) as server:
        server.broken["/ws reset"] = message(error("CAPACITY_REACHED", message="1 of 1"))
        with pytest.raises(EnvironmentDown, match=r"'1 of 1'.*; let the server hold more sess"):
            opener(server)().reset("train-1")


def test_nobody_is_there() -> None:
    with serving(Protocol()) as server:
        session = opener(server)()
        session.reset("train-0")
    with pytest.raises(EnvironmentDown, match="got no connection"):
        session.step("1")
    with pytest.raises(EnvironmentDown, match="got no connection"):
        session.reset("train-0")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "ws://host"}, "expected an address such as"),
        ({"url": "http://h", "action": {"a": "b"}}, "there goes the agent's text"),
        ({"url": "http://h", "action": 3}, "option 'action"),
        ({"url": "http://h", "transport": "grpc"}, "option 'transport'"),
        ({"url": "http://h", "splits": {"a": "9"}}, "expected tasks as"),
        ({"url": "http://h", "tasks": 7}, "option 'tasks'"),
    ],
)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        open_environment("openenv", options, Path())


def test_websockets_need_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_over_websocket.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"\[agents\]"):
        opener("http://127.0.0.1:1")()
    opener("http://127.0.0.1:1", transport="http")()
