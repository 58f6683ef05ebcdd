"""The shared clock: one timer looks after the deadlines, stalls and keep-alives of all exchanges under way."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Protocol

from backends.errors import ServingError

TICK_SECONDS = 0.05


class Timed(Protocol):
    due: float
    """When `tick` is wanted next, in `time.monotonic()` seconds."""

    def tick(self, now: float) -> None: ...
    def interrupt(self, error: ServingError) -> None: ...


class Clock:
    """Calls `tick` of each member whose `due` has passed, at most `TICK_SECONDS` late; silent while it has none.

    A timer for each exchange would cost some 2.5 µs each to make and to cancel; a place in a set costs 0.1.
    """

    def __init__(self) -> None:
        self.members: set[Timed] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, member: Timed) -> None:
        self.members.add(member)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def discard(self, member: Timed) -> None:
        self.members.discard(member)

    def _tick(self) -> None:
        self._timer = None
        now = monotonic()
        try:
            for member in [member for member in self.members if member.due <= now]:
                member.tick(now)
        finally:  # one that breaks must not stop the clock of all
            if self.members and self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
