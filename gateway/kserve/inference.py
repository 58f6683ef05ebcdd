"""`ModelInfer` and `ModelStreamInfer`: one answer a call, or many requests and their answers on one stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from backends.errors import Code, InferenceError, ServingError
from backends.model import InferResponse, Responses
from backends.tensors import Buffer
from gateway.kserve import contents, messages
from gateway.kserve.call import Call
from gateway.kserve.dataplane import DataPlane, Served
from gateway.kserve.messages import Translated
from gateway.kserve.outlets import Outlet, Outlets
from gateway.kserve.permits import accounted, is_accounted
from gateway.plane import Plane
from gateway.telemetry import Exchange
from gateway.tenants import Tenant

# Of one stream: more are read once some of these are answered, so that a client cannot fill the memory by not reading.
_MOST_UNDER_WAY = 1024

Admit = Callable[[Call], Awaitable[Tenant]]
"""Who calls. Raises `ServingError` for whom is not let in, and while no new work is taken."""

Complete = Callable[[Translated, Call], None]
"""Puts into a request what the call says beside it: its deadline, its metadata."""


class Inference:
    """The two RPCs over one data plane."""

    def __init__(self, plane: Plane, dataplane: DataPlane, admit: Admit, complete: Complete) -> None:
        self._plane = plane
        self._dataplane = dataplane
        self._admit = admit
        self._complete = complete

    async def infer(self, body: Buffer, call: Call) -> list[Buffer]:
        """Answer one request by one response."""
        tenant = await self._admit(call)
        message, raw = parse(body)
        served = self._dataplane.find(message.model_name, message.model_version, tenant)
        if served.is_decoupled:
            raise InferenceError(
                "ModelInfer RPC doesn't support models with decoupled transaction policy", Code.UNSUPPORTED
            )
        if not is_accounted(served, tenant):
            return await self._answer(message, raw, served, call, tenant)
        async with accounted(self._plane, tenant, served, call, _text(body, served), stream=False) as record:
            answer = await self._answer(message, raw, served, call, tenant)
            record.answered()
            return answer

    async def _answer(
        self, message: Any, raw: list[Buffer], served: Served, call: Call, tenant: Tenant
    ) -> list[Buffer]:
        translated, responses = self._begin(message, raw, served, call, tenant)
        try:
            response = await anext(responses, InferResponse())
            translated.traced.answering()
            if response.error is not None:
                raise response.error
            answer, rest = messages.write(
                response,
                served.config.name,
                str(served.config.version),
                translated.request.id,
                streams=False,
            )
            return [answer.SerializeToString(), *contents.raw_outputs(rest)]
        finally:
            await responses.aclose()
            translated.traced.end()

    async def stream(self, call: Call) -> None:
        """Answer each request of a stream as its responses come; return once all are answered.

        What models answer that give one response each comes in the order of their requests, as in Triton. Errors stand
        in the stream; those of a model end it where the client asks for that (`triton_grpc_error`).
        Leaving it, by whatever exception, cancels what is under way.
        """
        tenant = await self._admit(call)
        stream = _Stream(call)
        try:
            async with asyncio.TaskGroup() as answering:
                while (body := await call.read()) is not None:
                    await stream.room.acquire()
                    request_id, outlet = "", None
                    try:
                        message, raw = parse(body)
                        request_id = message.id
                        served = self._dataplane.find(message.model_name, message.model_version, tenant)
                        outlet = stream.outlets.at_once() if served.is_decoupled else stream.outlets.in_turn()
                        if is_accounted(served, tenant):
                            asked = _Asked(message, raw, served, outlet, _text(body, served))
                            answering.create_task(self._account(stream, asked, call, tenant))
                            continue
                        translated, responses = self._begin(message, raw, served, call, tenant)
                    except ServingError as error:
                        answering.create_task(stream.refuse(outlet or stream.outlets.in_turn(), request_id, error))
                    else:
                        stream.open.add(responses)
                        answering.create_task(stream.answer(outlet, served, translated, responses))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        finally:
            for responses in tuple(stream.open):  # of tasks that were cancelled before they began
                await responses.aclose()

    async def _account(self, stream: _Stream, asked: _Asked, call: Call, tenant: Tenant) -> None:
        """A request of a stream that is somebody's, or waits for a permit; those of sequences keep their order."""
        message, raw, served, outlet = asked.message, asked.raw, asked.served, asked.outlet
        is_begun = False
        try:
            try:
                async with AsyncExitStack() as stack:
                    entering = accounted(self._plane, tenant, served, call, asked.text, stream=True)
                    if served.config.sequence_batching is None:
                        record = await stack.enter_async_context(entering)
                        translated, responses = self._begin(message, raw, served, call, tenant)
                    else:
                        async with stream.order:
                            record = await stack.enter_async_context(entering)
                            translated, responses = self._begin(message, raw, served, call, tenant)
                    is_begun = True
                    await _relay(outlet, served, translated, responses, record)
            except ServingError as error:
                if is_begun:
                    await outlet.fail(served.config.name, message.model_version, message.id, error)
                else:
                    await outlet.refuse(message.id, error)
            # Without the permit by now: whoever waits for it may be whose turn comes first.
            await outlet.close()
        finally:
            stream.room.release()

    def _begin(
        self, message: Any, raw: list[Buffer], served: Served, call: Call, tenant: Tenant
    ) -> tuple[Translated, Responses]:
        translated = messages.read(message, raw, self._dataplane.regions)
        translated.request.tenant = tenant.name
        self._complete(translated, call)
        translated.traced = self._dataplane.tracer.begin(served.config, "GRPC_WAITREAD", "GRPC_SEND")
        translated.request.trace = translated.traced.inner
        try:
            return translated, self._dataplane.infer(served, translated.request, translated.wanted)
        except BaseException:
            translated.traced.end()
            raise


