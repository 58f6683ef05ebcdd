"""uvicorn as a guest: it leaves when told, keeps the date, and leaves the process's signals alone."""

from __future__ import annotations

import asyncio
import signal
import socket
from time import monotonic

import httpx
import uvicorn

from gateway.guest import GuestServer
from tests.waiting import eventually_async


async def app(_scope, _receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def test_it_answers_with_the_date_of_the_second_and_leaves_at_once_when_told() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = GuestServer(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False))
    before = signal.getsignal(signal.SIGINT)
    serving = asyncio.create_task(server.serve(sockets=[listener]))

    async def date() -> str:
        async with httpx.AsyncClient() as client:
            return (await client.get(url)).headers["date"]

    async def is_started() -> bool:
        return server.started

    await eventually_async(is_started, what="the start")
    first = await date()

    async def has_moved() -> bool:
        return await date() != first

    await eventually_async(has_moved, seconds=5, what="another second")
    assert signal.getsignal(signal.SIGINT) is before
    told_at = monotonic()
    server.leave()
    await serving
    assert monotonic() - told_at < 0.9
