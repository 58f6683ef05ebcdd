"""A gRPC server over tensor models."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from gateway.kserve.dataplane import DataPlane
from gateway.kserve.grpc import GrpcServer
from gateway.kserve.services import services
from gateway.plane import Plane
from tests.gateway.kserve.tensor_models import Model, plane_of

DECOMPRESSED_BYTES = 1 << 20


@dataclass(slots=True)
class Served:
    """What listens on `port`, and what stands behind it."""

    server: GrpcServer
    port: int
    plane: Plane
    dataplane: DataPlane
    models: dict[str, Model]

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"


@asynccontextmanager
async def serving_grpc(plane: Plane, dataplane: DataPlane) -> AsyncIterator[int]:
    """A port that serves this data plane."""
    server = GrpcServer(services(plane, dataplane), decompressed_bytes=DECOMPRESSED_BYTES)
    listener = socket.create_server(("127.0.0.1", 0))
    await server.start(listener)
    try:
        yield listener.getsockname()[1]
    finally:
        await server.stop(0)


@asynccontextmanager
async def grpc_served(*, compression_level: int = 0, **settings: Any) -> AsyncIterator[Served]:
    plane, dataplane, models = plane_of(**settings)
    server = GrpcServer(
        services(plane, dataplane), decompressed_bytes=DECOMPRESSED_BYTES, compression_level=compression_level
    )
    listener = socket.create_server(("127.0.0.1", 0))
    await server.start(listener)
    try:
        yield Served(server, listener.getsockname()[1], plane, dataplane, models)
    finally:
        await server.stop(0)