def parse(body: Buffer) -> tuple[Any, list[Buffer]]:
    """The message of a request and its raw contents. Raises `InferenceError` in Triton's words."""
    try:
        return contents.parse(body)
    except (DecodeError, ValueError) as error:
        raise InferenceError("Unable to parse request") from error


def _text(body: Buffer, served: Served) -> bytes:
    """What a model's tokens are estimated from; tensors have none."""
    return bytes(body) if served.model.capabilities else b""


@dataclass(slots=True)
class _Asked:
    """A request of a stream that is to be accounted for; `text` is what its cost is estimated from."""

    message: Any
    raw: list[Buffer]
    served: Served
    outlet: Outlet
    text: bytes


class _Stream:
    """The requests of one stream that are under way: `room` for more of them, the `open` responses.

    `order` is held by whoever must begin before those that came later.
    """

    def __init__(self, call: Call) -> None:
        self.room = asyncio.Semaphore(_MOST_UNDER_WAY)
        self.open: set[Responses] = set()
        self.order = asyncio.Lock()
        self.outlets = Outlets(call)

    async def refuse(self, outlet: Outlet, id: str, error: ServingError) -> None:
        """A request that was not begun."""
        try:
            await outlet.refuse(id, error)
            await outlet.close()
        finally:
            self.room.release()

    async def answer(self, outlet: Outlet, served: Served, translated: Translated, responses: Responses) -> None:
        """Write the responses of one request as they come."""
        try:
            try:
                await _relay(outlet, served, translated, responses)
            except ServingError as error:
                await outlet.fail(served.config.name, translated.version, translated.request.id, error)
            await outlet.close()
        finally:
            self.open.discard(responses)
            self.room.release()


async def _relay(
    outlet: Outlet, served: Served, translated: Translated, responses: Responses, record: Exchange | None = None
) -> None:
    """Write responses, with the marks of their record. Raises `ServingError` where they break off."""
    name, version = served.config.name, str(served.config.version)
    request_id = translated.request.id
    try:
        async for response in responses:
            if record is not None:
                record.chunk()
            if response.error is not None and response.is_refusal:
                await outlet.refuse(request_id, response.error)
            elif response.error is not None:
                await outlet.fail(name, translated.version, request_id, response.error)
            elif response.outputs or not response.final or not served.is_decoupled:
                await outlet.write(*messages.write(response, name, version, request_id, streams=True))
            elif translated.ends_explicitly:
                await outlet.write(messages.write_end(name, translated.version, request_id), [])
    finally:
        await responses.aclose()
        translated.traced.end()
