"""Counts that several gateways share, in Redis, by the storage of `limits`."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Sequence
from itertools import count
from time import monotonic
from typing import Any

from limits.aio.storage import RedisStorage
from limits.errors import StorageError
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError

from backends.errors import Unavailable
from gateway.tenants import Window

_log = logging.getLogger(__name__)

_OUTAGES = (StorageError, RedisError, OSError)
_CONNECTIONS = 32
_ANSWER_SECONDS = 1.0
# After a failure Redis is left alone for so long: an outage must not cost every request its patience.
_PAUSE_SECONDS = 1.0
_AGAIN_SECONDS = 0.1
_PENDING_KEYS = 100_000
_SPARE_SECONDS = 5

# A place is a member of a sorted set, its score the time by which it is free even if whoever holds it has died.
_OCCUPY = """
local now = tonumber(redis.call('time')[1])
redis.call('zremrangebyscore', KEYS[1], '-inf', now)
if redis.call('zcard', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('zadd', KEYS[1], now + tonumber(ARGV[3]), ARGV[2])
redis.call('expire', KEYS[1], ARGV[3])
return 1
"""


class RedisCounters:
    """`url` is that of Redis. A place is held for `lease_seconds` at the longest, which no request may outlive.

    Corrections are collected and sent by `run`; while Redis is out they wait for it.
    """

    def __init__(self, url: str, *, lease_seconds: float) -> None:
        self._lease_seconds = int(lease_seconds) + _SPARE_SECONDS
        pool = BlockingConnectionPool.from_url(
            url.replace("redis+unix://", "unix://", 1),
            max_connections=_CONNECTIONS,
            timeout=_ANSWER_SECONDS,
            socket_timeout=_ANSWER_SECONDS,
            socket_connect_timeout=_ANSWER_SECONDS,
        )
        self._redis = Redis(connection_pool=pool)
        # `limits` hands its options on to the client; its annotation knows plain values only.
        options: dict[str, Any] = {"connection_pool": pool}
        self._storage = RedisStorage(f"async+{url}", wrap_exceptions=True, implementation="redispy", **options)
        self._occupy = self._redis.register_script(_OCCUPY)
        self._out_until = float("-inf")
        self._is_out = False
        self._pending: dict[tuple[Window, int], int] = {}
        self._vacated: deque[tuple[str, str]] = deque()
        self._work = asyncio.Event()
        self._leases: dict[str, deque[str]] = {}
        self._prefix = os.urandom(8).hex()
        self._numbers = count()

    async def take(self, windows: Sequence[Window], now: float, tokens: int) -> Sequence[int]:
        self._look()
        amounts = [tokens if window.counts_tokens else 1 for window in windows]
        steps = asyncio.gather(
            *(self._add(window, now, amount) for window, amount in zip(windows, amounts, strict=True)),
            return_exceptions=True,
        )

        def take_back(done: asyncio.Future[list[int | BaseException]]) -> None:
            for window, amount, total in zip(windows, amounts, [] if done.cancelled() else done.result(), strict=False):
                if isinstance(total, int):
                    self.adjust(window, now, -amount)

        try:
            totals = await asyncio.shield(steps)
        except asyncio.CancelledError:
            steps.add_done_callback(take_back)  # it may have been counted all the same
            raise
        failures = [total for total in totals if isinstance(total, BaseException)]
        if not failures:
            self._answered()
            return [total for total in totals if isinstance(total, int)]
        take_back(steps)
        if not isinstance(failures[0], _OUTAGES):
            raise failures[0]
        raise self._failed(failures[0]) from failures[0]

    def adjust(self, window: Window, then: float, amount: int) -> None:
        key = window, window.index(then)
        if amount and len(self._pending) < _PENDING_KEYS:
            self._pending[key] = self._pending.get(key, 0) + amount
            self._work.set()

    async def occupy(self, tenant: str, limit: int) -> bool:
        self._look()
        lease = f"{self._prefix}-{next(self._numbers)}"

        def give_back(done: asyncio.Future[Any]) -> None:
            if not done.cancelled() and done.exception() is None and done.result():
                self._give_back(tenant, lease)

        step = asyncio.ensure_future(self._occupy([_places(tenant)], [limit, lease, self._lease_seconds]))
        try:
            is_taken = await asyncio.shield(step)
        except asyncio.CancelledError:
            step.add_done_callback(give_back)  # it may have been taken all the same
            raise
        except _OUTAGES as error:
            raise self._failed(error) from error
        self._answered()
        if is_taken:
            self._leases.setdefault(tenant, deque()).append(lease)
        return bool(is_taken)

    def vacate(self, tenant: str) -> None:
        leases = self._leases[tenant]
        self._give_back(tenant, leases.popleft())
        if not leases:
            del self._leases[tenant]

    async def run(self) -> None:
        # The client may swallow a cancellation that comes while it waits: the task that talks to it is one of its own.
        correcting = asyncio.create_task(self._correct_always())
        try:
            await asyncio.wait({correcting})
        finally:
            while not correcting.done():
                correcting.cancel()
                await asyncio.wait({correcting}, timeout=_AGAIN_SECONDS)
            await self._correct()
            await self._redis.aclose()
            await self._redis.connection_pool.disconnect()

    def _give_back(self, tenant: str, lease: str) -> None:
        self._vacated.append((tenant, lease))
        self._work.set()

    async def _correct_always(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            await self._correct()
            if self._pending or self._vacated:
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _correct(self) -> None:
        if not (self._pending or self._vacated):
            return
        try:
            while self._vacated:
                tenant, lease = self._vacated[0]
                await self._redis.zrem(_places(tenant), lease)
                self._vacated.popleft()
            while self._pending:
                key, amount = next(iter(self._pending.items()))
                await self._add_to(*key, amount)
                rest = self._pending.pop(key) - amount  # more may have come while this was sent
                if rest:
                    self._pending[key] = rest
            self._answered()
        except _OUTAGES as error:
            self._failed(error)
            self._work.set()

    async def _add(self, window: Window, now: float, amount: int) -> int:
        return await self._add_to(window, window.index(now), amount)

    async def _add_to(self, window: Window, index: int, amount: int) -> int:
        return await self._storage.incr(f"{window.key}{index}", window.seconds + _SPARE_SECONDS, amount)

    def _look(self) -> None:
        now = monotonic()
        if now < self._out_until:
            raise _out()
        if self._is_out:  # one of us looks whether it is back; the others need not wait for that
            self._out_until = now + _ANSWER_SECONDS + _PAUSE_SECONDS

    def _answered(self) -> None:
        if self._is_out:
            self._is_out = False
            self._out_until = float("-inf")
            _log.warning("Redis counts tenants' limits again.")

    def _failed(self, error: BaseException) -> Unavailable:
        self._out_until = monotonic() + _PAUSE_SECONDS
        if not self._is_out:
            self._is_out = True
            _log.error("Redis does not count tenants' limits: %s", error)
        return _out()


def _out() -> Unavailable:
    return Unavailable("The limits of tenants cannot be counted now.", retry_after_seconds=_PAUSE_SECONDS)


def _places(tenant: str) -> str:
    return f"{RedisStorage.PREFIX}:streams/{tenant}"
