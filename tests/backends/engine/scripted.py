"""A server on a Unix socket that sends just the bytes it is told to, and what tests of the HTTP client ask it with."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from backends.engine.answer import Answer
from backends.engine.upstream import Pool

OK = b"HTTP/1.1 200 OK\r\n"
EMPTY = OK + b"content-length: 0\r\n\r\n"


class Conversation:
    """One connection that the client has opened."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.sent = 0

    async def request(self) -> tuple[bytes, bytes]:
        """The next request: its head and its body."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        return head, await self._reader.readexactly(length)

    async def say(self, *parts: bytes) -> None:
        """Send each part so that it is read alone; what comes after the client has left is dropped."""
        for part in parts:
            if self.writer.transport.is_closing():
                return
            self.writer.write(part)
            self.sent += len(part)
            for _ in range(4):  # turns of the loop: the client reads what has come
                await asyncio.sleep(0)

    async def pour(self, total: int, block: bytes = b"x" * 16384) -> None:
        """Send `total` bytes as fast as the client takes them; `sent` says how far that is."""
        self.writer.transport.set_write_buffer_limits(0)
        while self.sent < total:
            self.writer.write(block)
            await self.writer.drain()
            self.sent += len(block)

    def end(self) -> None:
        """Close in order."""
        self.writer.close()

    def reset(self) -> None:
        """Close without a word."""
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Wait until the client has closed the connection."""
        try:
            while await self._reader.read(65536):
                pass
        except ConnectionError:
            pass


class Scripted:
    """The server: conversations in the order in which they were opened."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.opened = 0
        self._conversations: asyncio.Queue[Conversation] = asyncio.Queue()

    @property
    def address(self) -> str:
        return f"unix:{self.path}"

    async def next(self) -> Conversation:
        return await self._conversations.get()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self._conversations.put_nowait(Conversation(reader, writer))


@asynccontextmanager
async def scripted() -> AsyncIterator[Scripted]:
    """The server, listening until the block ends; connections that are open then are dropped."""
    folder = Path(tempfile.mkdtemp(prefix="up-"))  # a Unix socket's path may have 107 bytes
    server = Scripted(str(folder / "s"))
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await server.accept(reader, writer)

    listening = await asyncio.start_unix_server(accept, server.path)
    try:
        yield server
    finally:
        listening.close()
        for writer in writers:
            writer.transport.abort()
        await listening.wait_closed()
        shutil.rmtree(folder, ignore_errors=True)


def chunked(parts: Iterable[bytes], *, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    """Parts in chunked transfer coding (RFC 9112 §7.1)."""
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts if part)
    return chunks + b"0\r\n" + trailer + b"\r\n"


def get(pool: Pool, path: str = "/v1/x", body: bytes = b"{}") -> asyncio.Task[Answer]:
    return asyncio.create_task(pool.send("POST", path, ((b"x-request-id", b"r1"),), body))


async def asked(pool: Pool, server: Scripted) -> tuple[asyncio.Task[Answer], Conversation]:
    """A request that a new connection carries, up to the server."""
    answer = get(pool)
    conversation = await server.next()
    await conversation.request()
    return answer, conversation


Drain = Callable[[Answer], Coroutine[Any, Any, bytes]]
"""A way of taking a body."""


async def iterated(answer: Answer) -> bytes:
    return b"".join([data async for data in answer])


async def pumped(answer: Answer) -> bytes:
    parts: list[bytes] = []
    await answer.pump(parts.append)
    return b"".join(parts)


async def pumped_slowly(answer: Answer) -> bytes:
    """By a `write` that must be awaited every other time."""
    parts: list[bytes] = []

    async def pause() -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    def write(data: bytes) -> Coroutine[Any, Any, None] | None:
        parts.append(data)
        return pause() if len(parts) % 2 else None

    await answer.pump(write)
    return b"".join(parts)


WAYS: list[Drain] = [iterated, pumped, pumped_slowly]
