"""A response body that is composed here, event by event."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Self

from backends.model import Frame, Responses, Write


class Composed:
    """A `Body`: what `events` yields; `responses`, where it is made of some, end with it."""

    def __init__(self, events: AsyncGenerator[bytes, None], responses: Responses | None = None) -> None:
        self._events = events
        self._responses = responses

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._events)

    async def pump(self, write: Write, frame: Frame | None = None) -> None:  # noqa: ARG002  # composed anyway
        async for event in self._events:
            waits = write(event)
            if waits is not None:
                await waits

    async def aclose(self) -> None:
        await self._events.aclose()
        if self._responses is not None:
            await self._responses.aclose()
