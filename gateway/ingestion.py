"""The ingester's process as the supervisor keeps it: not started before there is a file to ingest."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress

from prometheus_client import Metric

from ensembles.answering.recipe import brings_documents
from gateway.children import ServerChild
from gateway.exposition import observe
from gateway.ingestion_metrics import IngestionLedger, families
from gateway.library import place_of
from gateway.settings import Settings
from gateway.snapshot import Snapshot

INGESTER_ARGV = (sys.executable, "-m", "gateway.ingester")

_LOOK_SECONDS = 0.25
_GIVEN_UP_SECONDS = 60.0


class Ingestion:
    """One ingester of this gateway, from the first file or pipeline with documents on; `run` is the whole of it."""

    def __init__(self, settings: Settings, settings_json: str, snapshot: Callable[[], Snapshot]) -> None:
        self._place = place_of(settings)
        self._snapshot = snapshot
        self._leaving = asyncio.Event()
        self._ledger = IngestionLedger()
        self.child = ServerChild(
            0, None, snapshot, self._ledger, settings_json=settings_json, argv=INGESTER_ARGV, name="the ingester"
        )

    async def families(self, timeout_seconds: float) -> Iterable[Metric]:
        """What its processes have counted. One that does not answer in time has counted what it last told."""
        await self.child.collect(timeout_seconds)
        return families(self._ledger.total(), observe)

    def drain(self) -> None:
        """Have it give back what it has under way, and exit; `run` then returns."""
        self._leaving.set()
        self.child.drain(0.0)

    async def run(self) -> None:
        """Wait for a file, then keep the process running until it has drained. Cancelling kills it.

        The gateway serves on without one that does not start; it is tried again after a while.
        """
        while not self._leaving.is_set():
            if self._place.is_begun() or self._has_documents():
                await self.child.run()
                await self._pause(_GIVEN_UP_SECONDS)
            else:
                await self._pause(_LOOK_SECONDS)

    def _has_documents(self) -> bool:
        return any(brings_documents(status.config) for status in self._snapshot().models)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._leaving.wait()
