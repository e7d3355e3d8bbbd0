"""JSON over HTTP, as servers of environments speak it: one request, one bounded answer, in time.

Each request has a connection of its own, no proxy is used and no redirect is followed. What goes
wrong is told in one line that names the address, what was expected, what came, and what to do.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, NoReturn, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator

from genepool.documents import Unreadable, parse_json
from genepool.errors import EnvironmentDown, EpisodeError
from genepool.messages import one_line, shown

# An answer may have so many bytes; pages that agents read have thousands.
MOST = 4 * 1024 * 1024

# What a server may get over by itself: timeout, too early, too many requests, and its own faults.
_PASSING = {408, 425, 429, *range(500, 600)} - {501, 505}


class ServerGone(EnvironmentDown):
    """Nobody is there: a server that comes back will not know what it knew."""


class Answer(NamedTuple):
    """What a server answers.

    Attributes:
        status: of HTTP.
        value: its JSON; of an answer that was refused None.
    """

    status: int
    value: Any


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    try:
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        url.encode("ascii")
    except ValueError:
        sound = False
    if not sound or "@" in parts.netloc or parts.query or parts.fragment or not url.isprintable():
        raise ValueError("expected an address such as 'http://127.0.0.1:3000'")
    return url.rstrip("/")


Url = Annotated[str, AfterValidator(_checked_url)]


class JsonServer:
    """A server at an address."""

    def __init__(self, url: str, timeout: float) -> None:
        """Ask nothing yet.

        Args:
            url: as `Url` has it.
            timeout: seconds in which a request must be answered to its last byte.
        """
        self.url = url
        self._parts = urlsplit(url)
        self._timeout = timeout

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        expected: str,
        refusals: tuple[int, ...] = (),
    ) -> Answer:
        """Ask once.

        Args:
            method: of HTTP.
            path: behind the server's address.
            body: sent as JSON; None sends nothing.
            expected: what the answer should be, for messages.
            refusals: further statuses that are no error.

        Raises:
            EnvironmentDown: the answer did not come in time, or makes no sense.
            EpisodeError: the server says that there is no such thing.
        """
        try:
            status, reason, headers, data = self._exchange(method, path, body)
        except TimeoutError:
            self.late(path, expected)
        except ssl.SSLError as error:
            raise EpisodeError(
                self._says(path, expected, f"no safe connection ({error.reason})", "mend its TLS")
            ) from error
        except OSError as error:
            self.gone(path, expected, error.strerror or type(error).__name__)
        except (http.client.HTTPException, ValueError) as error:
            what = one_line(str(error) or type(error).__name__)
            got = f"an answer that breaks off or is no HTTP ({what})"
            self.down(path, expected, got, "see whether this is the right server")
        if status in refusals:
            return Answer(status, _json_or_none(data))
        if not 200 <= status < 300:
            self.refuse(path, expected, (status, reason), headers, data)
        coding = headers.get("Content-Encoding", "identity")
        if coding != "identity":
            self.down(path, expected, f"one packed as {one_line(coding)}", "switch that off there")
        if len(data) > MOST:
            self.down(path, expected, f"more than {MOST >> 20} MB", "see what the server sends")
        try:
            return Answer(status, parse_json(data))
        except Unreadable as error:
            got = f"no JSON ({error}): {shown(data[:60])}"
            self.down(path, expected, got, "see whether this is the right server")

    def down(self, path: str, expected: str, got: str, advice: str) -> NoReturn:
        """Say that the server does not answer as it should.

        Raises:
            EnvironmentDown: always.
        """
        raise EnvironmentDown(self._says(path, expected, got, advice))

    def wrong(self, path: str, expected: str, got: Any) -> NoReturn:
        """Say that JSON is not what was expected.

        Raises:
            EnvironmentDown: always.
        """
        self.down(path, expected, shown(got), "see whether this is the right server")

    def _says(self, path: str, expected: str, got: str, advice: str) -> str:
        return f"{self.url}{path}: expected {expected}; got {got}; {advice}"

    def late(self, path: str, expected: str) -> NoReturn:
        """Say that nothing came in time.

        Raises:
            EnvironmentDown: always.
        """
        got = f"nothing complete within {self._timeout:g} s"
        self.down(path, expected, got, "see whether the server is busy, or raise 'timeout'")

    def gone(self, path: str, expected: str, why: str) -> NoReturn:
        """Say that there is no connection.

        Raises:
            ServerGone: always.
        """
        got = f"no connection ({why})"
        raise ServerGone(self._says(path, expected, got, "see whether the server runs"))

    def refuse(
        self, path: str, expected: str, said: tuple[int, str], headers: Any, data: bytes
    ) -> NoReturn:
        """Say that an answer has a status (and its reason) that is no success.

        Raises:
            EnvironmentDown: the server may get over it.
            EpisodeError: it will not.
        """
        status, reason = said
        got = f"HTTP {status} {one_line(reason)}".strip()
        if 300 <= status < 400:
            place = one_line(headers.get("Location", "nowhere"))
            advice = f"it points to {place}, which is not followed: is that the server's address?"
            raise EpisodeError(self._says(path, expected, got, advice))
        told = one_line(data[:200].decode("utf-8", "replace"))
        got += f" ({told})" if told else ""
        if status in _PASSING:
            self.down(path, expected, got, "see the server's log")
        raise EpisodeError(
            self._says(path, expected, got, "see whether this is the right server and address")
        )

    def _exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> tuple[int, str, http.client.HTTPMessage, bytes]:
        deadline = time.monotonic() + self._timeout
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(
            cast("str", self._parts.hostname), self._parts.port, timeout=self._timeout
        )
        headers = {"Accept": "application/json", "Connection": "close"}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            connection.connect()
            connection.sock.settimeout(max(deadline - time.monotonic(), 0.001))
            connection.request(method, self._parts.path + path, data, headers)
            # http.client limits each wait alone: it would wait for ever for a server that drips.
            source: Any = _InTime(connection.sock, deadline)
            with http.client.HTTPResponse(source, method=method) as response:
                response.begin()
                content = response.read(MOST + 1)
                if response.length and len(content) <= MOST:
                    raise http.client.IncompleteRead(content, response.length)
                return response.status, response.reason, response.headers, content
        finally:
            connection.close()


class _InTime(io.RawIOBase):
    """What comes from a socket, all of which must be there by a point in time."""

    def __init__(self, held: socket.socket, deadline: float) -> None:
        self._socket = held
        self._deadline = deadline

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        return self._socket.recv_into(buffer)


def _json_or_none(data: bytes) -> Any:
    try:
        return parse_json(data)
    except Unreadable:
        return None
