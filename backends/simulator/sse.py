"""A stream of events as a vLLM server writes it: one HTTP chunk and one write an event."""

from __future__ import annotations

import asyncio
from itertools import cycle

from backends.simulator.faults import Fault
from backends.simulator.http import Exchange

_HEAD = (("content-type", "text/event-stream; charset=utf-8"), ("transfer-encoding", "chunked"))
_PIECE_SIZES = (1, 7, 3, 19, 2, 11, 5, 40)
_HELD_BACK_BYTES = 3


class EventStream:
    """The events of one answer. The faults of layout (`split`, `crlf`, `keepalive-comments`) live here."""

    def __init__(self, exchange: Exchange, fault: Fault) -> None:
        self._exchange = exchange
        self._fault = fault
        self._end = b"\r\n\r\n" if fault is Fault.CRLF else b"\n\n"
        self._plain = fault not in (Fault.CRLF, Fault.SPLIT, Fault.KEEPALIVE_COMMENTS)
        self._buffer = b""
        self._sizes = cycle(_PIECE_SIZES)

    def open(self) -> None:
        """Send the head. An engine that hangs before it never gets further, so nothing is sent."""
        if self._fault is not Fault.HANG_BEFORE_HEAD:
            self._exchange.open(200, _HEAD)

    async def send(self, data: bytes, name: bytes = b"") -> None:
        """Send one event; waits while the client is slow."""
        if self._plain and not name:
            self._exchange.write(b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data))
        else:
            await self._send_named(data, name)
        await self._exchange.drain()

    async def close(self, last: bytes = b"") -> None:
        """Send a last event, when there is one, and the end of the body."""
        if last:
            await self.send(last)
        if self._buffer:
            await self._split(0)
        await asyncio.sleep(0)
        self._exchange.write(b"0\r\n\r\n")

    async def _send_named(self, data: bytes, name: bytes) -> None:
        line = b"\r\n" if self._fault is Fault.CRLF else b"\n"
        event = (b"event: " + name + line if name else b"") + b"data: " + data + self._end
        if self._fault is Fault.SPLIT:
            self._buffer += event
            await self._split(_HELD_BACK_BYTES)
            return
        if self._fault is Fault.KEEPALIVE_COMMENTS:
            self._chunk(b": keep-alive\n\n")
        self._chunk(event)

    async def _split(self, held_back: int) -> None:
        """Send the buffer in pieces, down to the bytes held back: the next event starts in the chunk that ends this."""
        while len(self._buffer) > held_back:
            size = min(next(self._sizes), len(self._buffer) - held_back)
            piece, self._buffer = self._buffer[:size], self._buffer[size:]
            frame = b"%x\r\n%b\r\n" % (size, piece)
            for part in (frame[: size + 1], frame[size + 1 :]):
                self._exchange.write(part)
                await asyncio.sleep(0)
            await self._exchange.drain()

    def _chunk(self, event: bytes) -> None:
        self._exchange.write(b"%x\r\n%b\r\n" % (len(event), event))
