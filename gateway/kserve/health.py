"""gRPC's health service (https://grpc.io/docs/guides/health-checking/), whose messages have one field each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from backends.tensors import Buffer
from gateway.kserve.call import Call

SERVICE = "grpc.health.v1.Health"
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"  # HealthCheckResponse.status
_LOOK_SECONDS = 0.5


class Health:
    """Answers for every service alike, as Triton does, from one question: whether work should be sent here."""

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        self._is_ready = is_ready

    async def check(self, _body: Buffer, _call: Call) -> list[Buffer]:
        return [self._status()]

    async def watch(self, call: Call) -> None:
        """Tell the status at once and at every change, until the client leaves."""
        await call.read()
        told = b""
        while True:
            if (status := self._status()) != told:
                await call.write([status])
                told = status
            await asyncio.sleep(_LOOK_SECONDS)

    def _status(self) -> bytes:
        return _SERVING if self._is_ready() else _NOT_SERVING
