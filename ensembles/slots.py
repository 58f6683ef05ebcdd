"""Places for the requests of one ensemble step that are under way at once, whichever requests they belong to."""

from __future__ import annotations

import asyncio
from collections import deque


class Slots:
    """So many places. Whoever takes one gives it back."""

    __slots__ = ("_free", "_waiters")

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiters: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Take a place if there is one that nobody waits for."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    def wait(self) -> asyncio.Future[None]:
        """Done when a place may be free: take it, or `leave`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        if self._free > 0:
            self._wake()
        return waiter

    def leave(self, waiter: asyncio.Future[None]) -> None:
        """Wait no longer; a place that had been offered goes to the next one."""
        if not waiter.cancel() and self._free > 0:
            self._wake()

    def give_back(self) -> None:
        self._free += 1
        self._wake()

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
