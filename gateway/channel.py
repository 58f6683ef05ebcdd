"""The control channel between the supervisor and a server process: msgpack frames, each after its length."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

import msgspec

from gateway.snapshot import ToServer, ToSupervisor

FRAME_LIMIT_BYTES = 64 * 1024 * 1024
"""A length over this is no frame of ours."""

_LENGTH = struct.Struct(">I")
_decoder: msgspec.msgpack.Decoder[ToServer | ToSupervisor] = msgspec.msgpack.Decoder(ToServer | ToSupervisor)
_encoder = msgspec.msgpack.Encoder()


class ChannelError(Exception):
    """What came over the channel is no message: one of the two ends is not ours, or not of this version."""


class Channel:
    """One end of the channel. Any task may send; one at a time may receive."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, sock: socket.socket) -> Channel:
        """Take over a connected stream socket."""
        return cls(*await asyncio.open_unix_connection(sock=sock))

    async def send(self, message: ToServer | ToSupervisor) -> None:
        """Send, waiting while the other end is slow. Raises `ConnectionError` when it is gone."""
        body = _encoder.encode(message)
        self._writer.write(_LENGTH.pack(len(body)) + body)
        await self._writer.drain()

    async def receive(self) -> ToServer | ToSupervisor:
        """The next message. Raises `EOFError` when the other end is gone, `ChannelError` when it is not ours."""
        try:
            (size_bytes,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if size_bytes > FRAME_LIMIT_BYTES:
                raise ChannelError(f"A frame of {size_bytes} bytes is over the limit of {FRAME_LIMIT_BYTES}.")
            body = await self._reader.readexactly(size_bytes)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise EOFError("The other end of the control channel is gone.") from error
        try:
            return _decoder.decode(body)
        except msgspec.DecodeError as error:
            raise ChannelError(f"A frame of the control channel is no message: {error}.") from error

    async def __aiter__(self) -> AsyncIterator[ToServer | ToSupervisor]:
        """All messages, until the other end is gone. Raises `ChannelError`."""
        while True:
            try:
                message = await self.receive()
            except EOFError:
                return
            yield message

    async def close(self) -> None:
        """Close it; the other end then reaches the end of the file. Idempotent."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            pass
