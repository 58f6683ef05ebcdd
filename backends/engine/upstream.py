"""The only HTTP client of the hot path: HTTP/1.1 over one `asyncio.Protocol`, a pool of connections an endpoint.

A response costs one wake-up at its head; a pumped body costs none: its bytes are written out where they come in.
Nothing is limited here: how many requests run at once is admission's to say.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from backends.errors import Unavailable, UpstreamError, UpstreamProtocolError, UpstreamTimeout
from backends.model import Headers, Write

CONNECT_TIMEOUT_SECONDS = 5.0
# vLLM's uvicorn closes a silent connection after 5 s: let go before it does, so that no request races its close.
IDLE_SECONDS = 4.0
# Bytes of a body held for a slow holder before the socket is no longer read.
HIGH_WATER_BYTES = 256 * 1024

# Fields of the connection, not of the answer (RFC 9110 §7.6.1), and those that the gateway writes itself.
_DROPPED = frozenset(
    b"connection keep-alive proxy-connection transfer-encoding content-length te trailer upgrade date server "
    b"x-request-id cache-control x-accel-buffering".split()
)


class Stale(UpstreamError):
    """A kept-alive connection was closed before any byte of the answer: safe to send again on a fresh one."""


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

    async def pump(self, write: Write) -> None:
        self._write = write
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

    def received(self) -> None:
        """A read is used up: write out what it brought, or wake who waits for it."""
        chunks = self.chunks
        if self._write is None or self._blocked is not None or self._failure is not None:
            if sum(map(len, chunks)) > HIGH_WATER_BYTES:
                self._pause()
            self.wake()
        elif chunks:
            data = chunks.pop() if len(chunks) == 1 else self._take()
            try:
                self._blocked = self._write(data)
            except Exception as error:  # noqa: BLE001  # it belongs to the task that pumps, not to this callback
                self._failure = error
                self.wake()
            if self._blocked is not None:
                self._pause()
                self.wake()

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


class Connection(asyncio.Protocol):
    """One kept-alive connection to an endpoint; carries one request at a time."""

    __slots__ = ("_answer", "_got_bytes", "_parser", "_pool", "_reused", "_transport", "closed", "idle_since", "loop")

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.closed = False
        self.idle_since = 0.0
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._reused = False
        self._got_bytes = False
        self._transport: asyncio.Transport

    def send(self, request: bytes) -> Answer:
        self._answer = answer = Answer(self)
        self._got_bytes = False
        self._transport.write(request)
        return answer

    def abort(self) -> None:
        self._answer = None
        self.closed = True
        self._transport.abort()

    def pause(self) -> None:
        self._transport.pause_reading()

    def resume(self) -> None:
        if not self.closed:
            self._transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._pool.open_count += 1

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        self._got_bytes = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._break(UpstreamProtocolError(f"{self._pool.name} sent bytes that are not HTTP/1.1: {error}"))
            return
        if answer is None:
            self.abort()  # bytes that nobody asked for
        else:
            answer.received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._pool.open_count -= 1
        answer = self._answer
        if answer is None:
            self._pool.forget(self)
        elif answer.head_complete and not answer.framed and exc is None:
            self._answer = None
            answer.finish()  # a body without length ends with the connection (RFC 9112 §6.3)
        elif self._reused and not self._got_bytes:
            self._break(Stale(f"{self._pool.name} closed the connection before it answered."))
        else:
            self._break(UpstreamError(f"{self._pool.name} closed the connection before its answer was complete."))

    def _break(self, error: UpstreamError) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.finish(error)
        if not self.closed:
            self.abort()

    # httptools' callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        answer = self._answer
        if answer is None:
            return
        name = name.lower()
        if name not in _DROPPED:
            answer.headers.append((name, value))
        elif name == b"content-length" or name == b"transfer-encoding":  # noqa: PLR1714  # twice as fast as `in`
            answer.framed = True

    def on_headers_complete(self) -> None:
        answer = self._answer
        if answer is not None:
            answer.status = self._parser.get_status_code()
            answer.head_complete = answer.status >= 200  # an interim response (1xx) is followed by the real one

    def on_body(self, body: bytes) -> None:
        if self._answer is not None:
            self._answer.chunks.append(body)

    def on_message_complete(self) -> None:
        answer = self._answer
        if answer is None:
            return
        if not answer.head_complete:
            answer.headers.clear()
            return
        self._answer = None
        keep = self._parser.should_keep_alive()
        answer.finish()
        if keep:
            self._reused = True
            self._pool.give_back(self)
        else:
            self.closed = True
            self._transport.close()


class Pool:
    """The connections to one endpoint. `name` is how errors speak of it; `headers` go out with each request."""

    def __init__(self, address: str, name: str, headers: Headers = ()) -> None:
        self.name = name
        self.open_count = 0
        self._idle: list[Connection] = []
        self._heads: dict[tuple[str, str], bytes] = {}
        self._tls: ssl.SSLContext | None = None
        self._socket_path: str | None = None
        self._base = ""
        if address.startswith("unix:"):
            self._socket_path, self._host, self._port, authority = address[5:], "", 0, "localhost"
        else:
            url = urlsplit(address)
            self._host, authority, self._base = url.hostname or "", url.netloc, url.path.rstrip("/")
            self._port = url.port or (443 if url.scheme == "https" else 80)
            if url.scheme == "https":
                self._tls = ssl.create_default_context()
        self._fixed = b"host: %b\r\ncontent-type: application/json\r\n" % authority.encode()
        self._fixed += b"".join(b"%b: %b\r\n" % field for field in headers)

    @property
    def idle_count(self) -> int:
        return len(self._idle)

    async def send(self, method: str, path: str, headers: Headers, body: bytes) -> Answer:
        """Send one request and return at the head of its answer.

        Raises `Unavailable` when the endpoint cannot be reached, `UpstreamError` when it breaks off before the
        head. Cancelling it closes the connection.
        """
        request = self._render(method, path, headers, body)
        while True:
            connection = self._take()
            answer = (connection or await self._connect()).send(request)
            try:
                await answer.head()
            except Stale:
                continue
            except BaseException:
                answer.release()
                raise
            return answer

    def give_back(self, connection: Connection) -> None:
        idle = self._idle
        connection.idle_since = now = connection.loop.time()
        idle.append(connection)
        if now - idle[0].idle_since > IDLE_SECONDS:  # the least used is at the bottom: it goes first
            idle.pop(0).abort()

    def forget(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Close the idle connections; those in use close with their answers."""
        while self._idle:
            self._idle.pop().abort()

    def _take(self) -> Connection | None:
        idle = self._idle
        while idle:
            connection = idle.pop()
            if not connection.closed and connection.loop.time() - connection.idle_since < IDLE_SECONDS:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                if self._socket_path is not None:
                    _, connection = await loop.create_unix_connection(lambda: Connection(self, loop), self._socket_path)
                else:
                    _, connection = await loop.create_connection(
                        lambda: Connection(self, loop), self._host, self._port, ssl=self._tls
                    )
        except TimeoutError as error:
            raise UpstreamTimeout(
                f"{self.name} did not accept a connection within {CONNECT_TIMEOUT_SECONDS:g} s."
            ) from error
        except OSError as error:
            raise Unavailable(f"{self.name} cannot be reached: {error.strerror or error}.") from error
        return connection

    def _render(self, method: str, path: str, headers: Headers, body: bytes) -> bytes:
        head = self._heads.get((method, path))
        if head is None:
            head = b"%b %b HTTP/1.1\r\n%b" % (method.encode(), (self._base + path).encode(), self._fixed)
            if len(self._heads) < 64:  # paths with ids in them must not pile up
                self._heads[method, path] = head
        parts = [head, b"content-length: %d\r\n" % len(body)]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        parts += (b"\r\n", body)
        return b"".join(parts)
