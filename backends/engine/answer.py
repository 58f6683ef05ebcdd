"""One response of an engine: its head, then its body as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from backends.engine.pattern import Pattern
from backends.errors import UpstreamError
from backends.model import Body, Frame, Write

if TYPE_CHECKING:
    from backends.engine.upstream import Connection

# Bytes of a body held for a slow holder before the socket is no longer read.
HIGH_WATER_BYTES = 256 * 1024


class Answer:
    """One response: its head once `Pool.send` has returned it, then its body, read as it comes.

    An async iterator of the body's bytes. Raises `UpstreamError` when the connection breaks before the end.
    `aclose` before the end closes the connection, by which the engine knows that nobody waits any more.
    """

    __slots__ = (
        "_blocked",
        "_complete",
        "_connection",
        "_error",
        "_failure",
        "_frame",
        "_gate",
        "_pattern",
        "_paused",
        "_waiter",
        "_write",
        "chunks",
        "framed",
        "head_complete",
        "headers",
        "status",
    )

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.head_complete = False
        self.framed = False
        self._connection: Connection | None = connection
        self.chunks: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._error: UpstreamError | None = None
        self._complete = False
        self._paused = False
        self._write: Write | None = None
        self._blocked: Coroutine[Any, Any, None] | None = None
        self._failure: Exception | None = None
        self._frame: Frame | None = None
        self._gate: Callable[[bytes], bool] | None = None
        self._pattern = Pattern()

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> bytes:
        while not self.chunks:
            if self._error is not None:
                raise self._error
            if self._complete or self._connection is None:
                raise StopAsyncIteration
            await self._wait(self._connection)
        data = self._take()
        self._resume()
        return data

    def at_hand(self) -> bytes | None:
        """All of the body, if it has come already; it is taken then."""
        return self._take() if self._complete and self.chunks else None

    async def pump(self, write: Write, frame: Frame | None = None) -> None:
        self._write = write
        self._frame = frame
        try:
            await self._pump()
        finally:
            # They know who holds this answer: a cycle that only the collector would free.
            self._write = self._frame = self._gate = None
            if self._blocked is not None:  # cancelled before it had its turn
                self._blocked.close()
                self._blocked = None
            if self._connection is not None:
                self._connection.express = None

    async def _pump(self) -> None:
        self.received()
        while True:
            if self._blocked is not None:
                try:
                    await self._blocked
                finally:
                    self._blocked = None
                self._resume()
                self.received()
            elif self._failure is not None:
                raise self._failure
            elif self._error is not None:
                raise self._error
            elif self._complete or self._connection is None:
                return
            else:
                await self._wait(self._connection)

    async def aclose(self) -> None:
        self.release()

    def release(self) -> None:
        """Give the connection back to its pool if the answer is whole, close it otherwise."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    async def head(self) -> None:
        """Wait for the status line and the header fields."""
        while not self.head_complete:
            if self._error is not None:
                raise self._error
            assert self._connection is not None
            await self._wait(self._connection)

    async def _wait(self, connection: Connection) -> None:
        self._waiter = connection.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def received(self, read: bytes = b"") -> None:
        """A `read` is used up: write out what it brought, or wake who waits for it."""
        chunks = self.chunks
        if self._write is None or self._blocked is not None or self._failure is not None:
            if sum(map(len, chunks)) > HIGH_WATER_BYTES:
                self._pause()
            self.wake()
        elif chunks:
            is_single = len(chunks) == 1
            data = chunks.pop() if is_single else self._take()
            try:
                self._blocked = self._write(data)
            except Exception as error:  # noqa: BLE001  # it belongs to the task that pumps, not to this callback
                self._failure = error
                self.wake()
            if self._blocked is not None:
                self._pause()
                self.wake()
            elif is_single and self._frame is not None:
                self._open_gate(read, data, self._frame)

    def _open_gate(self, read: bytes, data: bytes, frame: Frame) -> None:
        """Let the next reads past the parser if this one was a whole chunk: only then does it stand between two.

        A parser that had stood elsewhere would have taken the size for part of the body.
        """
        connection = self._connection
        # Who writes may hold the begin of an event back, never after the end of one.
        if connection is None or not data.endswith(b"\n\n") or read != b"%x\r\n%b\r\n" % (len(data), data):
            return
        pattern = self._pattern
        if pattern.learn(data) or (self._gate is None and pattern.is_known):
            self._gate = pattern.gate(frame)
        connection.express = self._gate

    def _take(self) -> bytes:
        chunks = self.chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        return data

    def _pause(self) -> None:
        if not self._paused and self._connection is not None:
            self._paused = True
            self._connection.pause()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            if self._connection is not None:
                self._connection.resume()

    def finish(self, error: UpstreamError | None = None) -> None:
        """The connection will say no more: the answer is whole, or broken by `error`."""
        self._connection = None
        if error is None:
            self._complete = True
        else:
            self._error = error
        self.received()
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Collected:
    """A body that is all there."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._body:
            raise StopAsyncIteration
        body, self._body = self._body, b""
        return body

    def at_hand(self) -> bytes | None:
        body, self._body = self._body, b""
        return body

    async def pump(self, write: Write, frame: Frame | None = None) -> None:  # noqa: ARG002  # every body's
        body, self._body = self._body, b""
        if body and (waits := write(body)) is not None:
            await waits

    async def aclose(self) -> None:
        self._body = b""


async def whole_of(body: Body) -> bytes:
    """All of a body, read to its end. Raises `UpstreamError` when it breaks off."""
    # Most whole answers have come with their head: a loop over them costs a microsecond.
    at_hand = body.at_hand() if isinstance(body, Answer | Collected) else None
    return b"".join([part async for part in body]) if at_hand is None else at_hand
