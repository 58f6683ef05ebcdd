"""One question to an endpoint, off the hot path: health, metrics, the list of models."""

from __future__ import annotations

import asyncio

from backends.engine.upstream import Pool
from backends.errors import UpstreamProtocolError, UpstreamTimeout


class Probe:
    """Asks one endpoint again and again over a kept-alive connection; close it."""

    def __init__(self, address: str) -> None:
        self._pool = Pool(address, address)

    async def get(self, path: str, timeout_seconds: float, limit: int) -> tuple[int, bytes]:
        """GET `path`: the status, and the body if it is at most `limit` bytes.

        Raises `Unavailable` when nobody answers there, `UpstreamTimeout`, `UpstreamError` when the answer broke
        off, `UpstreamProtocolError` when it is not HTTP or too long.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                answer = await self._pool.send("GET", path, (), b"")
                body = b""
                try:
                    async for data in answer:
                        body += data
                        if len(body) > limit:
                            raise UpstreamProtocolError(
                                f"{self._pool.name}{path} answered more than {limit} bytes: they are not read."
                            )
                finally:
                    await answer.aclose()
        except TimeoutError as error:
            raise UpstreamTimeout(f"{self._pool.name}{path} gave no answer within {timeout_seconds:g} s.") from error
        return answer.status, body

    def close(self) -> None:
        self._pool.close()


async def get(address: str, path: str, timeout_seconds: float, limit: int) -> tuple[int, bytes]:
    """Ask once: see `Probe.get`. `address` is `unix:/path`, `http://host:port[/base]` or `https://…`."""
    probe = Probe(address)
    try:
        return await probe.get(path, timeout_seconds, limit)
    finally:
        probe.close()
