"""`ModelInfer` and `ModelStreamInfer`: one answer a call, or many requests and their answers on one stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from google.protobuf.message import DecodeError

from backends.errors import Code, InferenceError, ServingError
from backends.model import InferResponse, Responses
from backends.protobuf import service_pb2 as pb
from backends.tensors import Buffer
from gateway.kserve import contents, messages
from gateway.kserve.call import Call
from gateway.kserve.dataplane import DataPlane, Served
from gateway.kserve.messages import Translated
from gateway.kserve.permits import accounted, is_accounted
from gateway.plane import Plane
from gateway.telemetry import Exchange
from gateway.tenants import Tenant

_INFER_RESPONSE_TAG = b"\x12"  # ModelStreamInferResponse.infer_response: field 2, length-delimited
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

        Errors stand in the stream; those of a model end it where the client asks for that (`triton_grpc_error`).
        Leaving it, by whatever exception, cancels what is under way.
        """
        tenant = await self._admit(call)
        stream = _Stream(call)
        try:
            async with asyncio.TaskGroup() as answering:
                while (body := await call.read()) is not None:
                    await stream.room.acquire()
                    request_id = ""
                    try:
                        message, raw = parse(body)
                        request_id = message.id
                        served = self._dataplane.find(message.model_name, message.model_version, tenant)
                        if is_accounted(served, tenant):
                            text = _text(body, served)
                            answering.create_task(self._account(stream, message, raw, served, call, tenant, text))
                            continue
                        translated, responses = self._begin(message, raw, served, call, tenant)
                    except ServingError as error:
                        stream.room.release()
                        await stream.refuse(request_id, error)
                    else:
                        stream.open.add(responses)
                        answering.create_task(stream.answer(served, translated, responses))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        finally:
            for responses in tuple(stream.open):  # of tasks that were cancelled before they began
                await responses.aclose()

    async def _account(
        self, stream: _Stream, message: Any, raw: list[Buffer], served: Served, call: Call, tenant: Tenant, text: bytes
    ) -> None:
        """A request of a stream that is somebody's, or waits for a permit; those of sequences keep their order."""
        is_begun = False
        try:
            async with AsyncExitStack() as stack:
                entering = accounted(self._plane, tenant, served, call, text, stream=True)
                if served.config.sequence_batching is None:
                    record = await stack.enter_async_context(entering)
                    translated, responses = self._begin(message, raw, served, call, tenant)
                else:
                    async with stream.order:
                        record = await stack.enter_async_context(entering)
                        translated, responses = self._begin(message, raw, served, call, tenant)
                is_begun = True
                await stream.relay(served, translated, responses, record)
        except ServingError as error:
            if is_begun:
                await stream.fail(served.config.name, message.model_version, message.id, error)
            else:
                await stream.refuse(message.id, error)
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


class _Stream:
    """The requests of one stream that are under way: `room` for more of them, the `open` responses.

    `order` is held by whoever must begin before those that came later.
    """

    def __init__(self, call: Call) -> None:
        self.room = asyncio.Semaphore(_MOST_UNDER_WAY)
        self.open: set[Responses] = set()
        self.order = asyncio.Lock()
        self._call = call
        self._ends_on_error = call.metadata.get("triton_grpc_error") == "true"
        self._turn = asyncio.Lock()

    async def refuse(self, id: str, error: ServingError) -> None:
        """A request that was not begun."""
        await self._write(pb.ModelInferResponse(id=id), [], error)

    async def answer(self, served: Served, translated: Translated, responses: Responses) -> None:
        """Write the responses of one request as they come."""
        try:
            await self.relay(served, translated, responses)
        except ServingError as error:
            await self.fail(served.config.name, translated.version, translated.request.id, error)
        finally:
            self.open.discard(responses)
            self.room.release()

    async def relay(
        self, served: Served, translated: Translated, responses: Responses, record: Exchange | None = None
    ) -> None:
        """As `answer`, with the marks of its record. Raises `ServingError` where the responses break off."""
        name, version = served.config.name, str(served.config.version)
        request_id = translated.request.id
        try:
            async for response in responses:
                if record is not None:
                    record.chunk()
                if response.error is not None and response.is_refusal:
                    await self.refuse(request_id, response.error)
                elif response.error is not None:
                    await self.fail(name, translated.version, request_id, response.error)
                elif response.outputs or not served.is_decoupled:
                    message = messages.write(response, name, version, request_id, streams=True)
                    await self._write(*message)
                elif response.final and translated.ends_explicitly:
                    await self._write(messages.write_end(name, translated.version, request_id), [])
        finally:
            await responses.aclose()
            translated.traced.end()

    async def fail(self, name: str, version: str, id: str, error: ServingError) -> None:
        if self._ends_on_error:
            raise error
        await self._write(messages.write_end(name, version, id), [], error)

    async def _write(self, message: Any, rest: list[Buffer], error: ServingError | None = None) -> None:
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
