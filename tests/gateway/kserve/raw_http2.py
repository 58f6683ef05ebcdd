"""A client that speaks HTTP/2 in frames of its own making, well or badly."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hpack import Decoder, Encoder

from gateway.kserve import http2_frames as h2

SIMPLE = "/inference.GRPCInferenceService/ServerLive"


@dataclass(slots=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes


@dataclass(slots=True)
class Raw:
    """One connection. `answer` collects what comes on a stream."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    encoder: Encoder = field(default_factory=Encoder)
    decoder: Decoder = field(default_factory=Decoder)

    @classmethod
    async def open(cls, port: int, *, greets: bool = True, settings: dict[int, int] | None = None) -> Raw:
        raw = cls(*await asyncio.open_connection("127.0.0.1", port))
        if greets:
            raw.send(h2.PREFACE + h2.settings(settings or {}))
        return raw

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def head(self, path: str = SIMPLE, extra: tuple[tuple[str, str], ...] = ()) -> bytes:
        fields = [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc")]
        return self.encoder.encode([*fields, ("te", "trailers"), *extra])

    def call(
        self, stream: int, path: str = SIMPLE, body: bytes = b"\0\0\0\0\0", extra: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """A whole call of one message."""
        self.send(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, self.head(path, extra)))
        self.send(h2.frame(h2.DATA, h2.END_STREAM, stream, body))

    async def frame(self) -> Frame:
        """The next frame. Raises `IncompleteReadError` at the end."""
        high, low, kind, flags, stream = h2.HEAD.unpack(await self.reader.readexactly(h2.HEAD.size))
        return Frame(kind, flags, stream, await self.reader.readexactly(high << 16 | low))

    async def expect(self, kind: int) -> Frame:
        """The next frame of a kind."""
        while True:
            frame = await self.frame()
            if frame.kind == kind and not (kind == h2.SETTINGS and frame.flags & h2.ACK):
                return frame

    async def answer(self, stream: int) -> tuple[dict[str, str], bytes, dict[str, str]]:
        """Head, body and trailers of a stream; an answer of one block has it as its trailers too."""
        blocks: list[dict[str, str]] = []
        body = b""
        while True:
            frame = await self.frame()
            if frame.kind == h2.HEADERS:
                fields = dict(self.decoder.decode(frame.payload))
                if frame.stream == stream:
                    blocks.append(fields)
            elif frame.kind == h2.DATA and frame.stream == stream:
                body += frame.payload
            if frame.stream == stream and frame.flags & h2.END_STREAM:
                return blocks[0], body, blocks[-1]

    async def goodbye(self) -> int:
        """The code with which the server ends the connection; -1 where it says none."""
        code = -1
        try:
            while True:
                frame = await self.frame()
                if frame.kind == h2.GOAWAY:
                    code = int.from_bytes(frame.payload[4:8])
        except (asyncio.IncompleteReadError, ConnectionError):
            return code

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass
