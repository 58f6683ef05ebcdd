"""The lives of endpoints: started, seen off while they finish what they have, ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gateway.loading import LiveEndpoint

_IDLE_LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Burden:
    """What server processes have under way at each endpoint's address, all of them at this snapshot or a later one."""

    snapshot: int
    in_flight: Mapping[str, int]


class Lives:
    """One task an endpoint. `changed` is set when the snapshot must be made anew.

    `burden` asks all server processes; it is only asked while something drains, for `drain_seconds` at most.
    """

    def __init__(
        self, changed: asyncio.Event, burden: Callable[[], Awaitable[Burden | None]], drain_seconds: float
    ) -> None:
        self.snapshot_number = 0
        """Of the last snapshot that was made."""
        self._changed = changed
        self._burden = burden
        self._drain_seconds = drain_seconds
        self._tasks: dict[LiveEndpoint, asyncio.Task[None]] = {}
        self._departures: set[asyncio.Task[None]] = set()

    def tasks(self) -> list[asyncio.Task[None]]:
        """All of them, to be ended at the end: the caller cancels and awaits them."""
        return [*self._departures, *self._tasks.values()]

    def start(self, endpoints: Iterable[LiveEndpoint]) -> None:
        for endpoint in endpoints:
            self._tasks[endpoint] = asyncio.create_task(endpoint.run(), name=endpoint.id)

    def see_off(self, departing: list[LiveEndpoint], leaving: Sequence[LiveEndpoint]) -> None:
        """Those that leave drain and end by themselves; they are on the list `departing` until they have."""
        departing += leaving
        for endpoint in leaving:
            endpoint.drain()
        if leaving:
            task = asyncio.create_task(self._see_off(departing, leaving))
            self._departures.add(task)
            task.add_done_callback(self._departures.discard)

    async def _see_off(self, departing: list[LiveEndpoint], leaving: Sequence[LiveEndpoint]) -> None:
        await self.depart(leaving)
        departing[:] = without(departing, leaving)
        self._changed.set()

    async def depart(self, endpoints: Sequence[LiveEndpoint]) -> None:
        """Give them no new work, and end each when it is idle or the time to drain is over."""
        for endpoint in endpoints:
            if endpoint in self._tasks:
                endpoint.drain()
        try:
            async with asyncio.timeout(self._drain_seconds):
                waiting = [endpoint for endpoint in endpoints if endpoint in self._tasks]
                self._changed.set()
                # The snapshot that takes them out of service is the next one that is made.
                after = self.snapshot_number + 1
                while waiting:
                    burden = await self._burden()
                    if burden is not None and burden.snapshot >= after:
                        idle = [endpoint for endpoint in waiting if not burden.in_flight.get(endpoint.address)]
                        waiting = without(waiting, idle)
                        await self.end(idle)
                    if waiting:
                        await asyncio.sleep(_IDLE_LOOK_SECONDS)
        except TimeoutError:
            pass
        await self.end(endpoints)

    async def end(self, endpoints: Iterable[LiveEndpoint]) -> None:
        """Processes are stopped, remote endpoints are watched no longer."""
        ending = {endpoint: self._tasks[endpoint] for endpoint in endpoints if endpoint in self._tasks}
        for task in ending.values():
            if not task.cancelling():  # cancelled once more, it would end at once
                task.cancel()
        if ending:
            await asyncio.wait(ending.values())
        for endpoint in ending:
            self._tasks.pop(endpoint, None)


def without(endpoints: Iterable[LiveEndpoint], others: Iterable[LiveEndpoint]) -> list[LiveEndpoint]:
    excluded = set(others)
    return [endpoint for endpoint in endpoints if endpoint not in excluded]
