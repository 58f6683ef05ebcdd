"""The metrics port, in the supervisor: what all server processes have counted, and the engines' own metrics."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec
import uvicorn
from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from backends.config import ModelConfig
from backends.engine.load import METRICS_PATHS, told_by
from backends.engine.probe import get
from backends.errors import ServingError
from backends.kinds import WORKER_KINDS
from backends.model import Endpoint, State
from backends.statistics import ModelStatistics
from backends.worker.messages import Metric as OwnMetric
from gateway import pairs, triton_metrics
from gateway.exposition import DEAD, engine_families, fold, gateway_families, statistics_of
from gateway.guest import GuestServer
from gateway.machine import Machine
from gateway.settings import Settings
from gateway.snapshot import ModelStatus
from gateway.telemetry import Payload
from gateway.tenant_labels import TenantLabels
from gateway.tenant_metrics import sums
from gateway.triton_metrics import Told

_ENGINE_ROUTE = "/metrics"
_ENGINE_SECONDS = 2.0
_ENGINE_LIMIT_BYTES = 8 * 1024 * 1024
_STOP_SECONDS = 1
_STATISTICS_ROUTE = "/statistics"
_OPEN_METRICS = "application/openmetrics-text"


class WorkerStatistics(msgspec.Struct):
    """What a worker tells of itself, as its host writes it."""

    statistics: ModelStatistics
    metrics: list[OwnMetric] = []


_decode_told = msgspec.json.Decoder(WorkerStatistics).decode


class Ledger:
    """The last payload of each server process, and the sum of those that have ended: what `MetricsServer` asks for.

    The key of a living process is its index, which becomes a label. One that does not answer a scrape keeps its
    last payload; its successor under the same index starts anew once it is buried.
    """

    def __init__(self) -> None:
        self._living: dict[str, bytes] = {}
        self._dead: Payload | None = None

    def keep(self, key: str, payload: bytes) -> None:
        self._living[key] = payload

    def bury(self, key: str) -> None:
        """The process of this key has ended; unknown keys are ignored."""
        payload = self._living.pop(key, None)
        if payload is not None:
            ended = decode(payload)
            self._dead = ended if self._dead is None else fold(self._dead, ended)

    def entries(self) -> list[tuple[str, bytes]]:
        dead = [] if self._dead is None else [(DEAD, msgspec.msgpack.encode(self._dead))]
        return [*self._living.items(), *dead]


class MetricsServer:
    """HTTP on the metrics port: `/metrics`, `/metrics/engines`, `/health`. Bound once `start` has returned.

    `counters` asks the server processes: (process index, or `DEAD` before it, and payload) each; `ingested` tells
    what the ingester has counted.
    """

    def __init__(
        self,
        settings: Settings,
        counters: Callable[[], Awaitable[list[tuple[str, bytes]]]],
        statuses: Callable[[], Sequence[ModelStatus]],
        version: str,
        ingested: Callable[[], Awaitable[Iterable[Metric]]] | None = None,
    ) -> None:
        self.host = settings.metrics_address or settings.host
        self.port = settings.metrics_port
        self._counters = counters
        self._statuses = statuses
        self._version = version
        self._ingested = ingested
        self._tenants = TenantLabels(settings.tenant_labels)
        self._machine = Machine(has_cpus=settings.allow_cpu_metrics, has_gpus=settings.allow_gpu_metrics)
        self._latencies = pairs.metrics(settings.metrics_config)
        self._server: GuestServer | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bind and serve; port 0 becomes the one that the system gave. Raises `OSError` when the port is taken."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.create_server((self.host, self.port), family=family)
        self.port = listener.getsockname()[1]
        app = Starlette(
            routes=[
                Route("/metrics", self._metrics),
                Route("/metrics/engines", self._engines),
                Route("/health", self._health),
            ]
        )
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
        self._server = GuestServer(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="metrics port")

    async def stop(self) -> None:
        """Finish the scrapes under way, a second at most, and close the port."""
        if self._server is not None and self._serving is not None:
            self._server.leave()
            await self._serving
            self._server = self._serving = None

    async def _health(self, _request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _metrics(self, request: Request) -> Response:
        parts = [(key, decode(payload)) for key, payload in await self._counters()]
        registry = CollectorRegistry()
        registry.register(_Families(gateway_families(parts, self._statuses(), self._version)))
        registry.register(_Families(self._tenants.families(sums(payload.tenants for _, payload in parts))))
        if self._ingested is not None:
            registry.register(_Families(await self._ingested()))
        ProcessCollector(registry=registry)
        families = [
            *triton_metrics.model_families(await self._versions([payload for _, payload in parts]), self._latencies),
            *await asyncio.to_thread(lambda: list(self._machine.families())),
        ]
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        if content_type.startswith(_OPEN_METRICS):
            registry.register(_Families(triton_metrics.open_metrics(families)))
            return Response(encode(registry), headers={"content-type": content_type})
        body = encode(registry) + triton_metrics.text(families)
        return Response(body, headers={"content-type": content_type})

    async def _versions(self, payloads: Sequence[Payload]) -> list[Told]:
        """What each version of a tensor model has counted: a worker tells it, else the server processes."""
        counted = statistics_of(payloads)
        asked: list[tuple[ModelConfig, Endpoint]] = []
        told: list[Told] = []
        for status in self._statuses():
            config = status.config
            statistics = counted.get((config.name, config.version))
            if statistics is not None:
                told.append(Told(config, statistics))
            elif config.backend in WORKER_KINDS:
                asked += [(config, endpoint) for endpoint in status.endpoints if endpoint.state is not State.STOPPED]
        bodies = await asyncio.gather(*(self._scrape(endpoint, _STATISTICS_ROUTE) for _, endpoint in asked))
        for (config, _), body in zip(asked, bodies, strict=True):
            if body is not None:
                answer = _decode_told(body)
                told.append(Told(config, answer.statistics, answer.metrics))
        return sorted(told, key=lambda each: (each.config.name, each.config.version))

    async def _engines(self, _request: Request) -> Response:
        ready = [
            (status.config, endpoint)
            for status in self._statuses()
            for endpoint in status.endpoints
            if endpoint.state is State.READY
        ]
        routes = [METRICS_PATHS.get(told_by(config), _ENGINE_ROUTE) for config, _ in ready]
        scrapes = (self._scrape(endpoint, route) for (_, endpoint), route in zip(ready, routes, strict=True))
        bodies = await asyncio.gather(*scrapes)
        answers = [(config.name, endpoint.id, body) for (config, endpoint), body in zip(ready, bodies, strict=True)]
        # Parsing is pure Python, 10 ms for a large engine: restarts and health checks must not wait for it.
        text = await asyncio.to_thread(lambda: generate_latest(_Families(engine_families(answers))))
        # Always the text format: engines speak it, and OpenMetrics forbids names that it allows.
        return Response(text, headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})

    async def _scrape(self, endpoint: Endpoint, route: str) -> bytes | None:
        try:
            status, body = await get(endpoint.address, route, _ENGINE_SECONDS, _ENGINE_LIMIT_BYTES)
        except ServingError:
            return None
        return body if status == 200 else None


def decode(payload: bytes) -> Payload:
    """What `Telemetry` encoded."""
    return msgspec.msgpack.decode(payload, type=Payload)


class _Families(Collector):
    """Families that are collected once."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
