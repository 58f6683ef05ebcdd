"""One request of the OpenAI surface: read, let in, admitted, answered, whatever becomes of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping
from time import monotonic
from typing import Any

from backends.errors import ServingError, Unavailable
from backends.model import Headers, OpenAIRequest
from gateway.body import ClientLeft, Receive, read_body
from gateway.dialect import Dialect
from gateway.events import Events
from gateway.plane import Plane
from gateway.relay import is_stream, relay_stream, relay_whole
from gateway.reply import Reply, Send
from gateway.telemetry import CLIENT_CLOSED_REQUEST, Exchange
from gateway.watch import Watch, read_timeout
from gateway.wire import EXTENSION, Wire

Scope = MutableMapping[str, Any]

_log = logging.getLogger(__name__)

_PASSED_ON = (b"traceparent", b"tracestate", b"anthropic-version", b"anthropic-beta")


async def serve(plane: Plane, dialect: Dialect, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one request of the OpenAI surface, whatever becomes of it: an answer, an error, a client that left."""
    headers = dict(scope["headers"])
    client = scope["client"]
    record = plane.telemetry.begin(
        dialect.operation, scope["method"], scope["path"], client[0] if client else "", headers.get(b"x-request-id")
    )
    wire: Wire = scope["extensions"][EXTENSION]
    task = asyncio.current_task(wire.loop)
    assert task is not None
    watch = Watch(plane.settings, task, wire, record.started_at + plane.settings.request_timeout)
    reply = Reply(dialect, record.request_id, wire, send)
    plane.clock.add(watch)
    error: ServingError | None = None
    try:
        await _serve(plane, dialect, scope, headers, receive, record, watch, reply)
    except ClientLeft:
        watch.left = True
    except asyncio.CancelledError:
        error = watch.error
        if error is None and not watch.left:
            raise
        task.uncancel()
    except ServingError as raised:
        error = raised
    except Exception:  # noqa: BLE001  # the top of a request's task
        _log.exception("A request to %s broke.", scope["path"])
        error = ServingError("The gateway failed to serve this request.", code="internal_error")
    finally:
        watch.close()
        plane.clock.discard(watch)
    if watch.left:
        record.disconnect(reply.status or CLIENT_CLOSED_REQUEST)
    elif error is not None:
        record.fail(error, await reply.fail(error, close=plane.draining))


async def _serve(
    plane: Plane,
    dialect: Dialect,
    scope: Scope,
    headers: dict[bytes, bytes],
    receive: Receive,
    record: Exchange,
    watch: Watch,
    reply: Reply,
) -> None:
    if plane.draining:
        raise Unavailable("The server is shutting down.", retry_after_seconds=1.0)
    if plane.keys is not None:
        plane.keys.check(headers)
    call = dialect.read(await read_body(receive, headers, plane.settings.max_body_bytes))
    record.received()
    if (timeout := headers.get(b"x-request-timeout-ms")) is not None:
        watch.shorten(record.started_at + read_timeout(timeout))
    watch.departure()
    record.route(call.model, call.stream)
    entry, model = plane.registry.offering(call.model, dialect.capability)
    if call.stream:
        watch.stream(reply.keep_alive)
    gate = entry.gate
    if not gate.try_enter():
        record.queue()
        await gate.enter()
    record.admit()
    admitted_at = monotonic()
    try:
        fields = _passed_on(headers, record)
        request = OpenAIRequest(scope["path"], call.body, call.model, call.stream, fields, watch.deadline)
        if query := scope["query_string"]:
            request.query = query.decode("latin-1")
        record.sent()
        watch.heard_at = record.sent_at
        watch.on_engine = True
        response = await model.respond(request)
        try:
            if response.status < 400 and is_stream(response.headers):
                await relay_stream(response, Events(strip_usage=call.strip_usage), dialect.ends, record, watch, reply)
            else:
                await relay_whole(response, record, watch, reply)
        finally:
            await response.body.aclose()
    finally:
        gate.leave(admitted_at)


def _passed_on(headers: dict[bytes, bytes], record: Exchange) -> Headers:
    fields = [(b"x-request-id", record.request_id)]
    fields += [(name, headers[name]) for name in _PASSED_ON if name in headers]
    return fields
