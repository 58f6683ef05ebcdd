"""Reading a request body: whole, bounded, and not compressed."""

from __future__ import annotations

import tracemalloc
from collections.abc import MutableMapping
from typing import Any

import pytest

from backends.errors import BodyTooLarge, InvalidRequest
from gateway.body import ClientLeft, gather, read_body

LIMIT = 10


class Upload:
    """ASGI's `receive` over these parts; the client leaves after them unless the last ends the body."""

    def __init__(self, *parts: bytes, is_whole: bool = True) -> None:
        self.messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": part, "more_body": not is_whole or number < len(parts)}
            for number, part in enumerate(parts, 1)
        ]
        self.taken = 0

    async def __call__(self) -> MutableMapping[str, Any]:
        self.taken += 1
        return self.messages.pop(0) if self.messages else {"type": "http.disconnect"}


@pytest.mark.parametrize("parts", [[b""], [b"0123456789"], [b"01234", b"", b"56789"], [b"0"] * LIMIT])
async def test_the_parts_come_out_joined(parts: list[bytes]) -> None:
    assert await read_body(Upload(*parts), {}, LIMIT) == b"".join(parts)


async def test_a_declared_length_over_the_limit_is_refused_before_anything_is_read() -> None:
    upload = Upload(b"0" * (LIMIT + 1))
    with pytest.raises(BodyTooLarge, match=f"{LIMIT} bytes"):
        await read_body(upload, {b"content-length": b"11"}, LIMIT)
    assert upload.taken == 0


async def test_a_body_without_a_length_is_refused_once_it_is_over_the_limit() -> None:
    upload = Upload(b"012345", b"678901", b"never read")
    with pytest.raises(BodyTooLarge):
        await read_body(upload, {b"transfer-encoding": b"chunked"}, LIMIT)
    assert upload.taken == 2


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"deflate, gzip"])
async def test_a_compressed_body_is_refused_by_the_name_of_its_encoding(encoding: bytes) -> None:
    with pytest.raises(InvalidRequest, match=encoding.decode()):
        await read_body(Upload(b"\x1f\x8b"), {b"content-encoding": encoding}, LIMIT)


@pytest.mark.parametrize("encoding", [b"identity", b"Identity", b""])
async def test_no_encoding_by_any_name_is_accepted(encoding: bytes) -> None:
    assert await read_body(Upload(b"{}"), {b"content-encoding": encoding}, LIMIT) == b"{}"


@pytest.mark.parametrize("parts", [[], [b"{"]])
async def test_a_client_that_leaves_before_its_body_is_in_is_told_apart(parts: list[bytes]) -> None:
    with pytest.raises(ClientLeft):
        await read_body(Upload(*parts, is_whole=False), {b"content-length": b"5"}, LIMIT)


@pytest.mark.parametrize("parts", [[b"0"] * 8, [b"012", b"3456", b"7"], [b"01234567"]])
async def test_gathered_parts_come_out_joined(parts: list[bytes]) -> None:
    assert await gather(Upload(*parts), {b"content-length": b"8"}, LIMIT) == b"".join(parts)


@pytest.mark.parametrize("size", [1 << 19, 1 << 22])
async def test_a_large_body_is_gathered_whole(size: int) -> None:
    parts = [bytes([number]) * (size // 16) for number in range(16)]
    body = await gather(Upload(*parts), {b"content-length": b"%d" % size}, size)
    assert body == b"".join(parts)


async def test_what_a_client_says_that_it_will_send_costs_no_memory_before_it_comes() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ClientLeft):
            await gather(Upload(b"0" * 1000, b"1" * 1000, is_whole=False), {b"content-length": b"64000000"}, 1 << 26)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
