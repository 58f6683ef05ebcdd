"""The application in front of made-up models, asked without a socket: for what no real engine does on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from backends.config import ModelConfig
from backends.engine.replicas import EngineModel
from backends.model import (
    ENGINE_CAPABILITIES,
    Endpoint,
    Endpoints,
    Frame,
    Models,
    OpenAIRequest,
    OpenAIResponse,
    State,
    Write,
)
from gateway.access_log import NoLog
from gateway.app import App
from gateway.plane import Plane
from gateway.registry import Registry
from gateway.settings import Settings
from gateway.snapshot import ModelStatus, Snapshot
from gateway.telemetry import Telemetry

Answering = Callable[[OpenAIRequest], OpenAIResponse | Exception]


class Parts:
    """A body of these parts; an exception among them is raised where it stands."""

    def __init__(self, *parts: bytes | Exception) -> None:
        self._parts = list(parts)
        self.closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._parts:
            raise StopAsyncIteration
        part = self._parts.pop(0)
        if isinstance(part, Exception):
            raise part
        return part

    async def pump(self, write: Write, frame: Frame | None = None) -> None:  # noqa: ARG002  # the protocol
        raise AssertionError(f"a stored response is not pumped to {write}")

    async def aclose(self) -> None:
        self.closed = True


class Made(EngineModel):
    """A model that answers what it is told to, and keeps what it was asked."""

    def __init__(self, config: ModelConfig, endpoints: Endpoints, answering: Answering) -> None:
        super().__init__(config, endpoints, capabilities=ENGINE_CAPABILITIES, parallelism=None)
        self._answering = answering
        self.asked: list[OpenAIRequest] = []

    async def respond(self, request: OpenAIRequest) -> OpenAIResponse:
        self.asked.append(request)
        answer = self._answering(request)
        if isinstance(answer, Exception):
            raise answer
        return answer


@asynccontextmanager
async def made(
    *statuses: ModelStatus, answering: dict[str, Answering] | None = None, **settings: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, dict[str, Made]]]:
    """A client of the application over these models, and those of them that are connected, by name."""
    models: dict[str, Made] = {}

    def connect(config: ModelConfig, endpoints: Endpoints, _: Models) -> EngineModel:
        models[config.name] = Made(config, endpoints, (answering or {})[config.name])
        return models[config.name]

    registry = Registry(lambda _: connect, share=1, max_queue_size=1)
    registry.apply(Snapshot(statuses, settled=True))
    app = App(Plane(Settings(**settings), registry, None, Telemetry(registry.connections, NoLog())))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tritium") as client:
        yield client, models


def ready(name: str, endpoints: int = 1) -> ModelStatus:
    where = tuple(Endpoint(f"{name}-{number}", f"unix:/none/{number}", State.READY) for number in range(endpoints))
    return ModelStatus(ModelConfig(name, "made"), State.READY, endpoints=where, context_length=2048, created=7)
