"""Admission: how many requests of a model run at once, how many wait, and when the rest may come back."""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic

from backends.errors import Overloaded

# How fast the estimate of a request's duration follows the newest one.
_SMOOTHING = 0.1


class Gate:
    """The permits of one model in one server process, first come, first served.

    `permits` None means unlimited. `enter` takes a permit or a place in the queue, or raises `Overloaded` at
    once; every `enter` that returned is followed by one `leave`. A waiter that is cancelled frees its place.
    """

    __slots__ = ("_free", "_mean_seconds", "_queue", "max_queue_size", "name", "permits")

    def __init__(self, name: str, permits: int | None, max_queue_size: int) -> None:
        self.name = name
        self.permits = permits
        self.max_queue_size = max_queue_size
        self._free = permits if permits is not None else 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._mean_seconds = 1.0

    @property
    def queued(self) -> int:
        return len(self._queue)

    def try_enter(self) -> bool:
        """Take a permit if one is free now: the way in that costs no task switch."""
        if self.permits is None:
            return True
        if self._free > 0:
            self._free -= 1
            return True
        return False

    async def enter(self) -> None:
        """Wait for a permit in the queue. Raises `Overloaded` when the queue is full."""
        if self.try_enter():
            return
        if len(self._queue) >= self.max_queue_size:
            raise self._overloaded()
        place = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._hand_on()  # the permit came as the waiter left
            elif place in self._queue:  # one that came free in the same turn has passed it over already
                self._queue.remove(place)
            raise

    def leave(self, entered: float) -> None:
        """Give the permit back; `entered` is when it was got, in `time.monotonic()` seconds."""
        self._mean_seconds += _SMOOTHING * (monotonic() - entered - self._mean_seconds)
        if self.permits is not None:
            self._hand_on()

    def _hand_on(self) -> None:
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1

    def _overloaded(self) -> Overloaded:
        wait = self._mean_seconds * (len(self._queue) + 1) / max(1, self.permits or 1)
        return Overloaded(
            f"The model {self.name!r} is at its limit: {self.permits} requests run and {len(self._queue)} wait "
            f"(at most {self.max_queue_size} may).",
            retry_after_seconds=wait,
        )
