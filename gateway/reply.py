"""The answer to one client: its head, its bytes, its signs of life, and how it fails."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from backends.errors import ServingError
from backends.model import Headers
from gateway.dialect import Dialect
from gateway.errors import envelope, render
from gateway.wire import Send, Wire

_STREAM_FIELDS = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
_STREAM_TYPE = (b"content-type", b"text/event-stream; charset=utf-8")
# Fields by which an answer is framed and its connection kept or closed.
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection"})
_KEEP_ALIVE = b": keep-alive\n\n"  # never with `id:` or `retry:`: the SDK takes such a comment for an event
# How long a client that reads slowly, or not at all, may take to read why its stream ended.
_FAREWELL_SECONDS = 2.0


class Reply:
    """What goes out. `status` is 0 until the head did; after that an error can only be an event of the stream.

    `told`: an error event of the engine's own went out, so that nothing is to be added. `fields` are ours, and go out
    with any head.
    """

    __slots__ = ("_dialect", "_request_id", "fields", "send", "status", "told", "wire")

    def __init__(self, dialect: Dialect, request_id: bytes, wire: Wire, send: Send) -> None:
        self._dialect = dialect
        self._request_id = request_id
        self.wire = wire
        self.send = send
        self.status = 0
        self.told = False
        self.fields: Headers = ()

    async def start(self, status: int, headers: Headers) -> None:
        self.status = status
        await self.send(self._head(status, headers))

    async def start_stream(self, status: int, headers: Headers) -> None:
        await self.start(status, [*headers, *_STREAM_FIELDS])

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """An answer in one piece. `headers` leave the length out."""
        if not self.write(status, headers, body):
            await self.send(self._head(status, [*headers, (b"content-length", b"%d" % len(body))]))
            await self.end(body)

    def write(self, status: int, headers: Headers, body: bytes) -> bool:
        """As `whole`, at once. False, and nothing was sent, where there is more to do than to write it."""
        framing, lines = self._fields(headers)
        self.status = status
        return not framing and self.wire.answer(status, lines, body)

    async def end(self, last: bytes = b"") -> None:
        await self.send({"type": "http.response.body", "body": last, "more_body": False})

    async def end_with(self, failure: dict[str, Any]) -> None:
        """An error envelope as the last event of a stream."""
        await self.end(self._dialect.failure(failure))

    async def fail(self, error: ServingError, *, close: bool) -> int:
        """Say what went wrong, by a status before the first byte, by an event after it; the status the client saw.

        `close`: the client shall not use this connection again.
        """
        status, headers, body = render(error)
        sent = self.status or status
        try:
            async with asyncio.timeout(_FAREWELL_SECONDS):
                if self.told:
                    await self.end()
                elif self.status:
                    await self.end_with(envelope(error))
                else:
                    await self.whole(status, [*headers, (b"connection", b"close")] if close else headers, body)
        except TimeoutError:  # it reads nothing, and closing would wait until it did
            self.wire.abort()
            await self.wire.drained()
        return sent

    def keep_alive(self) -> None:
        """Show a silent stream's client that somebody is there. A client that has yet to read needs no such sign."""
        if self.wire.paused:
            return
        if not self.status:
            self.status = 200
            head = self.send(self._head(200, [_STREAM_TYPE, *_STREAM_FIELDS]))
            with contextlib.suppress(StopIteration):
                head.send(None)  # no task: it does not wait where the wire is not paused
        self.wire.chunk(_KEEP_ALIVE)

    def _head(self, status: int, headers: Headers) -> dict[str, Any]:
        framing, lines = self._fields(headers)
        self.wire.head_lines += lines
        return _head(status, framing)

    def _fields(self, headers: Headers) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """The fields of a head that uvicorn acts on, and the lines of all others, ours among them."""
        framing = []
        lines = [b"x-request-id: %b\r\n" % self._request_id]
        for field in (*headers, *self.fields) if self.fields else headers:
            if field[0] in _FRAMING:
                framing.append(field)
            else:
                lines.append(b"%b: %b\r\n" % field)
        return framing, b"".join(lines)


def _head(status: int, framing: Headers) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": framing}
