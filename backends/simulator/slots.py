"""Batching slots: so many requests run at once, the others wait in the order in which they came."""

from __future__ import annotations

import asyncio


class Slots:
    """A first-in first-out semaphore whose limit may change and whose waiters may leave."""

    def __init__(self, limit: int) -> None:
        self.running = 0
        self._limit = limit
        self._queue: dict[asyncio.Future[None], None] = {}

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def resize(self, limit: int) -> None:
        self._limit = limit
        self._fill()

    async def acquire(self) -> None:
        """Wait for a slot; cancelling gives the place in the queue up."""
        if self.running < self._limit and not self._queue:
            self.running += 1
            return
        place = asyncio.get_running_loop().create_future()
        self._queue[place] = None
        self._fill()  # all who wait may be leaving
        try:
            await place
        except asyncio.CancelledError:
            # The slot may have been given in the same turn of the loop as the cancellation.
            if place.done() and not place.cancelled():
                self.release()
            else:
                self._queue.pop(place, None)
            raise

    def release(self) -> None:
        self.running -= 1
        self._fill()

    def _fill(self) -> None:
        while self.running < self._limit:
            # One who is leaving counts as waiting until it has left.
            place = next((place for place in self._queue if not place.done()), None)
            if place is None:
                return
            del self._queue[place]
            self.running += 1
            place.set_result(None)
