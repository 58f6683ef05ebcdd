"""The connection to a client, as the hot path sees it: uvicorn's HTTP protocol with a way past ASGI for body bytes.

ASGI costs a coroutine, a dictionary and a dozen look-ups a message, and tells of a client's departure only to who
waits for it. Here a streamed chunk is one formatted write, and departure is a call. Everything else (parsing,
heads, ends, pipelining, keep-alive) stays uvicorn's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

EXTENSION = "tritium.wire"
"""Where the ASGI scope's `extensions` hold the `Wire`."""


class Outbox:
    """What one turn of the event loop has to say to all clients, written at its end, one system call a client.

    uvloop writes at once: the head of an answer and its body would be two calls, and each stream's chunk would
    wake its client between the work for two others. Together they cost a tenth less and arrive no later.
    """

    __slots__ = ("_wires", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop  # asking for the running one would cost a system call (Python 3.11)
        self._wires: list[Wire] = []

    def add(self, wire: Wire) -> None:
        if not self._wires:
            self.loop.call_soon(self._flush)
        self._wires.append(wire)

    def _flush(self) -> None:
        wires = self._wires
        self._wires = []
        for wire in wires:
            wire.flush()


class Wire(asyncio.Transport):
    """A client's transport. `paused`: it reads too slowly, see `drained`; `lost`: it is gone, see `on_lost`."""

    __slots__ = ("_outbox", "_pending", "_transport", "_waiter", "loop", "lost", "on_lost", "paused")

    def __init__(self, transport: asyncio.Transport, outbox: Outbox) -> None:
        super().__init__()
        self.paused = False
        self.lost = False
        self.on_lost: Callable[[], None] | None = None
        self._outbox = outbox
        self.loop = outbox.loop
        self._transport = transport
        self._pending: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None

    def chunk(self, data: bytes) -> None:
        """One chunk of a chunked body (RFC 9112 §7.1), between the head and the end, which go through ASGI."""
        pending = self._pending
        if not pending:
            self._outbox.add(self)
        pending.append(b"%x\r\n%b\r\n" % (len(data), data))

    def flush(self) -> None:
        """Write what this turn brought."""
        pending = self._pending
        if pending:
            self._transport.write(pending[0] if len(pending) == 1 else b"".join(pending))
            pending.clear()

    async def drained(self) -> None:
        """Wait until the client has read most of what was written, or is gone."""
        while self.paused and not self.lost:
            self._waiter = self.loop.create_future()
            await self._waiter

    def flow(self, *, paused: bool) -> None:
        self.paused = paused
        self._wake()

    def lose(self) -> None:
        self.lost = True
        self._wake()
        if self.on_lost is not None:
            self.on_lost()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # asyncio.Transport, as far as uvicorn uses it

    def write(self, data: Any) -> None:
        if not self._pending:
            self._outbox.add(self)
        self._pending.append(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)


class WiredProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which puts its connection's `Wire` into each request's scope."""

    outbox: Outbox
    _wire: Wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = Wire(cast("asyncio.Transport", transport), self.outbox)
        super().connection_made(self._wire)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: self._wire}  # type: ignore[dict-item]  # our own extension

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wire.flow(paused=True)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._wire.flow(paused=False)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._wire.lose()


def wired_protocol(loop: asyncio.AbstractEventLoop) -> type[WiredProtocol]:
    """Uvicorn's `http=` for one server: all its connections share an outbox."""
    return type("ServerProtocol", (WiredProtocol,), {"outbox": Outbox(loop)})
