"""Where tenants' requests, tokens and streams are counted: in this process, on this machine, or in Redis."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import time
from typing import Protocol

from gateway.settings import Settings

_SWEEP_SECONDS = 60.0


class Counters(Protocol):
    """Counts under keys that belong to one window of time each; `incr` is that of the storages of `limits`.

    `incr` and `occupy` raise `Unavailable` where counting is not possible now. What only corrects (`adjust`, `vacate`)
    is done as soon as can be, and never raises.
    """

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add; the sum. The key may be forgotten after `expiry` seconds."""
        ...

    def adjust(self, key: str, expiry: int, amount: int) -> None:
        """Add what turned out to be so."""
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


class MemoryCounters:
    """The counts of one process alone. Nothing here waits, so what follows on another is one step for all others.

    The in-memory storage of `limits` starts a task that goes through every key at each increment.
    """

    def __init__(self, sweep_seconds: float = _SWEEP_SECONDS) -> None:
        self._sweep_seconds = sweep_seconds
        self._counts: dict[str, int] = {}
        self._ends: dict[str, float] = {}
        self._places: dict[str, int] = {}

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        count = self._counts.get(key)
        if count is None:
            count = 0
            self._ends[key] = time() + expiry
        self._counts[key] = count = count + amount
        return count

    def adjust(self, key: str, expiry: int, amount: int) -> None:  # noqa: ARG002  # the protocol
        if key in self._counts:  # else its window is over
            self._counts[key] += amount

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
        while True:
            await asyncio.sleep(self._sweep_seconds)
            now = time()
            for key in [key for key, end in self._ends.items() if end < now]:
                del self._counts[key], self._ends[key]


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
