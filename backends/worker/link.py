"""A connection for frames in an event loop: messages in, messages out, without a copy of what is large."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol, cast

from backends.tensors import Tensor
from backends.worker.frames import FrameDecoder, FrameError, pack, repack
from backends.worker.messages import Message

_HIGH_WATER_BYTES = 4 * 1024 * 1024


class Owner(Protocol):
    """Who a link belongs to."""

    def received(self, message: Message, payload: memoryview) -> None: ...
    def lost(self, reason: str) -> None:
        """The connection is gone, by whomever's doing; called once."""
        ...

    def paused(self, is_paused: bool) -> None:
        """The other end reads slower than is sent: send as little as may be until told otherwise."""
        ...


class Link(asyncio.BufferedProtocol):
    """One end of a connection that carries frames. What is sent on one that is gone goes nowhere."""

    __slots__ = ("_decoder", "_owner", "_reason", "is_lost", "transport")

    def __init__(self, owner: Owner) -> None:
        self.is_lost = False
        self.transport: asyncio.Transport
        self._owner = owner
        self._decoder = FrameDecoder()
        self._reason = ""

    def send(self, message: Message, tensors: Sequence[Tensor] = ()) -> None:
        """Write a message; the buffers of its tensors are written on as they are, and held until they are."""
        if not self.is_lost:
            self.transport.writelines(pack(message, tensors))

    def send_on(self, message: Message, payload: memoryview) -> None:
        """Write a message with the payload that it came with."""
        if not self.is_lost:
            self.transport.writelines(repack(message, payload))

    def close(self) -> None:
        """End the connection once all is written."""
        if not self.is_lost:
            self.transport.close()

    def abort(self, reason: str = "") -> None:
        self._reason = self._reason or reason
        if not self.is_lost:
            self.transport.abort()

    def feed(self, data: bytes) -> None:
        """Take in bytes that somebody else received."""
        while data:
            room = self._decoder.buffer()
            taken = data[: room.nbytes]
            room[: len(taken)] = taken
            self.buffer_updated(len(taken))
            data = data[len(taken) :]

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._decoder.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        received = self._owner.received
        try:
            for message, payload in self._decoder.received(nbytes):
                received(message, payload)
        except FrameError as error:
            self.abort(str(error))

    def pause_writing(self) -> None:
        self._owner.paused(True)

    def resume_writing(self) -> None:
        self._owner.paused(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._owner.lost(self._reason or (str(exc) if exc is not None else "the connection was closed"))
