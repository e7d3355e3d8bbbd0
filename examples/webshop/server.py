"""The shop over HTTP, as AgentGym's WebShop server speaks, on this machine's loopback alone."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .shop import Shop, State

SESSIONS = 8_000  # as many as AgentGym's server keeps
LARGEST_BODY = 64 * 1024


class Sessions:
    """At most `most` sessions; from then on the oldest ids are handed out again, silently.

    A session that was never reset, or reset without a goal, has the goal of its own id, counted
    round. AgentGym's server draws one at random.
    """

    def __init__(self, shop: Shop, most: int) -> None:
        self._shop = shop
        self._most = most
        self._created = 0
        self.states: dict[int, State] = {}

    def create(self) -> int:
        """The id of a new session."""
        session = self._created % self._most
        self._created += 1
        self.reset(session, None)
        return session

    def reset(self, session: int, goal: int | None) -> State:
        """The session's first page."""
        goal = session % len(self._shop.goals) if goal is None else goal
        self.states[session] = self._shop.start(goal)
        return self.states[session]


def app(shop: Shop, sessions: int = SESSIONS) -> Starlette:
    """The routes, over sessions of their own."""
    kept = Sessions(shop, sessions)

    def known(session: Any) -> int:
        if type(session) is not int:
            raise HTTPException(422, f"env_idx must be a whole number; got {_short(session)}.")
        if session not in kept.states:
            raise HTTPException(
                404, f"There is no session {_short(session)}; POST /create makes one."
            )
        return session

    def asked(request: Request) -> State:
        text = request.query_params.get("env_idx", "")
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else text
        return kept.states[known(number)]

    async def ok(_: Request) -> Response:
        return JSONResponse("ok")

    async def list_envs(_: Request) -> Response:
        return JSONResponse(list(kept.states))

    async def create(_: Request) -> Response:
        return JSONResponse(kept.create())

    async def reset(request: Request) -> Response:
        body = await _body(request)
        session, goal = known(body.get("env_idx")), body.get("session_id")
        if goal is not None and (type(goal) is not int or not 0 <= goal < len(shop.goals)):
            last = len(shop.goals) - 1
            text = f"session_id must be null or a goal's id, 0 to {last}; got {_short(goal)}."
            raise HTTPException(422, text)
        return JSONResponse([shop.text(kept.reset(session, goal)), None])

    async def step(request: Request) -> Response:
        body = await _body(request)
        session, action = known(body.get("env_idx")), body.get("action")
        if not isinstance(action, str):
            raise HTTPException(422, f"action must be a text; got {_short(action)}.")
        done = shop.step(kept.states[session], action)
        kept.states[session] = done.state
        answer = {"state": shop.text(done.state), "reward": done.reward, "done": done.done}
        return JSONResponse({**answer, "info": None})

    async def observation(request: Request) -> Response:
        return JSONResponse(shop.text(asked(request)))

    async def instruction_text(request: Request) -> Response:
        return JSONResponse(f"Instruction: {asked(request).goal.instruction}")

    async def available_actions(request: Request) -> Response:
        state = asked(request)
        clickables = list(shop.clickables(state))
        return JSONResponse({"has_search_bar": state.page == "start", "clickables": clickables})

    routes = [
        Route("/", ok, methods=["GET"]),
        Route("/list_envs", list_envs, methods=["GET"]),
        Route("/create", create, methods=["POST"]),
        Route("/reset", reset, methods=["POST"]),
        Route("/step", step, methods=["POST"]),
        Route("/observation", observation, methods=["GET"]),
        Route("/instruction_text", instruction_text, methods=["GET"]),
        Route("/available_actions", available_actions, methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _refused})


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object in a request's body, which is read no further than it may be long."""
    read = bytearray()
    async for chunk in request.stream():
        read += chunk
        if len(read) > LARGEST_BODY:
            raise HTTPException(413, f"A body may have at most {LARGEST_BODY} bytes.")
    try:
        value = json.loads(read)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"The body is not JSON: {_short(str(error))}.") from None
    if not isinstance(value, dict):
        raise HTTPException(422, f"The body must be a JSON object; got {_short(value)}.")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def listening(port: int) -> socket.socket:
    """A socket that listens on loopback; port 0 means a free one.

    Raises:
        OSError: The port is taken.
    """
    # asyncio sends small answers at once (TCP_NODELAY) only where the protocol is named.
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(("127.0.0.1", port))
        opened.listen(256)
    except OSError:
        opened.close()
        raise
    return opened


def server_of(shop: Shop, sessions: int = SESSIONS) -> uvicorn.Server:
    """A server that has not started: `server_of(shop).run(sockets=[listening(0)])`."""
    return uvicorn.Server(
        uvicorn.Config(
            app(shop, sessions), log_level="warning", access_log=False, lifespan="off", ws="none"
        )
    )


@contextlib.contextmanager
def serve(shop: Shop, port: int = 0, sessions: int = SESSIONS) -> Iterator[str]:
    """The shop on loopback, from a thread of this process, for as long as the context lasts.

    Yields:
        The server's URL, when it answers.
    """
    opened = listening(port)
    server = server_of(shop, sessions)
    thread = threading.Thread(target=server.run, args=([opened],), daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("The shop's server did not start.")
            time.sleep(0.005)
        yield f"http://127.0.0.1:{opened.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        opened.close()
