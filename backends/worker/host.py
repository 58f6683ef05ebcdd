"""The host of one model version: `python -m backends.worker.host --uds PATH`, a process that knows no tensor library.

It owns the model's queue, its instances, its cache and its statistics. Its configuration comes in the environment
(`launching.py`). On SIGTERM it takes no new work, finishes what it has, and exits.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress

import msgspec
import uvloop

from backends.config import ModelConfig
from backends.statistics import ModelStatistics
from backends.worker.hosting.cache import Cache
from backends.worker.hosting.connection import Answer, Desk, Greeting
from backends.worker.hosting.counters import Counters
from backends.worker.hosting.executor import Executor
from backends.worker.hosting.instances import Instances, Program, places
from backends.worker.messages import Status
from backends.worker.options import Options, read_environment
from backends.worker.scheduling.batcher import scheduler_for
from backends.worker.scheduling.resources import limited


class Host:
    """One model version in this process."""

    def __init__(self, config: ModelConfig, options: Options, program: Program) -> None:
        self._counters = Counters(has_quantiles=options.has_quantiles)
        self._options = options
        self._cache: Cache | None = None
        self._is_stopping = False
        self._desk = Desk(self._answer, self._statistics)
        self._instances = Instances(config, program, self._open, self._desk.calls)
        self._instances.changed = self._announce

    async def serve(self, path: str, stop: asyncio.Event) -> None:
        """Listen at a Unix socket until `stop` is set and what was under way has ended."""
        server = await asyncio.get_running_loop().create_unix_server(lambda: Greeting(self._desk), path)
        run = asyncio.create_task(self._instances.run())
        try:
            await stop.wait()
            await self._drain()
        finally:
            server.close()
            run.cancel()
            with suppress(asyncio.CancelledError):
                await run
            for connection in tuple(self._desk.connections):
                connection.link.close()
            with suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108  # once, at the end

    async def _drain(self) -> None:
        executor = self._desk.executor
        self._is_stopping = True
        self._announce()
        if executor is not None:
            await executor.drain()

    def _open(self, config: ModelConfig, instances: int) -> Executor:
        cache_bytes = self._options.cache_bytes
        self._cache = Cache(cache_bytes) if config.response_cache.enable and cache_bytes else None
        scheduler = scheduler_for(config, instances)
        options = self._options
        if options.resources_path:
            scheduler = limited(scheduler, places(config), options.resources_path, options.resources)
        self._desk.executor = executor = Executor(config, scheduler, self._counters, self._cache)
        return executor

    def _announce(self) -> None:
        executor = self._desk.executor
        if self._instances.failure and executor is not None:
            requests = [one for connection in self._desk.connections for one in connection.requests.values()]
            executor.abandon(requests, self._instances.failure)
        self._desk.announce(Status(ready=self._is_ready(), alive=self._instances.alive, reason=self._reason()))

    def _reason(self) -> str:
        return "the model is stopping" if self._is_stopping else self._instances.reason

    def _is_ready(self) -> bool:
        return self._instances.has_loaded and self._instances.alive > 0 and not self._is_stopping

    def _statistics(self) -> ModelStatistics:
        statistics = self._counters.statistics
        executor, cache = self._desk.executor, self._cache
        statistics.pending = 0 if executor is None else executor.waiting
        if cache is not None:
            told = statistics.cache
            told.entries, told.evictions = len(cache), cache.evictions
            told.used_bytes, told.size_bytes = cache.used_bytes, cache.size_bytes
        return statistics

    def _answer(self, path: str) -> Answer:
        instances = self._instances
        match path:
            case "/health":
                if self._is_ready():
                    return 200, b"{}"
                return 500 if instances.failure else 503, msgspec.json.encode({"error": self._reason()})
            case "/config":
                return 200, instances.config.document.encode()
            case "/statistics":
                told = {"statistics": self._statistics(), "metrics": instances.metrics.collect()}
                return 200, msgspec.json.encode(told)
            case _:
                return 404, b'{"error":"Not Found"}'


async def _serve(path: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    config, options = read_environment()
    argv = [sys.executable, "-m", "backends.worker.instance"]
    host = Host(config, options, Program(argv, os.environ.copy(), options.completes))
    await host.serve(path, stop)


def main() -> int:
    """Entry point of `python -m backends.worker.host --uds SOCKET`, serves until SIGTERM; what follows is for people.

    No parser reads that: it would be 0.4 MB in each host.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the supervisor, which ends us in order
    uvloop.run(_serve(sys.argv[sys.argv.index("--uds") + 1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
