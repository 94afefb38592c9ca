"""A server on localhost that does what servers do, and what they do wrong."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]

IMPATIENT = {  # limits of downloads, for servers that answer at once or not at all
    "ATTEMPTS": 3,
    "BACKOFF_SECONDS": 0.01,
    "TIMEOUT_SECONDS": (0.15, 0.15),
    "DEADLINE_SECONDS": 2.0,
    "PIECE_BYTES": 64,
}


class FaultServer:
    """Every address has its answers, one for each time that it is asked; the last is repeated.

    What is below an address counts as that address. ``asked`` has the path and the headers of
    every request.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self._answers: list[tuple[Answer, ...]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                number = self.path.split("/")[1]
                answers = owner._answers[int(number)]
                n_before = [path.split("/")[1] for path in owner.paths].count(number)
                owner.asked.append((self.path, dict(self.headers)))
                with suppress(OSError):  # who asked has gone, as some answers make it do
                    answers[min(n_before, len(answers) - 1)](self)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.stopping = threading.Event()
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def paths(self) -> list[str]:
        """What was asked for, in order."""
        return [path for path, _ in self.asked]

    def address(self, *answers: Answer) -> str:
        """A new address with these answers."""
        self._answers.append(answers)
        return f"http://127.0.0.1:{self._server.server_port}/{len(self._answers) - 1}"

    def stop(self) -> None:
        self._server.stopping.set()
        self._server.shutdown()
        self._server.server_close()


def send(
    body: bytes = b"", status: int = 200, announced: int | None = None, **headers: str
) -> Answer:
    """An answer; with more bytes announced than there are, it is truncated."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if announced is None else announced))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    return answer


def send_rest(body: bytes, **headers: str) -> Answer:
    """The part of the body that is asked for, or all where the file is no longer the same."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if not start or handler.headers.get("If-Range") not in (None, headers.get("ETag")):
            return send(body, **headers)(handler)
        place = f"bytes {start[1]}-{len(body) - 1}/{len(body)}"
        return send(body[int(start[1]) :], 206, Content_Range=place, **headers)(handler)

    return answer


def drip(body: bytes, seconds: float = 0.02) -> Answer:
    """A byte now and then."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        send(announced=len(body))(handler)
        for i in range(len(body)):
            handler.wfile.write(body[i : i + 1])
            if handler.server.stopping.wait(seconds):
                break

    return answer


def drip_headers(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
    while not handler.server.stopping.wait(0.02):
        handler.wfile.write(b"x")


def stall(body: bytes) -> Answer:
    """Half of it, and then nothing."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        send(body[: len(body) // 2], announced=len(body))(handler)
        handler.server.stopping.wait(10)

    return answer


def reset(body: bytes) -> Answer:
    """Half of it, and then the connection is reset."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        send(body[: len(body) // 2], announced=len(body))(handler)
        handler.wfile.flush()
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()

    return answer


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def endless(status: int = 200, **headers: str) -> Answer:
    """A body without an end, whose length is not told."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        while not handler.server.stopping.is_set():
            handler.wfile.write(bytes(65536))

    return answer


def redirect_to(location: str | None = None) -> Answer:
    """A redirect, by default to where it is."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        send(status=302, Location=location or handler.path)(handler)

    return answer
