"""JSON over a WebSocket: one message, one bounded answer, within one time limit."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import socket
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from genepool.documents import Unreadable, parse_json
from genepool.errors import require_packages
from genepool.messages import one_line, shown
from genepool.tasks.agent.environments.json_over_http import MOST, JsonServer

# The library would print what is told here anyway.
_SILENT = logging.getLogger("genepool.websocket")
_SILENT.disabled = True

# Behind the server's address.
PATH = "/ws"


class JsonSocket:
    """A connection, which is opened when it is first needed."""

    def __init__(self, server: JsonServer, timeout: float) -> None:
        """Open nothing yet.

        Raises:
            MissingExtraError: the package for WebSockets is not installed.
        """
        require_packages("agents", f"the server {server.url}", "websockets")
        self._server = server
        self._timeout = timeout
        self._socket: Any = None
        self._held = contextlib.ExitStack()

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._socket is not None

    def ask(self, message: Mapping[str, Any], expected: str) -> Any:
        """Send a message, and give the JSON that comes next.

        Raises:
            EnvironmentDown: nothing comes in time, or what comes makes no sense; the connection is
                closed.
            EpisodeError: the server says that there is no such thing.
        """
        failures: Any = importlib.import_module("websockets.exceptions")
        try:
            if self._socket is None:
                self._socket = self._opened()
            else:
                self._require_silence(expected)
            # A server that has closed may have said why.
            with contextlib.suppress(failures.ConnectionClosed):
                self._socket.send(json.dumps(message))
            text: str | bytes = self._socket.recv(self._timeout)
        except TimeoutError:
            self.close()
            self._server.late(PATH, expected)
        except (failures.WebSocketException, OSError, EOFError, ValueError) as raised:
            error = cast("Exception", raised)
            self.close()
            # Of a redirect, which is not followed, it is the cause.
            for one in (error, error.__cause__):
                said: Any = getattr(one, "response", None)
                if isinstance(one, failures.InvalidStatus):
                    status, body = (said.status_code, said.reason_phrase), bytes(said.body or b"")
                    self._server.refuse(PATH, "a WebSocket", status, said.headers, body)
            self._server.gone(PATH, expected, one_line(error) or type(error).__name__)
        try:
            return parse_json(text)
        except Unreadable as error:
            self.close()
            got = f"no JSON ({error}): {shown(text[:60])}"
            self._server.down(PATH, expected, got, "see whether this is the right server")

    def _require_silence(self, expected: str) -> None:
        """What comes unasked would be taken for the next answer, and so on."""
        with contextlib.suppress(TimeoutError):
            text = self._socket.recv(0)
            self.close()
            got = f"something unasked: {shown(text[:60])}"
            self._server.down(PATH, expected, got, "see whether this is the right server")

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._socket = None
        with contextlib.suppress(Exception):
            self._held.close()

    def _opened(self) -> Any:
        # Late: an extra.
        client: Any = importlib.import_module("websockets.sync.client")
        parts = urlsplit(self._server.url)
        place = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        opened = client.connect(
            f"ws{self._server.url.removeprefix('http')}{PATH}",
            # With a socket of our own, no redirect is followed.
            sock=socket.create_connection(place, self._timeout),
            open_timeout=self._timeout,
            close_timeout=0.5,
            ping_interval=None,
            compression=None,
            max_size=MOST,
            proxy=None,
            logger=_SILENT,
        )
        return self._held.enter_context(opened)
