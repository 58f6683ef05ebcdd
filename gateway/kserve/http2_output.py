"""What one turn of the event loop has to send on a connection, written at its end in one system call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from backends.tensors import Buffer

_HIGH_WATER_BYTES = 1 << 20
_JOINED_BYTES = 64 * 1024


class Output:
    """The sending side of a connection. Buffers are held until they are written; what is large is not copied here."""

    __slots__ = ("_buffers", "_loop", "_size_bytes", "_transport", "is_closed")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.is_closed = False
        self._transport = transport
        self._loop = loop
        self._buffers: list[Buffer] = []
        self._size_bytes = 0
        transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)

    @property
    def client(self) -> str:
        """The address at the other end."""
        peer = self._transport.get_extra_info("peername")
        return str(peer[0]) if peer else ""

    def send(self, buffers: Iterable[Buffer]) -> None:
        """Nothing is sent on a connection that is closed."""
        if self.is_closed:
            return
        if not self._buffers:
            self._loop.call_soon(self._flush)
        for buffer in buffers:
            self._buffers.append(buffer)
            self._size_bytes += len(buffer)

    def close(self) -> None:
        """Close once all is sent."""
        if not self.is_closed:
            self._flush()
            self.is_closed = True
            self._transport.close()

    def abort(self) -> None:
        self.is_closed = True
        self._transport.abort()

    def _flush(self) -> None:
        buffers, self._buffers = self._buffers, []
        size, self._size_bytes = self._size_bytes, 0
        if not buffers or self.is_closed:
            return
        if size <= _JOINED_BYTES:
            self._transport.write(buffers[0] if len(buffers) == 1 else b"".join(buffers))
        else:
            self._transport.writelines(buffers)
