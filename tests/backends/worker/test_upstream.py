"""A server process's connection to a host: whom it believes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from backends.model import Models
from backends.worker.frames import MAGIC, pack
from backends.worker.messages import Status
from backends.worker.upstream import Upstream
from tests.waiting import eventually_async


async def test_a_supervisor_that_saw_the_model_ready_is_believed_before_an_older_word_of_its_host(
    tmp_path: Path,
) -> None:
    connected: list[asyncio.StreamWriter] = []

    async def host(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(len(MAGIC)) == MAGIC
        connected.append(writer)
        writer.writelines(pack(Status(ready=False, alive=0)))
        await reader.read()
        writer.close()

    async def is_told(ready: bool) -> bool:
        return upstream.status is not None and upstream.status.ready is ready

    server = await asyncio.start_unix_server(host, tmp_path / "h.sock")
    upstream = Upstream(f"unix:{tmp_path}/h.sock", "m", cast("Models", None), asyncio.get_running_loop())
    try:
        await eventually_async(lambda: is_told(False))
        assert not upstream.is_ready
        upstream.expect(True)
        assert upstream.is_ready
        connected[0].writelines(pack(Status(ready=False, alive=0)))  # an instance died since
        await eventually_async(lambda: is_told(False))
        upstream.expect(True)
        assert not upstream.is_ready
        connected[0].writelines(pack(Status(ready=True, alive=1)))
        await eventually_async(lambda: is_told(True))
        assert upstream.is_ready
    finally:
        upstream.close()
        connected[0].close()
        server.close()
        await server.wait_closed()
