"""gRPC over HTTP/2 (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md): one port, every call a task."""

from __future__ import annotations

import asyncio
import socket
import ssl
from time import monotonic

from gateway.kserve.exchange import GrpcExchange
from gateway.kserve.http2 import Connection
from gateway.kserve.metadata import Head, read_head
from gateway.kserve.services import Services

_BACKLOG = 4096
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 20),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
_POLL_SECONDS = 0.02
_FAREWELL_SECONDS = 1.0


class GrpcServer:
    """The services on one listening socket.

    `decompressed_bytes` is the largest message that a compressed one may make; `compression_level` (zlib's, 0: none)
    that of answers to clients that take them so.
    """

    def __init__(self, services: Services, *, decompressed_bytes: int, compression_level: int = 0) -> None:
        self._services = services
        self._decompressed_bytes = decompressed_bytes
        self._compression_level = compression_level
        self._peers: set[Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Serve on this socket, which listens already; clients that are gone are noticed within two minutes."""
        for level, option, value in _KEEPALIVE:  # accepted sockets have them from it
            listener.setsockopt(level, option, value)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self._accept, read_head, self._peers), sock=listener, ssl=tls, backlog=_BACKLOG
        )

    async def stop(self, seconds: float) -> None:
        """Take no more calls, let those under way end within `seconds`, cut the others off."""
        if self._server is None:
            return
        self._server.close()
        for connection in tuple(self._peers):
            connection.go_away()
        await self._wait(seconds)
        for connection in tuple(self._peers):
            for exchange in tuple(connection.streams.values()):
                exchange.interrupt("The server is shutting down and could not wait for this call any longer.")
        await self._wait(_FAREWELL_SECONDS)
        for connection in tuple(self._peers):
            connection.abort()
        self._server = None

    async def _wait(self, seconds: float) -> None:
        give_up_at = monotonic() + seconds
        while self._peers and monotonic() < give_up_at:  # noqa: ASYNC110  # an event costs each call
            await asyncio.sleep(_POLL_SECONDS)

    def _accept(self, connection: Connection, stream: int, head: Head) -> GrpcExchange:
        exchange = GrpcExchange(connection, stream, head, self._decompressed_bytes, self._compression_level)
        exchange.begin(head, self._services)
        return exchange
