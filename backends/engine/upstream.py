"""The only HTTP client of the hot path: HTTP/1.1 over one `asyncio.Protocol`, a pool of connections an endpoint.

A response costs one wake-up at its head; a pumped body costs none: its bytes are written out where they come in.
Nothing is limited here: how many requests run at once is admission's to say.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

import httptools

from backends.engine.answer import Answer
from backends.errors import Unavailable, UpstreamError, UpstreamProtocolError, UpstreamTimeout
from backends.model import Headers

CONNECT_TIMEOUT_SECONDS = 5.0
# vLLM's uvicorn closes a silent connection after 5 s: let go before it does, so that no request races its close.
IDLE_SECONDS = 4.0

# Fields of the connection, not of the answer (RFC 9110 §7.6.1), and those that the gateway writes itself.
_DROPPED = frozenset(
    b"connection keep-alive proxy-connection transfer-encoding content-length te trailer upgrade date server "
    b"x-request-id cache-control x-accel-buffering".split()
)


class Stale(UpstreamError):
    """A kept-alive connection was closed before any byte of the answer: safe to send again on a fresh one."""


class Connection(asyncio.Protocol):
    """One kept-alive connection to an endpoint; carries one request at a time."""

    __slots__ = (
        "_answer",
        "_got_bytes",
        "_parser",
        "_pool",
        "_reused",
        "_transport",
        "_unasked",
        "closed",
        "express",
        "idle_since",
        "loop",
    )

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.closed = False
        self.idle_since = 0.0
        self.express: Callable[[bytes], bool] | None = None
        """Set while the parser stands between two chunks: takes reads that need no parsing."""
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._reused = False
        self._got_bytes = False
        self._unasked = False
        self._transport: asyncio.Transport

    def send(self, request: bytes) -> Answer:
        self._answer = answer = Answer(self)
        self._got_bytes = False
        self._transport.write(request)
        return answer

    def abort(self) -> None:
        self._answer = self.express = None
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
        self._pool.open.add(self)

    def data_received(self, data: bytes) -> None:
        express = self.express
        if express is not None:
            if express(data):
                return
            self.express = None
        answer = self._answer
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._break(UpstreamProtocolError(f"{self._pool.name} sent bytes that are not HTTP/1.1: {error}"))
            return
        if answer is not None:
            answer.received(data)
        if answer is None or self._unasked:
            self.abort()  # what comes unasked would be taken for the next answer

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._pool.open.discard(self)
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
        self.express = None
        if answer is not None:
            answer.finish(error)
        if not self.closed:
            self.abort()

    # httptools' callbacks

    def on_message_begin(self) -> None:
        self._got_bytes = True
        self._unasked = self._answer is None

    def on_header(self, name: bytes, value: bytes) -> None:
        answer = self._answer
        if answer is None or answer.head_complete:  # a trailer comes too late for anybody
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
        self.open: set[Connection] = set()
        self._idle: list[Connection] = []
        self._is_closed = False
        self._sweeper: asyncio.TimerHandle | None = None
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
    def open_count(self) -> int:
        return len(self.open)

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
        if self._is_closed:
            connection.abort()
            return
        connection.idle_since = connection.loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = connection.loop.call_later(IDLE_SECONDS, self._sweep, connection.loop)

    def forget(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Close the idle connections; those in use close with their answers."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        while self._idle:
            self._idle.pop().abort()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let go of connections that nobody used for long; the least used are at the bottom."""
        oldest = loop.time() - IDLE_SECONDS
        used = next((at for at, connection in enumerate(self._idle) if connection.idle_since > oldest), len(self._idle))
        for connection in self._idle[:used]:
            connection.abort()
        del self._idle[:used]
        self._sweeper = loop.call_later(IDLE_SECONDS / 2, self._sweep, loop) if self._idle else None

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
        connection = Connection(self, loop)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                if self._socket_path is not None:
                    await loop.create_unix_connection(lambda: connection, self._socket_path)
                else:
                    await loop.create_connection(lambda: connection, self._host, self._port, ssl=self._tls)
        except TimeoutError as error:
            raise UpstreamTimeout(
                f"{self.name} did not accept a connection within {CONNECT_TIMEOUT_SECONDS:g} s."
            ) from error
        except OSError as error:
            raise Unavailable(f"{self.name} cannot be reached: {error.strerror or error}.") from error
        except asyncio.CancelledError:
            # Of one that was made in this very turn of the loop uvloop does not say that it closes it.
            self.open.discard(connection)
            raise
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
