"""A large request body, received by the event loop straight into the buffer that it is used from.

uvicorn's way is a copy from the read buffer into the parser's piece, one into the body, and one more to join them: for
tensors of megabytes they cost more than the socket. Here the connection has another protocol until the body is in.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httptools

if TYPE_CHECKING:
    from gateway.protocol import WiredProtocol


class Upload(asyncio.BufferedProtocol):
    """Stands in for `protocol` until `body` is full; `done` is then set, or broken where the client leaves before.

    The parser knows nothing of these bytes: it is replaced by one that waits for the next request.
    """

    def __init__(self, protocol: WiredProtocol, transport: asyncio.Transport, body: bytearray, filled: int) -> None:
        self._protocol = protocol
        self._transport = transport
        self._view = memoryview(body)[filled:]
        self.done: asyncio.Future[None] = protocol.loop.create_future()
        # The loop chooses its way of reading when reading starts.
        transport.pause_reading()
        transport.set_protocol(self)
        transport.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # the protocol
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self._view = self._view[nbytes:]
        if not self._view:
            self._hand_back()

    def eof_received(self) -> None:
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._view.release()
        if not self.done.done():
            self.done.set_exception(ConnectionResetError("The client left before its body was in."))
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def _hand_back(self) -> None:
        self._view.release()
        transport, protocol = self._transport, self._protocol
        transport.pause_reading()
        transport.set_protocol(protocol)
        transport.resume_reading()
        protocol.parser = httptools.HttpRequestParser(protocol)
        protocol.on_message_complete()
        if not self.done.done():  # the request may have been given up meanwhile
            self.done.set_result(None)
