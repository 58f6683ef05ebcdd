"""The one way tests wait: ask again until it holds, up to a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
PAUSE_SECONDS = 0.02


def eventually(probe: Callable[[], T], *, seconds: float = 10.0, what: str = "it") -> T:
    """What `probe` returns once that is true; an `AssertionError` when it has not become so in time."""
    deadline = time.monotonic() + seconds
    while not (found := probe()):
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds} s: {found!r}"
        time.sleep(PAUSE_SECONDS)
    return found


async def eventually_async(probe: Callable[[], Awaitable[T]], *, seconds: float = 10.0, what: str = "it") -> T:
    """As `eventually`, for a probe that is awaited."""
    deadline = time.monotonic() + seconds
    while not (found := await probe()):
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds} s: {found!r}"
        await asyncio.sleep(PAUSE_SECONDS)
    return found
