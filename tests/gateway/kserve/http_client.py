"""A client of KServe's HTTP API over raw sockets, and what it is served: what goes over the wire is what is seen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from gateway.auth import Keys
from gateway.plane import Plane
from tests.gateway.kserve.http_server import listening
from tests.gateway.kserve.tensor_models import Model, plane_of
from tests.waiting import eventually_async

D = list(range(16))
SIMPLE = {"inputs": [{"name": f"INPUT{n}", "datatype": "INT32", "shape": [1, 16], "data": D} for n in (0, 1)]}
LARGE_ELEMENTS = 1 << 20


@asynccontextmanager
async def served(keys: Keys | None = None, **settings: Any) -> AsyncIterator[tuple[Client, Plane, dict[str, Model]]]:
    plane, dataplane, models = plane_of(**settings)
    plane.keys = keys
    async with listening(plane, dataplane) as port:
        yield Client(port), plane, models


class Client:
    """One request a connection, or several over one that is held."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def open(self) -> Connection:
        return Connection(*await asyncio.open_connection("127.0.0.1", self.port))

    async def ask(self, path: str, body: Any = None, method: str = "POST", **headers: str) -> tuple[int, Any]:
        """The status and the decoded body."""
        connection = await self.open()
        try:
            await connection.send(path, body, method, **headers)
            status, _, data = await connection.receive()
            return status, json.loads(data) if data else None
        finally:
            connection.close()


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, path: str, body: Any = None, method: str = "POST", **headers: str) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if "transfer_encoding" not in headers and "content_length" not in headers:
            lines.append(f"content-length: {len(data)}")
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
        fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return int(head[0].split()[1]), fields

    async def receive(self) -> tuple[int, dict[str, str], bytes]:
        status, fields = await self.head()
        return status, fields, await self.reader.readexactly(int(fields["content-length"]))

    def close(self) -> None:
        self.writer.close()


async def until(probe: Callable[[], bool]) -> None:
    async def asked() -> bool:
        return probe()

    await eventually_async(asked)


def binary(elements: int) -> tuple[bytes, str]:
    """A request of the identity model with so many random-looking elements, and the length of its JSON."""
    size = elements * 4
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [elements], "parameters": {"binary_data_size": size}}
    wanted = {"name": "OUTPUT0", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [tensor], "outputs": [wanted]}).encode()
    return head + (bytes(range(256)) * (size // 256 + 1))[:size], str(len(head))
