"""Single questions to endpoints over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends.engine.probe import Probe, get
from backends.errors import Unavailable, UpstreamError, UpstreamProtocolError, UpstreamTimeout

CHUNKED = b"HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("q") / "s")


@asynccontextmanager
async def answering(path: str, answer: bytes | None) -> AsyncIterator[list[bytes]]:
    """A Unix socket where each request gets `answer` and then the end; None: nothing at all. Yields the requests."""
    asked: list[bytes] = []
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if answer is None:
            await ended.wait()
        else:
            writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield asked
    finally:
        ended.set()
        server.close()
        Path(path).unlink(missing_ok=True)


async def test_it_returns_the_status_and_the_whole_body(path: str) -> None:
    async with answering(path, CHUNKED) as asked:
        assert await get(f"unix:{path}", "/health", 5, 100) == (503, b"abcde")
        assert asked[0].startswith(b"GET /health HTTP/1.1\r\n")


async def test_the_path_follows_the_base_of_the_address() -> None:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await get(f"http://127.0.0.1:{port}/base/", "/metrics", 5, 100) == (200, b"")
    assert asked == [b"GET /base/metrics HTTP/1.1\r\n"]
    server.close()


async def test_a_body_over_the_limit_is_refused(path: str) -> None:
    async with answering(path, CHUNKED):
        with pytest.raises(UpstreamProtocolError, match="more than 4 bytes"):
            await get(f"unix:{path}", "/metrics", 5, 4)


async def test_silence_is_a_timeout(path: str) -> None:
    async with answering(path, None):
        with pytest.raises(UpstreamTimeout, match=r"/health gave no answer within 0\.1 s"):
            await get(f"unix:{path}", "/health", 0.1, 100)


async def test_nobody_there_is_unavailable(path: str) -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        await get(f"unix:{path}", "/health", 5, 100)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", b"SSH-2.0-OpenSSH\r\n"])
async def test_an_answer_that_breaks_off_or_is_no_http_is_an_error(path: str, answer: bytes) -> None:
    async with answering(path, answer):
        with pytest.raises(UpstreamError):
            await get(f"unix:{path}", "/health", 5, 100)


async def test_a_probe_asks_again(path: str) -> None:
    async with answering(path, CHUNKED) as asked:
        probe = Probe(f"unix:{path}")
        for _ in range(3):
            assert (await probe.get("/health", 5, 100))[0] == 503
        probe.close()
        assert len(asked) == 3
