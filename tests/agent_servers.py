"""Servers of environments over real sockets on loopback, sound ones and ones that break."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Any, NamedTuple

import pytest

from genepool.errors import EnvironmentDown, EpisodeError

# What a fault does to an answer: it is given the connection, the sound body, and when to stop.
Break = Callable[[socket.socket, bytes, threading.Event], None]


class Fault(NamedTuple):
    """A way in which a server breaks, and whether it may pass."""

    breaks: Break
    error: type[EpisodeError] = EnvironmentDown


class Server:
    """A server of JSON: `answer(method, path, body)` gives status and value; `broken` paths do."""

    def __init__(self, answer: Callable[[str, str, Any], tuple[int, Any]], port: int = 0) -> None:
        self.answer = answer
        self.broken: dict[str, Break] = {}
        self.asked: list[str] = []
        self.sockets = 0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def drop(self) -> None:
        """Close all connections that are open."""
        for opened in self._connections:
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._stop.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        # Clients that are tried with faults break off in the middle.
        with connection, contextlib.suppress(OSError, ValueError, IndexError):
            connection.settimeout(20)
            with connection.makefile("rb") as reader:
                method, path, _ = reader.readline().decode("latin-1").split()
                headers: dict[str, str] = {}
                while line := reader.readline().strip():
                    name, _, value = line.decode("latin-1").partition(":")
                    headers[name.lower()] = value.strip()
                if "upgrade" in headers and path not in self.broken:
                    self._talk(connection, reader, headers["sec-websocket-key"])
                    return
                length = int(headers.get("content-length", 0))
                body = json.loads(reader.read(length)) if length else None
            self.asked.append(f"{method} {path}")
            if "upgrade" in headers:
                self.broken[path](connection, b"", self._stop)
                return
            status, value = self.answer(method, path, body)
            data = json.dumps(value).encode()
            breaks = self.broken.get(path.partition("?")[0])
            if breaks is None:
                connection.sendall(head(len(data), status) + data)
            else:
                breaks(connection, data, self._stop)

    def _talk(self, connection: socket.socket, reader: Any, key: str) -> None:
        """A WebSocket, whose messages are answered by `answer("WS", its number, message)`."""
        accepted = base64.b64encode(hashlib.sha1((key + _GUID).encode()).digest()).decode()
        lines = ("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade")
        text = "\r\n".join((*lines, f"Sec-WebSocket-Accept: {accepted}"))
        connection.sendall(f"{text}\r\n\r\n".encode())
        with self._lock:
            self.sockets += 1
            number = self.sockets
        while (first := reader.read(2)) and first[0] & 15 == 1:
            length = first[1] & 127
            if length > 125:
                length = int.from_bytes(reader.read(2 if length == 126 else 8), "big")
            mask = reader.read(4)
            data = bytes(byte ^ mask[n % 4] for n, byte in enumerate(reader.read(length)))
            message = json.loads(data)
            self.asked.append(f"WS {message['type']}")
            sound = json.dumps(self.answer("WS", str(number), message)[1]).encode()
            breaks = self.broken.get(f"/ws {message['type']}")
            if breaks is None:
                connection.sendall(frame(sound))
            else:
                breaks(connection, sound, self._stop)
                return


_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # Of the standard, RFC 6455.


def frame(data: bytes, first: int = 0x81) -> bytes:
    """A message of a WebSocket in one frame; by default text."""
    size = len(data)
    if size <= 125:
        return bytes([first, size]) + data
    if size < 1 << 16:
        return bytes([first, 126]) + size.to_bytes(2, "big") + data
    return bytes([first, 127]) + size.to_bytes(8, "big") + data


@contextlib.contextmanager
def serving(answer: Callable[[str, str, Any], tuple[int, Any]]) -> Generator[Server, None, None]:
    server = Server(answer)
    try:
        yield server
    finally:
        server.close()


def head(length: int | str, status: int | str = 200, *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Something", f"Content-Length: {length}", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def sends(*parts: bytes) -> Break:
    def breaks(connection: socket.socket, _: bytes, stop: threading.Event) -> None:
        for part in parts:
            connection.sendall(part)

    return breaks


def says(value: Any) -> Break:
    """A sound answer of HTTP that holds this JSON, or these bytes."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return sends(head(len(data)) + data)


def status(number: int, text: bytes = b"<html>no</html>", *more: str) -> Break:
    return sends(head(len(text), number, *more) + text)


def changed(change: Callable[[bytes], bytes]) -> Break:
    """The sound answer, changed."""

    def breaks(connection: socket.socket, data: bytes, stop: threading.Event) -> None:
        connection.sendall(change(data))

    return breaks


def edited(**changes: Any) -> Break:
    """The sound answer, an object, with some values changed; NaN and Infinity as Python has it."""

    def change(data: bytes) -> bytes:
        new = json.dumps({**json.loads(data), **changes}).encode()
        return head(len(new)) + new

    return changed(change)


def _reset(connection: socket.socket, data: bytes, stop: threading.Event) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _hangs(connection: socket.socket, data: bytes, stop: threading.Event) -> None:
    stop.wait(20)


def _drips(first: bytes, drop: bytes) -> Break:
    def breaks(connection: socket.socket, data: bytes, stop: threading.Event) -> None:
        connection.sendall(first)
        while not stop.wait(0.02):
            connection.sendall(drop)

    return breaks


