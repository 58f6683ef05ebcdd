"""A client that sees everything: each HTTP chunk as it was framed, each event, the end, and how it leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
FAMILIES = (CHAT, COMPLETIONS, RESPONSES, MESSAGES)

FOREVER = {"ttft_ms": 600_000}


def question(path: str = CHAT, words: str = "one two three", *, model: str = "echo", **fields: Any) -> dict[str, Any]:
    """A request body of any family; the engine answers with the words."""
    turns = [{"role": "user", "content": words}]
    own: dict[str, dict[str, Any]] = {
        CHAT: {"messages": turns},
        COMPLETIONS: {"prompt": words, "max_tokens": 16384},
        RESPONSES: {"input": words},
        MESSAGES: {"messages": turns, "max_tokens": 16384},
    }
    return {"model": model, **own[path], **fields}


def request(path: str, body: bytes, *headers: str, version: str = "1.1") -> bytes:
    """A request as bytes."""
    lines = [f"POST {path} HTTP/{version}", "host: tritium", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Answer:
    """What the server says on one connection; `head` first, then the body by `chunk`, `event` or `rest`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.whole = False
        self._buffer = b""

    async def head(self) -> int:
        """The status, once the head is in."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self.whole = False
        self._buffer = b""
        return self.status

    @property
    def is_chunked(self) -> bool:
        return self.headers.get("transfer-encoding") == "chunked"

    async def chunk(self) -> bytes:
        """The next chunk as it was framed, b"" at the end of the body."""
        if self.whole:
            return b""
        assert self.is_chunked, self.headers
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        data = (await self.reader.readexactly(size + 2))[:-2]
        self.whole = size == 0
        return data

    async def event(self) -> bytes:
        """The next whole event or comment without the blank line after it; b"" at the end of the body."""
        while True:
            for end in (b"\r\n\r\n", b"\n\n"):
                event, found, rest = self._buffer.partition(end)
                if found:
                    self._buffer = rest
                    return event
            data = await self.chunk()
            if not data:
                assert not self._buffer, f"half an event: {self._buffer!r}"
                return b""
            self._buffer += data

    async def events(self) -> AsyncIterator[bytes]:
        while event := await self.event():
            yield event

    async def rest(self) -> bytes:
        """What is left of the body."""
        data, self._buffer = self._buffer, b""
        if "content-length" in self.headers:
            return data + await self.reader.readexactly(int(self.headers["content-length"]))
        if not self.is_chunked:
            return data + await self.reader.read()
        parts = [data]
        while part := await self.chunk():
            parts.append(part)
        return b"".join(parts)

    async def is_closed(self) -> bool:
        """Wait for the server to close the connection; whether it said nothing more before."""
        try:
            return not await self.reader.read()
        except ConnectionResetError:
            return True


@asynccontextmanager
async def connection(url: str, *, limit: int = 1 << 20) -> AsyncIterator[Answer]:
    """A connection to the server at `url`, dropped without a word at the end of the block."""
    host, _, port = url.removeprefix("http://").partition(":")
    async with dropping(*await asyncio.open_connection(host, int(port), limit=limit)) as answer:
        yield answer


@asynccontextmanager
async def dropping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> AsyncIterator[Answer]:
    """An open connection, dropped without a word at the end of the block."""
    try:
        yield Answer(reader, writer)
    finally:
        writer.transport.abort()
        try:
            await writer.wait_closed()
        except ConnectionResetError:
            pass


@asynccontextmanager
async def asking(
    url: str, body: dict[str, Any], path: str = CHAT, *headers: str, version: str = "1.1"
) -> AsyncIterator[Answer]:
    """A request under way; leaves without a word at the end of the block."""
    async with connection(url) as answer:
        answer.writer.write(request(path, json.dumps(body).encode(), *headers, version=version))
        yield answer


async def ask(url: str, body: dict[str, Any], path: str = CHAT, *headers: str) -> tuple[Answer, bytes]:
    """A request and its whole answer."""
    async with asking(url, body, path, *headers) as answer:
        await answer.head()
        return answer, await answer.rest()


@asynccontextmanager
async def crowd(url: str, bodies: list[dict[str, Any]], path: str = CHAT) -> AsyncIterator[list[Answer]]:
    """Many requests under way at once, each on its own connection; all leave at the end of the block."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(asking(url, body, path)) for body in bodies]


def events_of(body: bytes) -> list[bytes]:
    """The events and comments of a whole stream."""
    return [event for event in body.replace(b"\r\n", b"\n").split(b"\n\n") if event]


def data_of(event: bytes) -> Any:
    """The decoded data of an event."""
    (line,) = [line for line in event.splitlines() if line.startswith(b"data: ")]
    return json.loads(line.removeprefix(b"data: "))


def error_of(event: bytes) -> dict[str, Any]:
    """The error that an error event reports, in either form."""
    lines = event.splitlines()
    assert lines[0] == b"event: error" or lines[0].startswith(b'data: {"error"'), event
    error: dict[str, Any] = data_of(event)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error
