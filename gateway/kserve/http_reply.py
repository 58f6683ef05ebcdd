"""The answer to one KServe request over HTTP: its head, its body in parts, its events, how it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from backends.tensors import Buffer
from gateway.kserve.json import encode
from gateway.wire import Send, Wire

_JSON = b"content-type: application/json\r\n"
_EVENTS = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
_CHALLENGE = b"www-authenticate: Bearer\r\n"  # a 401 must name a scheme (RFC 9110 §15.5.2)
_LARGE_BYTES = 1 << 16  # up to here one copy costs less than one more write
# How long a client that reads slowly, or not at all, may take to read why its stream ended.
_FAREWELL_SECONDS = 2.0


class HttpReply:
    """`status` is 0 until the head went out. Lines of a head end with CRLF; `own_lines` go out with any."""

    __slots__ = ("own_lines", "send", "status", "wire")

    def __init__(self, wire: Wire, send: Send) -> None:
        self.wire = wire
        self.send = send
        self.status = 0
        self.own_lines = b""

    async def whole(self, status: int, lines: bytes, parts: Sequence[Buffer]) -> None:
        """An answer at hand; large parts are written as they are, uncopied."""
        if self.write(status, lines, parts):
            return
        self.wire.head_lines += self.own_lines + lines
        await self._head(status, [(b"content-length", b"%d" % sum(map(len, parts)))])
        for part in parts[:-1]:
            await self._body(bytes(part), more=True)
        await self._body(bytes(parts[-1]))

    def write(self, status: int, lines: bytes, parts: Sequence[Buffer]) -> bool:
        """As `whole`, at once. False, and nothing was sent, where there is more to do than to write it."""
        self.status = status
        lines = self.own_lines + lines
        if sum(map(len, parts)) < _LARGE_BYTES:
            return self.wire.answer(status, lines, b"".join(parts))
        return self.wire.answer(status, lines, b"", parts)

    async def refuse(self, status: int, message: str, method: str, allowed: Sequence[str] = ()) -> None:
        """Say what is wrong with the path or the method; HEAD gets the head alone."""
        body = encode({"error": message})
        lines = _JSON + (b"allow: %b\r\n" % ", ".join(allowed).encode() if allowed else b"")
        self.status = status
        if method != "HEAD":
            await self.whole(status, lines, [body])
            return
        self.wire.head_lines += lines
        await self._head(status, [(b"content-length", b"%d" % len(body))])
        await self._body()

    async def event(self, status: int, data: bytes) -> None:
        """One event of a stream; the first one's status is the stream's."""
        await self.start_events(status)
        self.wire.chunk(b"data: %b\n\n" % data)
        if self.wire.paused:
            await self.wire.drained()

    async def start_events(self, status: int) -> None:
        """The head of a stream, unless it went out."""
        if not self.status:
            self.status = status
            self.wire.head_lines += self.own_lines + _EVENTS
            await self._head(status, [])

    async def end(self) -> None:
        await self._body()

    async def fail(self, status: int, message: str, *, close: bool) -> int:
        """Say what went wrong: by a status before the head, by an event after it; the status that the client saw.

        `close`: the client shall not use this connection again.
        """
        lines, parts = self.failure(message)
        body = parts[0]
        sent = self.status or status
        try:
            async with asyncio.timeout(_FAREWELL_SECONDS):
                if self.status:
                    self.wire.chunk(b"data: %b\n\n" % body)
                    await self._body()
                elif close:
                    self.wire.head_lines += self.own_lines + _JSON
                    await self._head(status, [(b"content-length", b"%d" % len(body)), (b"connection", b"close")])
                    await self._body(body)
                else:
                    await self.whole(status, lines + _CHALLENGE if status == 401 else lines, parts)
        except TimeoutError:  # it reads nothing, and closing would wait until it did
            self.wire.abort()
            await self.wire.drained()
        return sent

    def failure(self, message: str) -> tuple[bytes, list[bytes]]:
        """The lines of the head and the body of an answer that says what went wrong."""
        return _JSON, [encode({"error": message})]

    async def _head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def _body(self, body: bytes = b"", *, more: bool = False) -> None:
        message: dict[str, Any] = {"type": "http.response.body", "body": body, "more_body": more}
        await self.send(message)
