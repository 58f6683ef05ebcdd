"""Where the answers of one request on a stream go: out as they come, or in the order in which requests came."""

from __future__ import annotations

import asyncio
from typing import Any

from backends.errors import ServingError
from backends.protobuf import service_pb2 as pb
from backends.tensors import Buffer
from gateway.kserve import contents, messages
from gateway.kserve.call import Call

_INFER_RESPONSE_TAG = b"\x12"  # ModelStreamInferResponse.infer_response: field 2, length-delimited


class Outlets:
    """Those of one stream."""

    def __init__(self, call: Call) -> None:
        self.ends_on_error = call.metadata.get("triton_grpc_error") == "true"
        self._call = call
        self._turn = asyncio.Lock()
        self._last: asyncio.Future[None] | None = None

    def at_once(self) -> Outlet:
        """For a model that gives as many answers as it likes: what is written goes out."""
        return Outlet(self, None, None)

    def in_turn(self) -> Outlet:
        """For one answer, which follows those of all requests that were given such an outlet before."""
        before = self._last
        self._last = over = asyncio.get_running_loop().create_future()
        return Outlet(self, before, over)

    async def send(self, message: Any, rest: list[Buffer], error: ServingError | None = None) -> None:
        """Write one message of the stream; `rest` are raw contents that are not in it."""
        if rest:
            head, tail = message.SerializeToString(), contents.raw_outputs(rest)
            size = len(head) + sum(map(len, tail))
            parts = [_INFER_RESPONSE_TAG + contents.varint(size) + head, *tail]
        else:
            whole = pb.ModelStreamInferResponse(infer_response=message)
            if error is not None:
                whole.error_message = error.message
            parts = [whole.SerializeToString()]
        async with self._turn:
            await self._call.write(parts)


class Outlet:
    """Of one request. Whoever holds it closes it, unless the stream itself is at its end."""

    __slots__ = ("_before", "_kept", "_outlets", "_over")

    def __init__(
        self, outlets: Outlets, before: asyncio.Future[None] | None, over: asyncio.Future[None] | None
    ) -> None:
        self._outlets = outlets
        self._before = before
        self._over = over
        self._kept: list[tuple[Any, list[Buffer], ServingError | None]] = []

    async def write(self, message: Any, rest: list[Buffer], error: ServingError | None = None) -> None:
        """One answer: sent, or kept for its turn."""
        if self._over is None:
            await self._outlets.send(message, rest, error)
        else:
            self._kept.append((message, rest, error))

    async def refuse(self, id: str, error: ServingError) -> None:
        """A request that was not begun."""
        await self.write(pb.ModelInferResponse(id=id), [], error)

    async def fail(self, name: str, version: str, id: str, error: ServingError) -> None:
        """A request that was. Raises its error where that is to end the stream."""
        if self._outlets.ends_on_error:
            raise error
        await self.write(messages.write_end(name, version, id), [], error)

    async def close(self) -> None:
        """Send what was kept, once it is its turn."""
        if self._over is None:
            return
        if self._before is not None:
            await self._before
        for answer in self._kept:
            await self._outlets.send(*answer)
        if not self._over.done():  # cancelled with whoever waited for it
            self._over.set_result(None)
