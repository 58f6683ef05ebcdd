"""Admission: how many requests of a model run at once, who waits, who is next, and when the rest may come back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic

from backends.errors import Overloaded
from gateway.fairness import Lane, Lanes, Permit, Place
from gateway.tenants import ANYONE, Tenant

# How fast the estimate of a request's duration follows the newest one.
_SMOOTHING = 0.2


class Gate:
    """The permits of one model in one server process.

    `permits` None means unlimited. `enter` takes a permit or waits for one, or raises `Overloaded`: at once when the
    queue is full, or when a tenant with fewer waiters needs the place. A waiter that is cancelled frees its place.
    """

    __slots__ = ("_entered_sum", "_lanes", "_mean_seconds", "max_queue_size", "name", "permits", "running")

    def __init__(self, name: str, permits: int | None, max_queue_size: int) -> None:
        self.name = name
        self.permits = permits
        self.max_queue_size = max_queue_size
        self.running = 0
        self._lanes = Lanes()
        self._mean_seconds = 1.0
        self._entered_sum = 0.0

    @property
    def queued(self) -> int:
        return len(self._lanes)

    def queued_by_tenant(self) -> Mapping[str, int]:
        return self._lanes.by_tenant()

    def try_enter(self, tenant: Tenant = ANYONE, tokens: int = 0) -> Permit | None:
        """Take a permit if one is free now: the way in that costs no task switch.

        `tokens` is what the request costs at the least.
        """
        if self.permits is not None and self.running >= self.permits:
            return None
        permit = Permit(None, 0.0) if tenant is ANYONE else self._lanes.serve_at_once(tenant, tokens)
        self.running += 1
        self._entered_sum += permit.entered_at
        return permit

    async def enter(self, tenant: Tenant = ANYONE, tokens: int = 0) -> Permit:
        """Wait for a permit. Raises `Overloaded`."""
        permit = self.try_enter(tenant, tokens)
        if permit is not None:
            return permit
        lane = self._lanes.lane(tenant)
        if len(self._lanes) >= self.max_queue_size:
            self._make_room(lane)
        place: Place = asyncio.get_running_loop().create_future()
        self._lanes.push(lane, place, tokens)
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                permit = place.result()  # it came as the waiter left
                self._lanes.revoke(permit)
                self._end(permit)
            else:
                self._lanes.discard(lane, place)
            raise

    def leave(self, permit: Permit, tokens: int = 0) -> None:
        """Give a permit back. `tokens` is what the request cost, prompt and answer."""
        seconds = monotonic() - permit.entered_at
        self._mean_seconds += _SMOOTHING * (seconds - self._mean_seconds)
        self._lanes.settle(permit, tokens)
        self._end(permit)

    def resize(self, permits: int | None) -> None:
        """From now on so many run at once; those that are too many go on."""
        self.permits = permits
        self._fill()

    def _end(self, permit: Permit) -> None:
        self.running -= 1
        self._entered_sum = self._entered_sum - permit.entered_at if self.running else 0.0
        self._fill()

    def _fill(self) -> None:
        """Let in who waits while there is room."""
        while self._lanes and (self.permits is None or self.running < self.permits):
            permit = self._lanes.serve_next()
            if permit is None:
                return
            self.running += 1
            self._entered_sum += permit.entered_at

    def _make_room(self, lane: Lane) -> None:
        """Find a place in a full queue, or raise `Overloaded`."""
        evicted = self._lanes.outcompeted(lane)
        if evicted is None:
            raise self._overloaded(lane)
        longest, place = evicted
        self._lanes.discard(longest, place)
        if not place.done():
            place.set_exception(self._overloaded(longest))

    def _overloaded(self, lane: Lane) -> Overloaded:
        # Requests that have become longer show first in the age of those that run, long before one has ended.
        age = monotonic() - self._entered_sum / self.running if self.running else 0.0
        wait = max(self._mean_seconds, age) * self._lanes.turns_before(lane) / max(1, self.permits or 1)
        return Overloaded(
            f"The model {self.name!r} is at its limit: {self.permits} requests run and {len(self._lanes)} wait "
            f"(at most {self.max_queue_size} may).",
            retry_after_seconds=wait,
        )
