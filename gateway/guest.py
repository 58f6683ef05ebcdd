"""uvicorn as a guest in a process that is led by somebody else: no signal handlers, and a tick a second."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn

_TICK_SECONDS = 1.0  # for the date in the heads of answers


class GuestServer(uvicorn.Server):
    """When to stop is its owner's to say, by `leave`.

    uvicorn looks for its signal ten times a second, which cost an idle process a tenth of a percent of a core.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Stop accepting; `serve` returns once the connections are closed."""
        self.should_exit = True
        self._leaving.set()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            try:
                async with asyncio.timeout(_TICK_SECONDS):
                    await self._leaving.wait()
            except TimeoutError:
                pass
