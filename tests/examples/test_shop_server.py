"""The example shop over real HTTP: AgentGym's protocol, and what a client can get wrong."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tests.examples.needs")  # genepool[shop]

import httpx

from tests.examples.shops import small_shop
from tests.quick import quick
from webshop import Shop, made, serve, walkthrough
from webshop.server import LARGEST_BODY

FOLDER = Path(__file__).parents[2] / "examples/webshop"
SHOP = Shop(*made())


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """A client of the built-in shop."""
    with serve(SHOP) as url, httpx.Client(base_url=url, timeout=120) as opened:
        yield opened


def get(client: httpx.Client, path: str, session: Any) -> Any:
    return client.get(path, params={"env_idx": session}).json()


def test_the_protocol(client: httpx.Client) -> None:
    assert client.get("/").json() == "ok"
    session = client.post("/create").json()
    assert type(session) is int
    assert session in client.get("/list_envs").json()
    wish = SHOP.goals[7].instruction
    start = f"WebShop [SEP] Instruction: [SEP] {wish} [SEP] Search"
    reset = client.post("/reset", json={"env_idx": session, "session_id": 7})
    assert reset.status_code == 200 and reset.json() == [start, None]
    assert get(client, "/observation", session) == start
    assert get(client, "/instruction_text", session) == f"Instruction: {wish}"
    assert get(client, "/available_actions", session) == {
        "has_search_bar": True,
        "clickables": ["search"],
    }
    state, answer = SHOP.start(7), {}
    for action in walkthrough(SHOP, 7):
        assert answer.get("done", False) is False
        answer = client.post("/step", json={"env_idx": session, "action": action}).json()
        step = SHOP.step(state, action)
        state = step.state
        assert answer == {
            "state": SHOP.text(state),
            "reward": step.reward,
            "done": step.done,
            "info": None,
        }
        assert get(client, "/observation", session) == SHOP.text(state)
        assert get(client, "/available_actions", session) == {
            "has_search_bar": False,
            "clickables": list(SHOP.clickables(state)),
        }
    assert answer["reward"] == 1.0 and answer["done"] is True
    # A session can be used again, as often as one likes.
    for goal in (7, 7, 8):
        found = client.post("/reset", json={"env_idx": session, "session_id": goal}).json()
        assert found == [SHOP.text(SHOP.start(goal)), None]


def test_an_invalid_action_is_worth_nothing_and_changes_nothing(client: httpx.Client) -> None:
    session = client.post("/create").json()
    before = get(client, "/observation", session)
    for action in ("", "buy", "click[buy now]", "search[" + "a" * 60_000, "\x00", "é\u2028😀"):
        answer = client.post("/step", json={"env_idx": session, "action": action})
        assert answer.status_code == 200
        assert answer.json() == {"state": before, "reward": 0.0, "done": False, "info": None}


@pytest.mark.slow
def test_sessions_are_apart_and_a_goal_is_the_same_in_each(client: httpx.Client) -> None:
    def play(goal: int) -> list[Any]:
        session = client.post("/create").json()
        seen: list[Any] = [
            client.post("/reset", json={"env_idx": session, "session_id": goal}).json()
        ]
        for action in walkthrough(SHOP, goal):
            body = {"env_idx": session, "action": action}
            seen.append(client.post("/step", json=body).json())
        return seen

    goals = [goal % 10 for goal in range(60)]
    with ThreadPoolExecutor(8) as pool:
        played = list(pool.map(play, goals))
    assert all(seen[-1]["reward"] == 1.0 for seen in played)
    for goal, seen in zip(goals, played, strict=True):
        assert seen == played[goals.index(goal)]
    with serve(Shop(*made())) as url:  # another server
        session = httpx.post(f"{url}/create").json()
        body = {"env_idx": session, "session_id": 3}
        assert httpx.post(f"{url}/reset", json=body).json() == played[3][0]


def test_without_a_goal_the_sessions_id_decides() -> None:
    with serve(SHOP) as url, httpx.Client(base_url=url) as client:
        for session in range(3):
            assert client.post("/create").json() == session
            start = SHOP.text(SHOP.start(session))
            assert get(client, "/observation", session) == start
            for body in ({"env_idx": session, "session_id": None}, {"env_idx": session}):
                assert client.post("/reset", json=body).json() == [start, None]


def test_old_sessions_are_recycled() -> None:
    with serve(small_shop(), sessions=3) as url, httpx.Client(base_url=url) as client:
        assert [client.post("/create").json() for _ in range(3)] == [0, 1, 2]
        client.post("/step", json={"env_idx": 0, "action": "search[jars]"})
        assert "Total results" in get(client, "/observation", 0)
        assert [client.post("/create").json() for _ in range(5)] == [0, 1, 2, 0, 1]
        assert "Total results" not in get(client, "/observation", 0)  # somebody else's now
        assert client.get("/list_envs").json() == [0, 1, 2]


BAD = [
    ("/step", b"", 400),
    ("/step", b"{", 400),
    ("/step", b"\xff\xfe", 400),
    ("/step", b"[" * 50_000, 400),
    ("/step", b"[]", 422),
    ("/step", b'"text"', 422),
    ("/step", b"null", 422),
    ("/step", b"{}", 422),
    ("/step", b'{"env_idx": 0}', 422),
    ("/step", b'{"env_idx": "0", "action": "x"}', 422),
    ("/step", b'{"env_idx": true, "action": "x"}', 422),
    ("/step", b'{"env_idx": 0.0, "action": "x"}', 422),
    ("/step", b'{"env_idx": NaN, "action": "x"}', 422),
    ("/step", b'{"env_idx": [0], "action": "x"}', 422),
    ("/step", b'{"env_idx": 999, "action": "x"}', 404),
    ("/step", b'{"env_idx": -1, "action": "x"}', 404),
    ("/step", b'{"env_idx": ' + b"9" * 4000 + b', "action": "x"}', 404),
    ("/step", b'{"env_idx": 0, "action": null}', 422),
    ("/step", b'{"env_idx": 0, "action": ["x"]}', 422),
    ("/step", b'{"env_idx": 0, "action": "' + b"a" * LARGEST_BODY + b'"}', 413),
    ("/reset", b"{", 400),
    ("/reset", b'{"session_id": 0}', 422),
    ("/reset", b'{"env_idx": 999, "session_id": 0}', 404),
    ("/reset", b'{"env_idx": 0, "session_id": -1}', 422),
    ("/reset", b'{"env_idx": 0, "session_id": 300}', 422),
    ("/reset", b'{"env_idx": 0, "session_id": "0"}', 422),
    ("/reset", b'{"env_idx": 0, "session_id": true}', 422),
    ("/reset", b'{"env_idx": 0, "session_id": 1.5}', 422),
    ("/close", b'{"env_idx": 0}', 404),
]


@pytest.mark.parametrize(("path", "body", "status"), BAD, ids=range(len(BAD)))
def test_bad_bodies(client: httpx.Client, path: str, body: bytes, status: int) -> None:
    client.post("/create")
    before = get(client, "/observation", 0)
    answer = client.post(path, content=body)
    assert answer.status_code == status
    detail = answer.json()["detail"]
    assert isinstance(detail, str) and 0 < len(detail) < 300 and "\n" not in detail
    assert "Traceback" not in detail
    assert get(client, "/observation", 0) == before


@pytest.mark.parametrize("session", ["", "x", "-1", "1.0", "999", "9" * 5000, "٣", "0x1", " 1"])
@pytest.mark.parametrize("path", ["/observation", "/instruction_text", "/available_actions"])
def test_bad_sessions_in_an_address(client: httpx.Client, path: str, session: str) -> None:
    for answer in (client.get(path, params={"env_idx": session}), client.get(path)):
        assert answer.status_code in (404, 422) and len(answer.json()["detail"]) < 300


def test_wrong_methods_and_paths(client: httpx.Client) -> None:
    assert client.get("/create").status_code == client.post("/observation").status_code == 405
    assert client.get("/nothing").status_code == 404


def test_a_body_without_an_end_is_refused(client: httpx.Client) -> None:
    """The server reads no further than a body may be long."""
    host, port = client.base_url.host, client.base_url.port
    with socket.create_connection((host, port), timeout=120) as raw:
        raw.sendall(b"POST /step HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
        for _ in range(5):
            raw.sendall(chunk)
        assert b" 413 " in raw.recv(100)
    assert client.get("/").json() == "ok"


def test_the_readmes_python(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert re.match(r"http://127\.0\.0\.1:\d+ Find me .*click\[buy now\]", capsys.readouterr().out)


@pytest.mark.slow
class TestCommand:
    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(FOLDER), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=240)

    @pytest.mark.parametrize("as_module", [False, True])
    def test_it_says_where_it_listens(self, as_module: bool, tmp_path: Path) -> None:
        command = ["-m", "webshop"] if as_module else [str(FOLDER)]
        cwd = FOLDER.parent if as_module else tmp_path
        with subprocess.Popen(
            [sys.executable, *command, "--page", "4"],
            cwd=cwd,
            stdout=subprocess.PIPE,
            text=True,
            # A test that runs in the background may have been told to ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(
                r"(http://127\.0\.0\.1:\d+) sells 900 products and has 300 goals\n", line
            )
            assert found, line
            with httpx.Client(base_url=found[1], timeout=120) as client:
                session = client.post("/create").json()
                wish = walkthrough(SHOP, 0)[0]
                page = client.post("/step", json={"env_idx": session, "action": wish}).json()
            # Text, back, page, next, and three strings for each of four products.
            assert page["state"].count(" [SEP] ") == 1 + 3 + 3 * 4
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=120) == 130

    def test_one_line_for_what_is_wrong(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            cases = [
                ["--data", str(tmp_path / "no.json")],
                ["--items", str(tmp_path)],
                ["--port", port],
            ]
            for options in cases:
                done = self.run(*options)
                assert done.returncode == 1 and done.stdout == ""
                assert re.fullmatch(r"webshop: [^\n]+\n", done.stderr), done.stderr

    @pytest.mark.parametrize(
        "options", quick(["--port x", "--port 65536", "--page 0", "--sessions 0", "-x"])
    )
    def test_wrong_usage(self, options: str) -> None:
        done = self.run(*options.split())
        assert done.returncode == 2 and "Traceback" not in done.stderr
