"""A small HTTP/1.1 server: one task a request, cancelled the moment its client leaves."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import cast
from urllib.parse import parse_qsl, urlsplit

import httptools

_REASONS = {status.value: status.phrase for status in HTTPStatus}


@dataclass(slots=True)
class Request:
    """A request, read whole. Header names are in lower case."""

    method: str = "GET"
    target: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    keep_alive: bool = True

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


class Exchange:
    """A request and the way its answer goes out."""

    __slots__ = ("_connection", "head_sent", "request")

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection = connection
        self.request = request
        self.head_sent = False

    @property
    def connections(self) -> int:
        """How many connections the server has."""
        return self._connection.server.connections

    def reply(
        self,
        status: int,
        body: bytes,
        content_type: str = "application/json",
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Send a whole answer."""
        self.write(
            self._head(status, (("content-length", str(len(body))), ("content-type", content_type), *headers)) + body
        )

    def open(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """Send a head alone; `headers` say how the body that follows is framed."""
        self.write(self._head(status, headers))

    def write(self, data: bytes) -> None:
        self.head_sent = True
        self._connection.transport.write(data)

    async def drain(self) -> None:
        """Wait while the client reads more slowly than we write."""
        writable = self._connection.writable
        if writable is not None:
            await writable

    async def settle(self) -> None:
        """Wait until every byte written so far has been handed to the kernel."""
        await asyncio.sleep(0)
        while self._connection.transport.get_write_buffer_size():  # noqa: ASYNC110  # no event tells of this moment
            await asyncio.sleep(0.001)

    def drop(self, *, reset: bool = False) -> None:
        """Close the connection as it is; with `reset`, a TCP client sees a reset instead of an end of file."""
        transport = self._connection.transport
        plain = transport.get_extra_info("socket")
        if reset and plain is not None and plain.family != socket.AF_UNIX:
            # uvloop's socket object refuses options, a copy of the descriptor does not.
            with socket.socket(fileno=os.dup(plain.fileno())) as copy:
                copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    def _head(self, status: int, headers: Iterable[tuple[str, str]]) -> bytes:
        lines = [
            f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}",
            f"date: {self._connection.server.date()}",
            "server: uvicorn",
            *(f"{name}: {value}" for name, value in headers),
        ]
        if not self.request.keep_alive:
            lines.append("connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


Application = Callable[[Exchange], Awaitable[None]]


class Server:
    """What the connections share: the application and the idle limit. Call it to make a connection's protocol."""

    def __init__(self, application: Application, keep_alive_seconds: float) -> None:
        self.application = application
        self.keep_alive_seconds = keep_alive_seconds
        self.connections = 0
        self._date = ""
        self._date_second = -1

    def __call__(self) -> Connection:
        return Connection(self)

    def date(self) -> str:
        second = int(time.time())
        if second != self._date_second:
            self._date, self._date_second = formatdate(second, usegmt=True), second
        return self._date


class Connection(asyncio.Protocol):
    """One client connection. Requests are answered in order; reading goes on meanwhile, to see the client leave."""

    transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self.server = server
        self.writable: asyncio.Future[None] | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request()
        self._body: list[bytes] = []
        self._later: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.server.connections += 1
        self._wait_idle()

    def data_received(self, data: bytes) -> None:
        self._stop_idle()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._request.keep_alive = False
            Exchange(self, self._request).reply(400, b"Invalid HTTP request received.", "text/plain; charset=utf-8")
            self.transport.close()

    def eof_received(self) -> None:
        self._leave()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.server.connections -= 1
        self._stop_idle()
        self.resume_writing()
        self._leave()

    def pause_writing(self) -> None:
        if self.writable is None:
            self.writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        writable, self.writable = self.writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def on_message_begin(self) -> None:
        self._request, self._body = Request(), []

    def on_url(self, url: bytes) -> None:
        self._request.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._request.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        if (self._request.header("expect") or "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        request = self._request
        request.method = self._parser.get_method().decode("ascii")
        request.body = b"".join(self._body)
        request.keep_alive = self._parser.should_keep_alive()
        if self._task is None:
            self._start(request)
        else:
            self._later.append(request)

    def _start(self, request: Request) -> None:
        self._task = asyncio.get_running_loop().create_task(self._serve(Exchange(self, request)))
        self._task.add_done_callback(self._finish)

    async def _serve(self, exchange: Exchange) -> None:
        try:
            await self.server.application(exchange)
        except Exception:  # noqa: BLE001  # the top of a request's task
            traceback.print_exc(file=sys.stderr)
            if exchange.head_sent:
                exchange.drop()
            else:
                exchange.reply(500, b"Internal Server Error", "text/plain; charset=utf-8")
        if not exchange.request.keep_alive:
            self.transport.close()

    def _finish(self, _: asyncio.Task[None]) -> None:
        self._task = None
        if self.transport.is_closing():
            self._later.clear()
        elif self._later:
            self._start(self._later.popleft())
        else:
            self._wait_idle()

    def _leave(self) -> None:
        self._later.clear()
        if self._task is not None:
            self._task.cancel()
            self.transport.abort()

    def _wait_idle(self) -> None:
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(self.server.keep_alive_seconds, self.transport.close)

    def _stop_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
