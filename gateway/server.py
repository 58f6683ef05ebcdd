"""A server process: takes its socket and its snapshots from the supervisor, serves, drains, stops."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import socket
import sys
from contextlib import suppress
from time import monotonic

import uvicorn
import uvloop

from backends.errors import ServingError, Unavailable
from ensembles.kinds import find_kind
from gateway import led, pairs
from gateway.access_log import AccessLog, NoLog
from gateway.account import account
from gateway.app import App
from gateway.auth import Keys
from gateway.cache_salt import CacheSalt
from gateway.channel import Channel
from gateway.counters import counters_for
from gateway.decisions import DecisionLog
from gateway.guest import GuestServer
from gateway.kserve.dataplane import DataPlane
from gateway.kserve.from_models import FromModels
from gateway.kserve.grpc import GrpcServer
from gateway.kserve.log_settings import LogSettings
from gateway.kserve.restrictions import restricted
from gateway.kserve.services import services
from gateway.kserve.shared_state import SharedState
from gateway.kserve.tls import tls_context
from gateway.library import is_installed, library_of
from gateway.plane import Plane
from gateway.protocol import wired_protocol
from gateway.questions import Questions
from gateway.quotas import Quotas
from gateway.registry import Registry
from gateway.settings import Settings
from gateway.snapshot import Counters, Drain, Inspect, Loads, Reload, Scrape, Serving, Snapshot, Told
from gateway.telemetry import Telemetry

# Longer than what stands in front (60 s is usual): a proxy must be the one to close a connection that it may reuse.
_KEEP_ALIVE_SECONDS = 75
_BACKLOG = 4096
_POLL_SECONDS = 0.02
_FAREWELL_SECONDS = 6
_LOOK_SECONDS = 1.0
_ZLIB_LEVELS = {"none": 0, "low": 1, "medium": 6, "high": 9}


class ServerProcess:
    """One data plane on one listening socket, and one for gRPC where it is offered, led by one control channel."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        channel: Channel,
        index: int = 0,
        grpc_listener: socket.socket | None = None,
    ) -> None:
        keys = Keys.read(settings)
        registry = Registry(
            lambda backend: find_kind(backend).connect,
            share=settings.workers,
            max_queue_size=settings.max_queue_size,
            has_quantiles=pairs.metrics(settings.metrics_config).summaries,
        )
        log = AccessLog(sys.stdout.fileno()) if settings.access_log else NoLog()
        self._plane = Plane(settings, registry, keys, Telemetry(registry.connections, log, registry.statistics))
        self._plane.quotas = Quotas(counters_for(settings, index), fails_open=settings.limits_on_error == "open")
        self._plane.cache_salt = CacheSalt.read(settings.cache_salt_file)
        self._plane.decisions = DecisionLog(settings.decision_log_size, prompts=settings.decision_log_prompts)
        self._plane.questions = Questions(channel.send)
        registry.control = FromModels(self._plane)
        self._library = library_of(settings, registry)
        if is_installed():
            registry.library = self._library
        logs = LogSettings.of(settings.log_level, settings.log_file)
        shared = None if settings.runtime_dir is None else settings.runtime_dir / "kserve.json"
        dataplane = DataPlane(registry, SharedState(shared, pairs.traces(settings.trace_config), logs))
        dataplane.questions = self._plane.questions
        self._tracer = dataplane.tracer
        self._listener = listener
        self._grpc_listener = grpc_listener
        self._grpc_tls = tls_context(settings)
        self._grpc = GrpcServer(
            services(self._plane, dataplane),
            decompressed_bytes=settings.max_body_bytes,
            compression_level=_ZLIB_LEVELS[settings.grpc_infer_response_compression_level],
        )
        self._channel = channel
        self._drain_asked = asyncio.Event()
        self._drain_seconds = settings.exit_timeout_secs
        app = App(self._plane, dataplane)
        self._server = GuestServer(
            uvicorn.Config(
                restricted(app, settings.http_restricted_api),
                http=wired_protocol(asyncio.get_running_loop(), None if settings.http_restricted_api else app.shortcut),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_FAREWELL_SECONDS,
            )
        )

    async def run(self) -> int:
        """Serve until drained (0) or until the supervisor is gone (1)."""
        led.heed_signals(self._drain_asked.set)
        self._plane.telemetry.start()
        first = asyncio.Event()
        following = asyncio.create_task(self._follow(first))
        draining = asyncio.create_task(self._drain())
        warming = asyncio.create_task(self._warm(first))
        beside = [asyncio.create_task(self._plane.quotas.counters.run())]
        if self._plane.keys is not None:
            beside.append(asyncio.create_task(self._plane.keys.watch()))
        try:
            await asyncio.wait({following, asyncio.create_task(first.wait())}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                return 1
            serving = asyncio.create_task(self._server.serve([self._listener]))
            if self._grpc_listener is not None:
                await self._grpc.start(self._grpc_listener, self._grpc_tls)
            await self._announce()
            # What lives now lives for ever: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            gc.set_threshold(20_000, 20, 20)
            await asyncio.wait({following, serving, *beside}, return_when=asyncio.FIRST_COMPLETED)
            for task in beside:
                if task.done():
                    task.result()  # they end by a fault of ours alone: the process starts anew
            if not serving.done():
                return 1  # the control channel ended: so has the supervisor, and with it the engines
            await serving
            return 0
        finally:
            following.cancel()
            draining.cancel()
            warming.cancel()
            await self._grpc.stop(0)
            for task in beside:
                task.cancel()
            await asyncio.wait([*beside, warming], timeout=_FAREWELL_SECONDS)
            self._plane.telemetry.stop()
            self._plane.registry.close()
            self._tracer.close()
            await self._library.close()

    async def _warm(self, first: asyncio.Event) -> None:
        """Prepare the first search as soon as there is something to be searched: it would wait for seconds."""
        await first.wait()
        while is_installed():
            with suppress(ServingError):  # whoever searches is told
                if await self._library.warm():
                    return
            await asyncio.sleep(_LOOK_SECONDS)

    async def _announce(self) -> None:
        while not self._server.started:  # noqa: ASYNC110  # uvicorn has a flag, no event
            await asyncio.sleep(_POLL_SECONDS)
        await self._channel.send(Serving(os.getpid()))

    async def _follow(self, first: asyncio.Event) -> None:
        """Do what the supervisor says, until its end of the channel closes."""
        plane = self._plane
        async for message in self._channel:
            if isinstance(message, Snapshot):
                plane.telemetry.know(status.config.name for status in message.models)
                plane.registry.apply(message)
                first.set()
            elif isinstance(message, Scrape):
                await self._channel.send(Counters(message.id, plane.telemetry.payload()))
            elif isinstance(message, Loads):
                plane.registry.hear(message.loads)
            elif isinstance(message, Inspect):
                await self._channel.send(account(plane, message))
            elif isinstance(message, Told):
                plane.questions.told(message)
            elif isinstance(message, Reload):
                if plane.keys is not None:
                    plane.keys.reload()
            elif isinstance(message, Drain):
                self._drain_seconds = message.seconds
                self._drain_asked.set()

    async def _drain(self) -> None:
        """Once asked: refuse new work at once, let what is under way finish, cut what does not, then stop."""
        await self._drain_asked.wait()
        plane = self._plane
        plane.draining = True
        calls = asyncio.create_task(self._grpc.stop(self._drain_seconds))
        await self._wait_for_exchanges(self._drain_seconds)
        for watch in tuple(plane.clock.members):
            watch.interrupt(Unavailable("The server is shutting down and could not wait for this answer any longer."))
        await self._wait_for_exchanges(_FAREWELL_SECONDS)
        await calls
        self._server.leave()

    async def _wait_for_exchanges(self, seconds: float) -> None:
        give_up_at = monotonic() + seconds
        while self._plane.clock.members and monotonic() < give_up_at:  # noqa: ASYNC110  # an event costs each request
            await asyncio.sleep(_POLL_SECONDS)


async def _run(listen_fd: int, control_fd: int, index: int, grpc_fd: int | None) -> int:
    settings, channel = await led.begin(control_fd)
    grpc_listener = None if grpc_fd is None else socket.socket(fileno=grpc_fd)
    return await ServerProcess(settings, socket.socket(fileno=listen_fd), channel, index, grpc_listener).run()


def main() -> None:
    """Entry point of `python -m gateway.server`, which only the supervisor starts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen-fd", type=int, required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--grpc-fd", type=int)
    arguments = parser.parse_args()
    led.open_many_files()
    sys.exit(uvloop.run(_run(arguments.listen_fd, arguments.control_fd, arguments.index, arguments.grpc_fd)))


if __name__ == "__main__":
    main()
