"""The client of AgentGym against servers of both dialects, and against ones that break."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genepool.errors import ConfigError, EnvironmentDown, EpisodeError
from genepool.tasks.agent.environment import Step, Turn, open_environment
from genepool.tasks.agent.environments import agentgym
from genepool.testing import check_environment
from tests.agent_servers import (
    FAULTS,
    Fault,
    Server,
    edited,
    hurry,
    in_cases,
    says,
    serving,
    status,
)

GOALS = [f"Instruction: Find me {c} shoes, size {c[0]}, and price lower than {n}.00 dollars"
         for n, c in enumerate(("red", "blue", "green"))]  # fmt: skip


class Shop:
    """As the original WebShop server answers, in what a client can see."""

    def __init__(self, goals: int = 200) -> None:
        self.pages: dict[int, tuple[int, str]] = {}
        self.goals = goals

    def __call__(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        path, _, query = path.partition("?")
        if (method, path) == ("POST", "/create"):
            self.pages[len(self.pages)] = (0, "start")
            return 200, len(self.pages) - 1
        session = int(query.removeprefix("env_idx=")) if query else body["env_idx"]
        if session not in self.pages:
            return 500, {"detail": "Internal Server Error"}
        goal, page = self.pages[session]
        if (method, path) == ("POST", "/reset"):
            if not 0 <= body["session_id"] < self.goals:
                return 500, {"detail": "Internal Server Error"}
            self.pages[session] = (body["session_id"], "start")
            return 200, [self.text(session), None]
        if (method, path) == ("POST", "/step"):
            return 200, self.step(session, goal, page, body["action"])
        if path == "/instruction_text":
            return 200, GOALS[goal % 3]
        assert path == "/available_actions", path
        clicks = {"start": ["search"], "found": ["back to search", "b00x"], "b00x": ["buy now"]}
        return 200, {"has_search_bar": page == "start", "clickables": clicks.get(page, [])}

    def step(self, session: int, goal: int, page: str, action: str) -> dict[str, Any]:
        ways = {
            ("start", "search"): "found",
            ("found", "click[b00x]"): "b00x",
            ("found", "click[back to search]"): "start",
            ("b00x", "click[buy now]"): "bought",
        }
        key = "search" if action.startswith("search[") else action
        new = ways.get((page, key), page)
        self.pages[session] = (goal, new)
        bought = new == "bought" and page != "bought"
        reward = 0.25 + goal % 3 / 4 if bought else 0
        return {"state": self.text(session), "reward": reward, "done": bought, "info": None}

    def text(self, session: int) -> str:
        goal, page = self.pages[session]
        return f"WebShop [SEP] {GOALS[goal % 3]} [SEP] {page}"


class Rooms:
    """As AgentGym's servers answer that say `id`."""

    def __init__(self) -> None:
        self.held: dict[int, list[Any]] = {}
        self.closed: list[int] = []

    def __call__(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        assert method == "POST"
        if path == "/create":
            self.held[len(self.held)] = []
            return 200, {"id": len(self.held) - 1, "observation": "a door"}
        if body["id"] not in self.held:
            return 200, {"error": f"{body['id']}"}
        if path == "/close":
            self.closed.append(body["id"])
            return 200, True
        if path == "/reset":
            self.held[body["id"]] = [body["data_idx"]]
            return 200, {"observation": f"room {body['data_idx']}", "reward": 0, "done": False}
        self.held[body["id"]].append(body["action"])
        done = body["action"] == "wait"
        seen = f"room {self.held[body['id']]}"
        return 200, {"observation": seen, "reward": float(done), "done": done}


def opener(server: Server, **options: Any) -> Callable[[], Any]:
    return open_environment("agentgym", {"url": server.url, **options}, Path())


@pytest.mark.parametrize("actions", [False, True])
def test_the_shop_keeps_the_contract(actions: bool) -> None:
    with serving(Shop()) as server:
        known = ("search[red shoes]", "click[b00x]", "click[buy now]", "click[back to search]")
        check_environment(opener(server, actions=actions), "test", actions=known, tasks=5)


def test_the_other_dialect_keeps_the_contract() -> None:
    with serving(Rooms()) as server:
        check_environment(opener(server, dialect="id", splits={"train": [7, 3, 4]}), "train")


def test_an_episode_in_the_shop() -> None:
    with serving(Shop()) as server:
        session = opener(server, actions=True)()
        assert session.tasks("test") == tuple(map(str, range(100)))
        assert session.tasks("train") == tuple(map(str, range(100, 200)))
        assert "search[words]" in session.instructions
        assert server.asked == []
        first = session.reset("4")
        assert first == Turn(
            "WebShop [SEP] Instruction: Find me blue shoes, size b, and price lower than "
            "1.00 dollars [SEP] start",
            ("search[find me blue shoes size b]",),
        )
        found = session.step("search[blue shoes]")
        assert found.turn.actions == ("click[back to search]", "click[b00x]")
        assert session.step("click[no such thing]") == Step(found.turn, 0.0, False)
        session.step("click[b00x]")
        step = session.step("click[buy now]")
        assert (step.reward, step.done, step.turn.actions) == (0.5, True, ())
        # One session for all episodes: to make one is dear.
        session.reset("5")
        assert server.asked.count("POST /create") == 1
        session.close()


def test_a_session_of_the_other_dialect_is_closed() -> None:
    rooms = Rooms()
    with serving(rooms) as server:
        session = opener(server, dialect="id", splits={"all": "0-9"})()
        assert session.tasks("all") == tuple("0123456789")
        session.reset("3")
        assert session.step("wait") == Step(Turn("room [3, 'wait']"), 1.0, True)
        session.close()
        session.close()
        assert rooms.closed == [0]


def test_sessions_are_spread_over_servers() -> None:
    with serving(Shop()) as one, serving(Shop()) as other:
        made = open_environment("agentgym", {"url": [one.url, other.url]}, Path())
        for session in [made() for _ in range(6)]:
            session.reset("0")
        assert [server.asked.count("POST /create") for server in (one, other)] == [3, 3]


@pytest.mark.parametrize("dialect", ["webshop", "id"])
def test_a_server_that_was_started_anew_knows_no_session(dialect: str) -> None:
    kind = Shop if dialect == "webshop" else Rooms
    with serving(kind()) as server:
        make = opener(server, dialect=dialect, splits={"all": "0-9"})
        busy, idle, late = make(), make(), make()
        for session in (busy, idle, late):
            session.reset("1")
        before = idle.step("wait")
        server.answer = kind()
        with pytest.raises(EnvironmentDown, match="the session is opened again"):
            busy.step("wait")
        # Its new sessions have the numbers of the older ones, which must not play in them.
        assert busy.reset("1") == make().reset("1")
        with pytest.raises(EnvironmentDown, match="the server was away"):
            idle.step("wait")
        idle.reset("1")
        assert idle.step("wait") == before
        late.reset("1")
        assert late.step("wait") == before


@pytest.mark.parametrize("dialect", ["webshop", "id"])
def test_a_session_that_the_server_forgot_is_made_anew(dialect: str) -> None:
    kind = Shop if dialect == "webshop" else Rooms
    with serving(kind()) as server:
        session = opener(server, dialect=dialect, splits={"all": "0-9"})()
        first = session.reset("1")
        server.answer = kind()
        assert session.reset("1") == first and session.reset("1") == first
        assert server.asked.count("POST /create") == 2


def test_any_server_can_read_the_actions() -> None:
    heard: list[str] = []

    class Listening(Rooms):
        def __call__(self, method: str, path: str, body: Any) -> tuple[int, Any]:
            heard.extend([body["action"]] if path == "/step" else [])
            return super().__call__(method, path, body)

    with serving(Listening()) as server:
        session = opener(server, dialect="id", splits={"all": "0-9"})()
        session.reset("1")
        for text in ("half \ud83d", "whole \U0001f600", "x" * 100_000):
            session.step(text)
    assert heard == ["half ?", "whole \U0001f600", "x" * 4_000]


def test_a_task_that_the_server_does_not_have() -> None:
    with serving(Shop()) as server:
        session = opener(server, splits={"test": "0-300"})()
        with pytest.raises(EnvironmentDown, match=r"/reset: expected the first .* got HTTP 500"):
            session.reset("300")
        session.reset("3")
        with pytest.raises(EpisodeError, match="there is no task 'x': expected a number"):
            session.reset("x")
        with pytest.raises(EpisodeError, match="there is no split 'dev'; there are 'test'"):
            session.tasks("dev")


def test_nobody_is_there() -> None:
    with serving(Shop()) as server:
        session = opener(server)()
        session.reset("0")
    with pytest.raises(EnvironmentDown, match=r"/step: .* got no connection"):
        session.step("wait")
    for again in (session, opener(server)()):
        with pytest.raises(EnvironmentDown, match=r"/create: .*; see whether the server runs"):
            again.reset("0")


# Faults in the shop's own answers.
OWN: dict[str, Fault] = {
    "no number": Fault(edited(reward="1")),
    "a reward that is null": Fault(edited(reward=None)),
    "a reward that is a truth": Fault(edited(reward=True)),
    "a reward that is NaN": Fault(edited(reward=float("nan"))),
    "a reward without end": Fault(edited(reward=float("inf"))),
    "a reward below all": Fault(edited(reward=-float("inf"))),
    "done is a number": Fault(edited(done=1)),
    "done is absent": Fault(says({"state": "a", "reward": 0})),
    "the text is a list": Fault(edited(state=["a"])),
    "the text is null": Fault(edited(state=None)),
}
CASES = [
    *((path, name, fault) for name, fault in FAULTS.items()
      for path in ("/create", "/reset", "/step", "/available_actions")),
    *(("/step", name, fault) for name, fault in OWN.items()),
    ("/step", "answers 404", Fault(status(404))),
    ("/create", "answers 404", Fault(status(404), EpisodeError)),
    ("/available_actions", "a bar that is a text", Fault(edited(has_search_bar="yes"))),
    ("/available_actions", "clicks that are numbers", Fault(edited(clickables=[1]))),
    ("/instruction_text", "an instruction that is an object", Fault(says({}))),
    ("/create", "a truth", Fault(says(True))),
    ("/create", "a number below 0", Fault(says(-1))),
    ("/create", "a number with a point", Fault(says(1.0))),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "name", "fault"), in_cases(CASES, "/create", "/available_actions")
)
def test_no_fault_is_scored(path: str, name: str, fault: Fault) -> None:
    with serving(Shop()) as server:
        session = opener(server, actions=True)()
        first = None if path == "/create" else session.reset("7")
        server.broken[path] = fault.breaks
        hurry(session, name)
        with pytest.raises(EpisodeError) as caught:
            session.step("wait") if path == "/step" else session.reset("7")
        text = str(caught.value)
        assert isinstance(caught.value, EnvironmentDown) == (fault.error is EnvironmentDown)
        assert re.fullmatch(rf"{server.url}{path}\S*: expected .+; got .+; .+", text), text
        assert len(text) < 1000 and text.isprintable()
        # Nothing is lost: once the server is sound again, the session goes on.
        server.broken.clear()
        hurry(session, name, 20)
        assert first in (None, session.reset("7"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("packed", "got one packed as gzip; switch that off there"),
        ("a long body", "got more than 4 MB; see what the server sends"),
        ("hangs", "got nothing complete within 0.4 s; see whether the server is busy"),
        ("answers 503", "got HTTP 503 Something (<html>no</html>); see the server's log"),
        ("redirects elsewhere", "it points to http://127.0.0.1:1/, which is not followed"),
        ("a page", "got no JSON"),
        ("resets the connection", "got no connection"),
        ("truncated", "got an answer that breaks off"),
    ],
)
def test_what_is_wrong_is_said(name: str, words: str) -> None:
    with serving(Shop()) as server:
        session = opener(server)()
        session.reset("0")
        server.broken["/step"] = FAULTS[name].breaks
        hurry(session, name)
        with pytest.raises(EpisodeError, match=re.escape(words)):
            session.step("wait")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "option 'url"),
        ({"url": "127.0.0.1:80"}, "expected an address such as"),
        ({"url": "ftp://host/"}, "expected an address such as"),
        ({"url": "file:///etc/passwd"}, "expected an address such as"),
        ({"url": "http://"}, "expected an address such as"),
        ({"url": "http://host:99999"}, "expected an address such as"),
        ({"url": "http://me:secret@host"}, "expected an address such as"),
        ({"url": "http://:secret@host"}, "expected an address such as"),
        ({"url": "http://host/?a=b"}, "expected an address such as"),
        ({"url": "http://h\xf6st/"}, "expected an address such as"),
        ({"url": []}, "option 'url"),
        ({"url": "http://h", "dialect": "web"}, "option 'dialect'"),
        ({"url": "http://h", "dialect": "id", "actions": True}, "'actions' needs"),
        ({"url": "http://h", "splits": {"a": "5-2"}}, "expected tasks as 'FIRST-LAST'"),
        ({"url": "http://h", "splits": {"a": "all"}}, "expected tasks as 'FIRST-LAST'"),
        ({"url": "http://h", "splits": {"a": "0-99999999999"}}, "expected tasks as"),
        ({"url": "http://h", "splits": {"a": [1, 1]}}, "none of them twice"),
        ({"url": "http://h", "splits": {"a": []}}, "expected tasks as"),
        ({"url": "http://h", "splits": {"a": [-1]}}, "option 'splits"),
        ({"url": "http://h", "timeout": 0}, "option 'timeout'"),
        ({"url": "http://h", "retries": 3}, "option 'retries'"),
    ],
)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        open_environment("agentgym", options, Path())
    assert "\n" not in str(caught.value)


def test_no_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with serving(Shop()) as server:
        assert opener(server)().reset("0").text.startswith("WebShop")


def test_search_words() -> None:
    search = agentgym._search_for  # pyright: ignore[reportPrivateUsage]
    assert search("Instruction: [SEP] A 3-pack, 'size' 8.5?") == "search[a 3-pack 'size' 8.5]"
