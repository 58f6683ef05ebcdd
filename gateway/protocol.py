"""uvicorn's HTTP protocol with a `Wire` for each connection, and a shortcut for requests that need no task.

Parsing, heads, ends, pipelining and keep-alive stay uvicorn's.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.wire import EXTENSION, Outbox, Scope, Send, Wire


class Shortcut(Protocol):
    """Serves requests past ASGI that are there as a whole: in the turn that brings their last byte."""

    def concerns(self, scope: Scope) -> bool:
        """Whether to look at such a request once it is there. Asked for each one."""
        ...

    def serve(self, scope: Scope, body: bytearray, wire: Wire, send: Send) -> bool:
        """Begin to serve it: it is answered by `Wire.answer`, or by `send`. False, and nothing was done: by ASGI."""
        ...


class Shortcuts:
    """The first of several shortcuts that a request concerns."""

    def __init__(self, *shortcuts: Shortcut) -> None:
        self._shortcuts = shortcuts

    def concerns(self, scope: Scope) -> bool:
        return any(shortcut.concerns(scope) for shortcut in self._shortcuts)

    def serve(self, scope: Scope, body: bytearray, wire: Wire, send: Send) -> bool:
        for shortcut in self._shortcuts:
            if shortcut.concerns(scope):
                return shortcut.serve(scope, body, wire, send)
        return False


class WiredProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which puts its connection's `Wire` into each request's scope."""

    outbox: Outbox
    shortcut: Shortcut | None = None
    _held: tuple[RequestResponseCycle, ASGI3Application] | None = None
    """What a shortcut may serve, until its last byte is there."""
    _wire: Wire
    _running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = Wire(cast("asyncio.Transport", transport), self.outbox)
        super().connection_made(self._wire)

    def on_headers_complete(self) -> None:
        # A later request of a connection has no business to be older than the first.
        if self._running is None and self.parser.get_http_version() == "1.0":
            self._wire = self.transport = self._wire.bare()
        self.scope["extensions"] = {EXTENSION: self._wire}  # type: ignore[dict-item]  # our own extension
        super().on_headers_complete()

    def eof_received(self) -> None:
        """Half closed: nobody says so who still wants an answer. uvicorn would first have it read what was written."""
        if self._wire.on_lost is not None:
            self._wire.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wire.flow(paused=True)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._wire.flow(paused=False)

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that has been silent for long, though its client may not have read its last answer."""
        self._wire.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._running is not None:  # with requests ahead of their turn, uvicorn tells only the last of them
            self._running.disconnected = True
            self._running.message_event.set()
        self._wire.lose()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._held is not None:  # its body is longer
            cycle, app = self._held
            self._held = None
            super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._held is not None and self._held[0] is self.cycle:
            cycle, app = self._held
            self._held = None
            self._serve_whole(cycle, app)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = self._wire.cycle = cycle
        self._wire.protocol = self
        shortcut = self.shortcut
        if shortcut is None or cycle.waiting_for_100_continue or not shortcut.concerns(cast("Scope", cycle.scope)):
            super()._start_asgi_task(cycle, app)
        elif cycle.more_body:
            self._held = cycle, app
        else:  # one that waited for its turn
            self._serve_whole(cycle, app)

    def _serve_whole(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        assert self.shortcut is not None
        scope, send = cast("Scope", cycle.scope), cast("Send", cycle.send)  # uvicorn has types of its own for them
        if not self.shortcut.serve(scope, cycle.body, self._wire, send):
            super()._start_asgi_task(cycle, app)


def wired_protocol(loop: asyncio.AbstractEventLoop, shortcut: Shortcut | None = None) -> type[WiredProtocol]:
    """Uvicorn's `http=` for one server: all its connections share an outbox."""
    return type("ServerProtocol", (WiredProtocol,), {"outbox": Outbox(loop), "shortcut": shortcut})
