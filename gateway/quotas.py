"""Limits over time: what a request may cost is reserved before it runs, and settled to what it did cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from operator import gt, itemgetter
from time import time

from backends.errors import RateLimited, Unavailable
from gateway.cost import Cost
from gateway.counters import Counters
from gateway.tenants import ANYONE, Tenant, Window


class Reservation:
    """What was counted for one request before it ran. `head_lines` go out with its answer.

    `refusal` says why it may not run, and then nothing is reserved; else `settle` follows, once.
    """

    __slots__ = ("_counted_at", "_counters", "_has_place", "_tenant", "_tokens", "head_lines", "refusal")

    def __init__(self, counters: Counters | None, tenant: Tenant, tokens: int) -> None:
        self._counters = counters
        self._tenant = tenant
        self._tokens = tokens
        self._has_place = False
        self._counted_at = 0.0
        self.head_lines = b""
        self.refusal: RateLimited | None = None

    def settle(self, tokens: int | None) -> None:
        """It ran and cost so many tokens; or it did not run (None), and everything is given back."""
        counters = self._counters
        if counters is None:
            return
        if self._counted_at:
            requests, change = (-1, -self._tokens) if tokens is None else (0, tokens - self._tokens)
            for window in self._tenant.windows:
                amount = change if window.counts_tokens else requests
                if amount:
                    counters.adjust(window, self._counted_at, amount)
        if self._has_place:
            counters.vacate(self._tenant.name)

    async def take_place(self, limit: int) -> None:
        """Take one of the tenant's streams. Raises `Unavailable`."""
        assert self._counters is not None
        self._has_place = await self._counters.occupy(self._tenant.name, limit)
        if not self._has_place:
            self.refusal = RateLimited(
                f"Tenant {self._tenant.name!r} has {limit} streams under way already, as many as it may."
            )

    async def count(self) -> None:
        """Count the request in the tenant's windows, or say how long to wait until all of them have room.

        Raises `Unavailable`.
        """
        assert self._counters is not None
        windows, now = self._tenant.windows, time()
        totals = await self._counters.take(windows, now, self._tokens)
        self._counted_at = now
        if any(map(gt, totals, self._tenant.limits)):
            self.refusal = self._refusal(totals)
            # What is refused is given back.
            totals = [total - self._amount(window) for window, total in zip(windows, totals, strict=True)]
        figures: list[int | bytes] = []
        for number in self._tenant.told:
            window = windows[number]
            figures += (max(0, window.limit - totals[number]), duration(math.ceil(window.left(now))))
        self.head_lines = self._tenant.head_lines % tuple(figures)

    def _amount(self, window: Window) -> int:
        return self._tokens if window.counts_tokens else 1

    def _refusal(self, totals: Sequence[int]) -> RateLimited:
        """What to say: of the windows without room, that which ends last is what counts."""
        full = [each for each in zip(self._tenant.windows, totals, strict=True) if each[1] > each[0].limit]
        left, window, total = max(
            ((window.left(self._counted_at), window, total) for window, total in full), key=itemgetter(0)
        )
        asked = self._amount(window)
        per = {60: "minute", 86400: "day"}[window.seconds]
        message = (
            f"Tenant {self._tenant.name!r} has reached its limit of {window.limit} {window.what} a {per}: "
            f"{total - asked} used, {asked} asked for."
        )
        if asked > window.limit:
            return RateLimited(f"{message} One request may not ask for more than the limit.", is_final=True)
        wait = duration(math.ceil(left)).decode()
        return RateLimited(f"{message} Try again in {wait}.", retry_after_seconds=left)


NOTHING = Reservation(None, ANYONE, 0)
"""The reservation of who has no limits."""


class Quotas:
    """The limits of tenants. Where they cannot be counted, `fails_open` lets requests in."""

    def __init__(self, counters: Counters, *, fails_open: bool) -> None:
        self.counters = counters
        self._fails_open = fails_open

    async def reserve(self, tenant: Tenant, cost: Cost) -> Reservation:
        """Count a request with its estimated tokens.

        A count is taken first and given back if it was too much: what is let in never goes over a limit, whoever
        counts at the same time. Raises `Unavailable` where there is no counting and that means no.
        """
        reservation = Reservation(self.counters, tenant, _estimate(tenant, cost))
        try:
            if cost.stream and tenant.concurrent_streams is not None:
                await reservation.take_place(tenant.concurrent_streams)
            if reservation.refusal is None:
                await reservation.count()
        except BaseException as error:
            if not (self._fails_open and isinstance(error, Unavailable)):
                reservation.settle(None)
                raise
        if reservation.refusal is not None:
            reservation.settle(None)
        return reservation


def _estimate(tenant: Tenant, cost: Cost) -> int:
    # A guess of ours must not be what makes a request too large for ever.
    return max(cost.asked_tokens, min(cost.tokens, tenant.most_tokens))


@cache
def duration(seconds: int) -> bytes:
    """Whole seconds as OpenAI writes them: `1s`, `6m0s`, `23h59m1s`. There are no more than a day has."""
    minutes, rest = divmod(max(1, seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return ((f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest}s").encode()
