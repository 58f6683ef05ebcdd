"""KServe v2 over HTTP as one ASGI endpoint: everything under `/v2`, past FastAPI's router and middleware."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass

from backends.errors import Code, InferenceError, ServingError, Unavailable
from backends.model import InferRequest
from backends.tensors import Buffer
from gateway.body import Receive, gather
from gateway.errors import status_and_type
from gateway.kserve import generate
from gateway.kserve.compression import accepted, compress, decompress
from gateway.kserve.control import OPEN, OPERATIONS, Call
from gateway.kserve.dataplane import DataPlane, Served
from gateway.kserve.guard import Guard
from gateway.kserve.http_reply import HttpReply
from gateway.kserve.http_request import json_bytes, read_inference
from gateway.kserve.http_response import head_lines, write_inference
from gateway.kserve.permits import is_free, permitted
from gateway.kserve.routes import WORK, Route, Routes
from gateway.kserve.traces import Traced
from gateway.plane import Plane
from gateway.telemetry import CLIENT_CLOSED_REQUEST, Exchange
from gateway.tenants import ANYONE, Tenant
from gateway.watch import Watch, read_timeout
from gateway.wire import EXTENSION, Scope, Send, Wire

_log = logging.getLogger(__name__)

_JSON = b"content-type: application/json\r\n"
_LARGE_BYTES = 1 << 18
_PACKED_BYTES = 1 << 14  # may be a thousand times as much when unpacked


@dataclass(slots=True)
class _Exchange:
    """One request with all that belongs to it."""

    route: Route
    scope: Scope
    headers: dict[bytes, bytes]
    receive: Receive
    record: Exchange
    watch: Watch
    reply: HttpReply


class KServe:
    """The ASGI application of all paths under `/v2`."""

    def __init__(self, plane: Plane, dataplane: DataPlane) -> None:
        self._plane = plane
        self._dataplane = dataplane
        self._guard = Guard(plane.settings)
        self._routes = Routes()
        pattern = plane.settings.http_header_forward_pattern
        self._forwarded = re.compile(pattern, re.IGNORECASE) if pattern else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wire: Wire = scope["extensions"][EXTENSION]
        reply = HttpReply(wire, send)
        route = self._routes.find(scope["raw_path"])
        if route is None:
            await reply.refuse(404, "Not Found", scope["method"])
        elif scope["method"] not in route.methods:
            await reply.refuse(405, "Method Not Allowed", scope["method"], route.methods)
        elif route.operation in OPEN:
            await self._probe(route, scope["method"], reply)
        else:
            await self._serve(route, scope, receive, reply)

    async def _probe(self, route: Route, method: str, reply: HttpReply) -> None:
        """What is asked every few seconds, of nobody's account: neither counted nor logged."""
        try:
            answer = await OPERATIONS[route.operation](Call(self._plane, self._dataplane, route, method, b"", ANYONE))
        except ServingError as error:
            await reply.fail(_status(error), error.message, close=False)
        else:
            await reply.whole(answer.status, _JSON if answer.body else b"", [answer.body])
        self._dataplane.follow_log_settings()

    async def _serve(self, route: Route, scope: Scope, receive: Receive, reply: HttpReply) -> None:
        """One request, whatever becomes of it: an answer, an error, a client that left."""
        plane = self._plane
        headers = dict(scope["headers"])
        client = scope["client"]
        record = plane.telemetry.begin(
            route.operation, scope["method"], scope["path"], client[0] if client else "", headers.get(b"x-request-id")
        )
        reply.own_lines = b"x-request-id: %b\r\n" % record.request_id
        wire = reply.wire
        task = asyncio.current_task(wire.loop)
        assert task is not None
        watch = Watch(plane.settings, task, wire, record.started_at + plane.settings.request_timeout)
        exchange = _Exchange(route, scope, headers, receive, record, watch, reply)
        work = self._work(exchange) if route.operation in WORK else self._control(exchange)
        error = await watch.over(work, plane.clock)
        if watch.left:
            record.disconnect(reply.status or CLIENT_CLOSED_REQUEST)
        elif error is not None:
            record.fail(error, await reply.fail(_status(error), error.message, close=plane.draining))
        else:
            record.done(reply.status)

    async def _admit(self, exchange: _Exchange) -> Tenant:
        keys = self._plane.keys
        if self._guard.check(exchange.route.operation, exchange.scope["method"], exchange.headers):
            return ANYONE
        if keys is None:
            return ANYONE
        tenant = await keys.tenant(exchange.headers)
        exchange.record.tenant = tenant.name
        return tenant

    async def _control(self, exchange: _Exchange) -> None:
        plane, route, scope = self._plane, exchange.route, exchange.scope
        tenant = await self._admit(exchange)
        body = await gather(exchange.receive, exchange.headers, plane.settings.max_body_bytes)
        call = Call(plane, self._dataplane, route, scope["method"], body, tenant)
        answer = await OPERATIONS[route.operation](call)
        self._dataplane.follow_log_settings()
        await exchange.reply.whole(answer.status, _JSON if answer.body else b"", [answer.body])

    async def _work(self, exchange: _Exchange) -> None:
        plane, route, headers = self._plane, exchange.route, exchange.headers
        record, watch = exchange.record, exchange.watch
        if plane.draining:
            raise Unavailable("The server is shutting down.", retry_after_seconds=1.0)
        tenant = await self._admit(exchange)
        served = self._dataplane.find(route.model, route.version, tenant)
        body = await gather(exchange.receive, headers, plane.settings.max_body_bytes, exchange.reply.wire)
        record.received()
        if (timeout := headers.get(b"x-request-timeout-ms")) is not None:
            watch.shorten(record.started_at + read_timeout(timeout))
        watch.departure()
        stream = route.operation == "generate_stream"
        record.route(served.config.name, stream)
        traced = self._dataplane.tracer.begin(served.config, "HTTP_RECV", "HTTP_SEND", record.started_at)
        run = self._infer if route.operation == "infer" else self._generate
        try:
            if is_free(served, tenant):
                await run(exchange, served, body, traced)
                return
            text = bytes(body) if served.model.capabilities else b""
            async with permitted(plane, tenant, served, record, text, stream=stream) as lines:
                exchange.reply.wire.head_lines = lines
                await run(exchange, served, body, traced)
        finally:
            traced.end()

    async def _infer(self, exchange: _Exchange, served: Served, body: bytes | bytearray, traced: Traced) -> None:
        headers, reply, record = exchange.headers, exchange.reply, exchange.record
        if served.is_decoupled:
            raise InferenceError(
                "HTTP end point doesn't support models with decoupled transaction policy", Code.UNSUPPORTED
            )
        if (encoding := headers.get(b"content-encoding")) is not None:
            limit = self._plane.settings.max_body_bytes
            if len(body) < _PACKED_BYTES:
                body = decompress(body, encoding, limit)
            else:  # zlib lets go of the interpreter, but not of the loop
                body = await asyncio.to_thread(decompress, body, encoding, limit)
        inference = read_inference(body, json_bytes(headers, len(body)), served, self._dataplane.regions)
        self._complete(inference.request, exchange)
        inference.request.trace = traced.inner
        record.sent()
        responses = self._dataplane.infer(served, inference.request, inference.wanted)
        try:
            response = await anext(responses)
        finally:
            await responses.aclose()
        traced.answering()
        if response.error is not None:
            raise response.error
        record.answered()
        text, binary = write_inference(inference, served, response)
        lines = head_lines(text, binary)
        parts: list[Buffer] = [text, *binary]
        if (wanted := headers.get(b"accept-encoding")) is not None and (encoding := accepted(wanted)):
            lines += b"content-encoding: %b\r\n" % encoding
            is_large = sum(map(len, parts)) >= _LARGE_BYTES
            parts = [await asyncio.to_thread(compress, parts, encoding) if is_large else compress(parts, encoding)]
        await reply.whole(200, lines, parts)

    async def _generate(self, exchange: _Exchange, served: Served, body: bytes | bytearray, traced: Traced) -> None:
        encoding = exchange.headers.get(b"content-encoding", b"identity")
        if encoding != b"identity":
            raise InferenceError("Unsupported content-encoding, only 'identity' is supported.", Code.INVALID_ARG)
        request = generate.read(body, served)
        self._complete(request, exchange)
        request.trace = traced.inner
        exchange.record.sent()
        responses = self._dataplane.infer(served, request)
        try:
            if exchange.route.operation == "generate_stream":
                await generate.stream(responses, request, served, exchange.reply, exchange.record)
            else:
                answer = await generate.collect(responses, request, served)
                traced.answering()
                exchange.record.answered()
                await exchange.reply.whole(200, _JSON, [answer])
        finally:
            await responses.aclose()

    def _complete(self, request: InferRequest, exchange: _Exchange) -> None:
        """What a request has beside its body."""
        headers = exchange.headers
        request.deadline = exchange.watch.deadline
        request.tenant = exchange.record.tenant
        if b"traceparent" in headers:
            request.traceparent = headers[b"traceparent"].decode("latin-1")
        if self._forwarded is not None:
            for name, value in exchange.scope["headers"]:
                text = name.decode("latin-1")
                if self._forwarded.search(text):
                    request.parameters[text] = value.decode("latin-1")


def _status(error: ServingError) -> int:
    return status_and_type(error)[0]
