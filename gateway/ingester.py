"""The ingester: a process that takes snapshots as server processes do, serves nobody, and does the library's jobs."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import hashlib
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
import uvloop

from backends.config import ModelConfig
from backends.errors import ServingError
from backends.model import State
from ensembles.answering.documents import keep, lacks
from ensembles.answering.recipe import brings_documents
from ensembles.ingest.jobs import Ingester
from ensembles.ingest.parsers import Parsers
from ensembles.kinds import find_kind
from gateway import led
from gateway.channel import Channel
from gateway.ingestion_metrics import IngestionTally
from gateway.library import embedder_of, library_of
from gateway.registry import Registry
from gateway.settings import Settings
from gateway.snapshot import Account, Counters, Drain, Inspect, Loads, Scrape, Serving, Snapshot

_MOST_PARSERS = 4
_LOCK_SECONDS = 0.25
_DOCUMENTS_SECONDS = 10.0
_COUNT_SECONDS = 2.0

_log = logging.getLogger(__name__)


class IngesterProcess:
    """One ingester, led by one control channel."""

    def __init__(self, settings: Settings, channel: Channel) -> None:
        self._settings = settings
        self._channel = channel
        self._registry = Registry(
            lambda backend: find_kind(backend).connect, share=settings.workers, max_queue_size=settings.max_queue_size
        )
        self._library = library_of(settings, self._registry)
        self._registry.library = self._library
        self._tally = IngestionTally()
        self._leaving = asyncio.Event()
        self._news = asyncio.Event()

    async def run(self) -> int:
        """Work until told to leave (0) or until the supervisor is gone (1)."""
        led.heed_signals(self._leaving.set)
        following = asyncio.create_task(self._follow())
        leaving = asyncio.create_task(self._leaving.wait())
        working = asyncio.create_task(self._work())
        try:
            await asyncio.wait((following, leaving, working), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()  # it ends by a fault of ours alone: the process starts anew
            return 0 if leaving.done() else 1
        finally:
            for task in (following, leaving, working):
                task.cancel()
            await asyncio.wait((following, leaving, working))
            await self._library.close()
            self._registry.close()

    async def _follow(self) -> None:
        """Do what the supervisor says, until its end of the channel closes."""
        async for message in self._channel:
            if isinstance(message, Snapshot):
                self._registry.apply(message)
                self._news.set()
                await self._channel.send(Serving(os.getpid()))
            elif isinstance(message, Scrape):
                await self._channel.send(Counters(message.id, msgspec.msgpack.encode(self._tally)))
            elif isinstance(message, Loads):
                self._registry.hear(message.loads)
            elif isinstance(message, Inspect):
                await self._channel.send(self._account(message))
            elif isinstance(message, Drain):
                self._leaving.set()

    def _account(self, question: Inspect) -> Account:
        work = {address: count for address, count in self._registry.work().items() if count}
        return Account(question.id, self._registry.snapshot_number, in_flight=work)

    async def _work(self) -> None:
        async with _alone(self._settings) as name:
            parsers = Parsers(min(_MOST_PARSERS, os.cpu_count() or 1))
            embedder = embedder_of(self._settings, self._registry)
            ingester = Ingester(self._library, self._registry, embedder, parsers, worker=name, watch=self._tally)
            async with asyncio.TaskGroup() as group:
                group.create_task(ingester.run())
                group.create_task(self._keep_documents())
                group.create_task(self._count_waiting())

    async def _count_waiting(self) -> None:
        """Beside the scrapes: whoever does not answer those at once is taken for dead."""
        while True:
            if self._library.is_begun():
                try:
                    self._tally.waiting = await self._library.jobs.waiting()
                except ServingError:
                    self._tally.waiting = None
            await asyncio.sleep(_COUNT_SECONDS)

    async def _keep_documents(self) -> None:
        """Keep the documents of pipelines in their stores, when one is new or has changed, or lacks some by now."""
        kept: dict[str, tuple[ModelConfig, int]] = {}
        while True:
            for name, entry in self._registry.entries().items():
                config = entry.status.config
                if entry.status.state is State.READY and brings_documents(config):
                    as_was, count = kept.get(name, (None, 0))
                    try:
                        if as_was != config or await lacks(self._library, config, count):
                            kept[name] = config, await keep(self._library, config)
                    except (ServingError, OSError) as error:
                        _log.warning("%s: its documents cannot be kept: %s", name, error)
            with suppress(TimeoutError):
                async with asyncio.timeout(_DOCUMENTS_SECONDS):
                    await self._news.wait()
            self._news.clear()


@asynccontextmanager
async def _alone(settings: Settings) -> AsyncIterator[str]:
    """Be the only ingester of this data directory on this machine, by a name that the next one will have as well.

    So whoever comes after one that was killed takes over its files at once, and never those of one that lives.
    """
    folder = settings.data_dir.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname()
    descriptor = os.open(folder / f"ingester-{host}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOCK_SECONDS)
        yield f"{host}-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
    finally:
        os.close(descriptor)


async def _run(control_fd: int) -> int:
    settings, channel = await led.begin(control_fd)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    return await IngesterProcess(settings, channel).run()


def main() -> None:
    """Entry point of `python -m gateway.ingester`, which only the supervisor starts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--index", type=int, default=0)
    arguments = parser.parse_args()
    led.open_many_files()
    sys.exit(uvloop.run(_run(arguments.control_fd)))


if __name__ == "__main__":
    main()
