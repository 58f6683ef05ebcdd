"""The background optimiser: indices take in what bursts have left outside, one store at a time."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from backends.errors import NotFound, Unavailable

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_QUIET_SECONDS = 1.5
# A search by words reads all that are outside the index, 17 ms for so many; taking them in costs half a second.
_MOST_CHUNKS = 1000
# Each file leaves a fragment, which every later change and search looks at, for a quarter of a millisecond.
_MOST_FILES = 32
_REST = 2  # times as long as it took: large stores are optimised at most a third of the time
_FIRST_ROUND_SECONDS = 5.0
_ROUND_SECONDS = 300.0


class Optimisable(Protocol):
    """What is needed of a library."""

    async def optimise(self, store: str) -> None: ...
    async def collections(self) -> list[str]: ...


@dataclass(slots=True)
class _Change:
    files: int = 0
    chunks: int = 0
    last_at: float = 0.0


class Optimiser:
    """Optimises stores after bursts, amid long ones, and all of them now and then: first soon after the start.

    The last is for what a killed predecessor has left, and for what was deleted: stores let go of it only then.
    """

    def __init__(
        self,
        library: Optimisable,
        *,
        look_seconds: float = _LOOK_SECONDS,
        quiet_seconds: float = _QUIET_SECONDS,
        first_round_seconds: float = _FIRST_ROUND_SECONDS,
        round_seconds: float = _ROUND_SECONDS,
    ) -> None:
        self._library = library
        self._look_seconds = look_seconds
        self._quiet_seconds = quiet_seconds
        self._round_seconds = round_seconds
        self._round_at = monotonic() + first_round_seconds
        self._changes: dict[str, _Change] = {}
        self._resting_until: dict[str, float] = {}

    def note(self, store_id: str, chunks: int) -> None:
        """A file of so many chunks was put into a store."""
        change = self._changes.setdefault(store_id, _Change())
        change.files += 1
        change.chunks += chunks
        change.last_at = monotonic()

    async def run(self) -> None:
        """Optimise whenever it is worth it, until cancelled."""
        while True:
            await asyncio.sleep(self._look_seconds)
            for store_id in self._due(monotonic()):
                await self._optimise(store_id)
            if monotonic() >= self._round_at:
                await self._go_round()
                self._round_at = monotonic() + self._round_seconds

    async def _go_round(self) -> None:
        try:
            stores = await self._library.collections()
        except Unavailable as error:
            _log.warning("stores could not be optimised: %s", error.message)
            return
        for store_id in stores:
            await self._optimise(store_id)

    async def _optimise(self, store_id: str) -> None:
        change = self._changes.pop(store_id, None)
        began = monotonic()
        try:
            await self._library.optimise(store_id)
        except NotFound:
            pass  # nothing was put into it yet, or it was deleted
        except Unavailable as error:
            _log.warning("%s could not be optimised: %s", store_id, error.message)
            if change is not None:
                self._changes.setdefault(store_id, change)
        ended = monotonic()
        self._resting_until[store_id] = ended + _REST * (ended - began)

    def _due(self, now: float) -> list[str]:
        return [
            store_id
            for store_id, change in self._changes.items()
            if now >= self._resting_until.get(store_id, 0.0)
            and (
                change.chunks >= _MOST_CHUNKS
                or change.files >= _MOST_FILES
                or now - change.last_at >= self._quiet_seconds
            )
        ]
