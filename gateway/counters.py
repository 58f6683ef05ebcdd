"""Where tenants' requests, tokens and streams are counted: in this process, on this machine, or in Redis."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from gateway.settings import Settings
from gateway.tenants import Window


class Counters(Protocol):
    """Counts of each window of time, which is over when its time is, and places, which are given back.

    `take` and `occupy` raise `Unavailable` where counting is not possible now. What only corrects (`adjust`, `vacate`)
    is done as soon as can be, and never raises.
    """

    async def take(self, windows: Sequence[Window], now: float, tokens: int) -> Sequence[int]:
        """Count one request with so many tokens in each window; their sums with it."""
        ...

    def adjust(self, window: Window, then: float, amount: int) -> None:
        """Add what turned out to be so of what was counted at that time."""
        ...

    async def occupy(self, tenant: str, limit: int) -> bool:
        """Take one of the tenant's `limit` places, if one is free."""
        ...

    def vacate(self, tenant: str) -> None:
        """Give a place back."""
        ...

    async def run(self) -> None:
        """What is to be done beside the requests, until it is cancelled; then the end of it."""
        ...


class _Count:
    """What was counted in the window of this number; of those before nothing needs to be known."""

    __slots__ = ("index", "total")

    def __init__(self) -> None:
        self.index = -1
        self.total = 0


class MemoryCounters:
    """The counts of one process alone. Nothing here waits, so each step is whole for all others.

    The in-memory storage of `limits` starts a task that goes through every key at each increment.
    """

    def __init__(self) -> None:
        self._counts: defaultdict[str, _Count] = defaultdict(_Count)
        self._places: dict[str, int] = {}

    async def take(self, windows: Sequence[Window], now: float, tokens: int) -> Sequence[int]:
        totals = []
        for window in windows:
            count = self._counts[window.key]
            index = int(now + window.phase) // window.seconds  # `Window.index`, without the call
            if index != count.index:
                count.index = index
                count.total = 0
            count.total += tokens if window.counts_tokens else 1
            totals.append(count.total)
        return totals

    def adjust(self, window: Window, then: float, amount: int) -> None:
        count = self._counts[window.key]
        if count.index == window.index(then):  # else its window is over
            count.total += amount

    async def occupy(self, tenant: str, limit: int) -> bool:
        taken = self._places.get(tenant, 0)
        if taken >= limit:
            return False
        self._places[tenant] = taken + 1
        return True

    def vacate(self, tenant: str) -> None:
        left = self._places[tenant] - 1
        if left:
            self._places[tenant] = left
        else:
            del self._places[tenant]

    async def run(self) -> None:
        await asyncio.get_running_loop().create_future()


def counters_for(settings: Settings, process: int) -> Counters:
    """What the settings ask for, in the server process of this number.

    Cases: Redis, for any number of machines; several processes of one; a process that is alone.
    """
    url = settings.limits_storage_url
    if url is not None:
        from gateway.redis_counters import RedisCounters

        return RedisCounters(url, lease_seconds=settings.request_timeout)
    if settings.workers > 1 and settings.runtime_dir is not None:
        from gateway.shared_counters import SharedCounters

        return SharedCounters(Path(settings.runtime_dir) / "limits", process, settings.workers)
    return MemoryCounters()
