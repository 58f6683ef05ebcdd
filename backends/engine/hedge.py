"""A second attempt for a first token that is late: of two replicas, the one that speaks first gives the answer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING

from backends.errors import ServingError

if TYPE_CHECKING:
    from backends.engine.attempts import Leg

# What is late is known from so many first tokens of this model, and from no fewer than that.
_KNOWN = 256
_FEWEST = 20
_LATE = 0.95


class Hedge:
    """Knows how long this model's first tokens take (Dean and Barroso, "The Tail at Scale", CACM 2013)."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_KNOWN)

    @property
    def late_seconds(self) -> float | None:
        """The 95th percentile of the last first tokens; None while too few are known."""
        if len(self._seconds) < _FEWEST:
            return None
        return sorted(self._seconds)[int(len(self._seconds) * _LATE)]

    async def best(self, leg: Leg, second: Callable[[], Awaitable[Leg | None]]) -> Leg:
        """The leg whose first bytes come first; the other one is closed.

        `second` begins one at another replica; None where there is none. Cancelling it closes both.
        """
        started_at = monotonic()
        first = asyncio.ensure_future(leg.begin())
        other: asyncio.Task[Leg | None] | None = None
        try:
            await asyncio.wait((first,), timeout=self.late_seconds)
            if not first.done():
                other = asyncio.create_task(_begun(second))
                await asyncio.wait((first, other), return_when=asyncio.FIRST_COMPLETED)
                if not _is_well(first) and _won(other) is None:
                    await asyncio.wait((first, other))  # one has failed, or there is no other
        except BaseException:
            await _end(first, leg)
            await _abandon(other)
            raise
        self._seconds.append(monotonic() - started_at)
        winner = None if other is None or _is_well(first) else _won(other)
        if winner is not None:
            await _end(first, leg)
            return winner
        await _abandon(other)
        if first.exception() is not None:
            leg.first = b""  # reading the body tells it once more
        return leg


async def _begun(second: Callable[[], Awaitable[Leg | None]]) -> Leg | None:
    leg = await second()
    if leg is None:
        return None
    try:
        await leg.begin()
    except BaseException:
        await leg.close()
        raise
    return leg


def _is_well(task: asyncio.Future[None]) -> bool:
    return task.done() and task.exception() is None


def _won(task: asyncio.Task[Leg | None]) -> Leg | None:
    """The leg that has begun; None where none did, or not yet. Raises what is no failure of an engine."""
    if not task.done():
        return None
    error = task.exception()
    if error is not None and not isinstance(error, ServingError):
        raise error
    return task.result() if error is None else None


async def _end(beginning: asyncio.Future[None], leg: Leg) -> None:
    beginning.cancel()
    await asyncio.wait((beginning,))
    if not beginning.cancelled():
        beginning.exception()
    await leg.close()


async def _abandon(task: asyncio.Task[Leg | None] | None) -> None:
    if task is None:
        return
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled() and task.exception() is None and (leg := task.result()) is not None:
        await leg.close()
