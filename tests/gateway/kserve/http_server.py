"""The application on a socket of its own in the test's loop: what goes over the wire is what clients see."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn

from gateway.app import App
from gateway.guest import GuestServer
from gateway.kserve.dataplane import DataPlane
from gateway.kserve.restrictions import restricted
from gateway.plane import Plane
from gateway.protocol import wired_protocol


@asynccontextmanager
async def listening(plane: Plane, dataplane: DataPlane) -> AsyncIterator[int]:
    """The port at which the application serves."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = App(plane, dataplane)
    options = plane.settings.http_restricted_api
    server = GuestServer(
        uvicorn.Config(
            restricted(app, options),
            http=wired_protocol(asyncio.get_running_loop(), None if options else app.shortcut),
            ws="none",
            lifespan="off",
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
    )
    serving = asyncio.create_task(server.serve([listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.leave()
        await serving
        listener.close()