def _endless(first: bytes, part: bytes) -> Break:
    def breaks(connection: socket.socket, data: bytes, stop: threading.Event) -> None:
        connection.sendall(first)
        while not stop.is_set():
            connection.sendall(part)

    return breaks


_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_LARGE = b'"' + b"x" * (5 << 20) + b'"'

# What can break in any answer over HTTP.
FAULTS: dict[str, Fault] = {
    "resets the connection": Fault(_reset),
    "closes without an answer": Fault(sends()),
    "hangs": Fault(_hangs),
    "hangs within the head": Fault(_drips(b"HTTP/1.1 200 OK\r\nX: ", b"")),
    "drips the head": Fault(_drips(b"HTTP/1.1 200 OK\r\nX: ", b"y")),
    "drips the body": Fault(_drips(head(10**6), b" ")),
    "answers 500": Fault(status(500)),
    "answers 502": Fault(status(502)),
    "answers 503": Fault(status(503)),
    "answers 429": Fault(status(429)),
    "answers 204": Fault(sends(b"HTTP/1.1 204 No Content\r\n\r\n")),
    "answers 401": Fault(status(401), EpisodeError),
    "answers 405": Fault(status(405), EpisodeError),
    "answers 501": Fault(status(501), EpisodeError),
    "redirects to itself": Fault(status(307, b"", "Location: /step"), EpisodeError),
    "redirects elsewhere": Fault(status(302, b"", "Location: http://127.0.0.1:1/"), EpisodeError),
    "redirects to a file": Fault(status(301, b"", "Location: file:///etc/passwd"), EpisodeError),
    "redirects nowhere": Fault(status(308), EpisodeError),
    "malformed JSON": Fault(says(b'{"state": ')),
    "a page": Fault(says(b"<!doctype html><p>Welcome")),
    "two values": Fault(says(b"1 2")),
    "nothing": Fault(says(b"")),
    "blanks": Fault(says(b"  \r\n")),
    "null": Fault(says(None)),
    "a text": Fault(says("ok")),
    "a list of lists": Fault(says([[], []])),
    "an empty object": Fault(says({})),
    "an error": Fault(says({"error": "no such session"})),
    "deep JSON": Fault(says(b"[" * 100_000 + b"]" * 100_000)),
    "deep enough JSON": Fault(says(b"[" * 300 + b"]" * 300)),
    "a name twice": Fault(says(b'{"state": "a", "state": "b"}')),
    "a huge number": Fault(says(b"9" * 5000)),
    "Latin-1": Fault(says('{"state": "caf\xe9"}'.encode("latin-1"))),
    "half a character": Fault(says(b'{"state": "\\ud83d", "reward": 0, "done": false}')),
    "truncated": Fault(changed(lambda data: head(len(data) + 100) + data)),
    "cut": Fault(changed(lambda data: head(len(data)) + data[: len(data) // 2])),
    "a length that is short": Fault(sends(head(3) + b'{"state": "hello"}')),
    "a length that is none": Fault(sends(head("many") + b"{")),
    "a negative length": Fault(sends(head(-5) + b"{")),
    "a huge body": Fault(sends(head(len(_LARGE)) + _LARGE)),
    "a long body": Fault(
        changed(lambda data: head(len(data) + (5 << 20)) + data + b" " * (5 << 20))
    ),
    "a body without end": Fault(_endless(_CHUNKED, b"10000\r\n" + b" " * 0x10000 + b"\r\n")),
    "a broken chunk": Fault(sends(_CHUNKED + b"zz\r\nhello\r\n")),
    "a cut chunk": Fault(sends(_CHUNKED + b"ff\r\nhello")),
    "packed": Fault(
        changed(
            lambda data: (
                head(len(gzip.compress(data)), 200, "Content-Encoding: gzip") + gzip.compress(data)
            )
        )
    ),
    "another protocol": Fault(sends(b"SSH-2.0-OpenSSH_9.2\r\n")),
    "noise": Fault(sends(bytes(range(256)) * 40)),
    "a long line": Fault(sends(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n")),
    "many headers": Fault(sends(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n")),
    "goes on for ever": Fault(_endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n")),
}


# Faults that are over when the client's patience is.
ENDLESS = {name for name in FAULTS if name.startswith(("hangs", "drips"))} | {
    "a body without end",
    "goes on for ever",
}


def hurry(session: Any, name: str, seconds: float = 0.4) -> None:
    """Give a client little time, where only that ends a fault; elsewhere it has enough of it."""
    if name in ENDLESS or name.startswith(("hangs", "drips")):
        for waiting in (session._server, getattr(session, "_socket", None)):
            if waiting is not None:
                waiting._timeout = seconds


def in_cases(cases: Iterable[tuple[str, str, Fault]], *slow: str) -> list[Any]:
    """Parameters of a test: where a fault is, its name and the fault.

    Those in FAULTS are slow at the paths of `slow`: there they break what breaks elsewhere too.
    """
    return [
        pytest.param(
            path, name, fault, id=f"{path} {name}",
            marks=[pytest.mark.slow] if path in slow and name in FAULTS else [],
        )
        for path, name, fault in cases
    ]  # fmt: skip
