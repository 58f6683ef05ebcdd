"""One request of the OpenAI surface: read, let in, admitted, answered, whatever becomes of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from backends.errors import Unavailable
from backends.model import Capability, Headers, OpenAIModel, OpenAIRequest, is_stream
from gateway import access
from gateway.body import Receive, read_body
from gateway.cache_salt import is_salted
from gateway.cost import Cost
from gateway.decisions import Decision
from gateway.dialect import Answering, Call, Dialect
from gateway.events import Events
from gateway.fallback import Covers, Refused, Stall, first_of
from gateway.plane import Plane
from gateway.quotas import NOTHING
from gateway.registry import Entry, Registry
from gateway.relay import relay_stream, relay_whole
from gateway.rename import renamed
from gateway.reply import Reply
from gateway.telemetry import CLIENT_CLOSED_REQUEST, Exchange
from gateway.tenants import ANYONE, Tenant
from gateway.watch import Watch, read_timeout
from gateway.wire import EXTENSION, Scope, Send, Wire


@dataclass(slots=True)
class _Asked:
    """One request with all that belongs to it, whichever model it goes to."""

    plane: Plane
    dialect: Dialect
    scope: Scope
    headers: dict[bytes, bytes]
    call: Call
    tenant: Tenant
    cost: Cost
    decision: Decision
    record: Exchange
    watch: Watch
    reply: Reply


_log = logging.getLogger(__name__)

_MODEL = b"x-tritium-model"
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
    error = await watch.over(_serve(plane, dialect, scope, headers, receive, record, watch, reply), plane.clock)
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
    tenant = ANYONE if plane.keys is None else await plane.keys.tenant(headers)
    record.tenant = tenant.name
    call = dialect.read(await read_body(receive, headers, plane.settings.max_body_bytes))
    dialect = call.dialect or dialect
    record.received()
    if (timeout := headers.get(b"x-request-timeout-ms")) is not None:
        watch.shorten(record.started_at + read_timeout(timeout))
    watch.departure()
    record.route(plane.registry.served_name(call.model), call.stream)
    access.check(plane.registry, tenant, call.model)
    decision = plane.decisions.begin(record, call.model, call.body)
    entry = plane.registry.find(call.model)
    stand_ins = _stand_ins(plane.registry, entry, dialect.capability, tenant) if entry.naming.fallbacks else ()
    model = None if stand_ins else plane.registry.usable(entry, dialect.capability)
    if call.stream:
        watch.stream(reply.keep_alive)
    cost = Cost(call, dialect.capability, entry.status.context_length)
    reservation = await plane.quotas.reserve(tenant, cost) if tenant.is_limited else NOTHING
    reply.wire.head_lines = reservation.head_lines
    if reservation.refusal is not None:
        raise reservation.refusal
    asked = _Asked(plane, dialect, scope, headers, call, tenant, cost, decision, record, watch, reply)
    try:
        if model is not None:
            await _attempt(asked, entry, model)
        else:
            await _attempt_in_turn(asked, entry, stand_ins)
    finally:
        reservation.settle(cost.spent)


def _stand_ins(registry: Registry, entry: Entry, capability: Capability, tenant: Tenant) -> Sequence[str]:
    """The fallbacks of a model that can be asked the same by the same tenant."""
    names = entry.naming.fallbacks
    return [name for name in names if tenant.may_use(name) and registry.offers(name, capability)]


async def _attempt_in_turn(asked: _Asked, entry: Entry, stand_ins: Sequence[str]) -> None:
    """Ask the model, then those that stand in for it, until one answers."""
    registry, capability, reply = asked.plane.registry, asked.dialect.capability, asked.reply
    fields = reply.fields

    async def attempt(name: str, covers: Covers | None, stall: Stall | None) -> None:
        reply.fields = fields
        chosen, model = registry.offering(name, capability)
        missing = None if covers is None else model.lacking()
        if missing is not None and entry.naming.covers(missing):  # otherwise several replicas are worth their wait
            raise missing
        await _attempt(asked, chosen, model, covers, stall)

    names = [entry.status.config.name, *stand_ins]
    await first_of(names, entry.naming, attempt, asked.record, asked.watch)


async def _attempt(
    asked: _Asked, entry: Entry, model: OpenAIModel, covers: Covers | None = None, stall: Stall | None = None
) -> None:
    """Ask one model, once it has a permit. With `covers`, an answer of such a status is `Refused`, not relayed."""
    tenant, cost, record, call = asked.tenant, asked.cost, asked.record, asked.call
    permit = entry.gate.try_enter(tenant, cost.prompt_tokens)
    if permit is None:
        record.queue()
        permit = await entry.gate.enter(tenant, cost.prompt_tokens)
    record.admit()
    try:
        name = model.config.name
        if name != call.model:  # by an alias, or as a fallback: engines know their own name alone
            call = replace(call, model=name, body=renamed(call.body, name))
            asked.reply.fields = [*asked.reply.fields, (_MODEL, name.encode("ascii", "backslashreplace"))]
        request = _request(asked, call, model)
        request.stall = stall
        asked.decision.took(request)
        through = asked.dialect.through
        answering = model if through is None else through(model, asked.plane.registry)
        await _answer(asked, answering, request, covers)
    finally:
        entry.gate.leave(permit, cost.spent or 0)


def _request(asked: _Asked, call: Call, model: OpenAIModel) -> OpenAIRequest:
    plane, scope, headers, tenant = asked.plane, asked.scope, asked.headers, asked.tenant
    request = OpenAIRequest(
        scope["path"], call.body, call.model, call.stream, _passed_on(headers, asked.record), asked.watch.deadline
    )
    if query := scope["query_string"]:
        request.query = query.decode("latin-1")
    if session := headers.get(model.session_header):
        request.session = session.decode("latin-1")
    request.tenant = tenant.name
    request.prompt_tokens = asked.cost.prompt_tokens
    request.output_tokens = asked.cost.output_tokens
    if plane.cache_salt is not None and tenant.name and is_salted(model.config, asked.dialect.capability):
        request.body = plane.cache_salt.salted(call, tenant.name)
    return request


async def _answer(asked: _Asked, model: Answering, request: OpenAIRequest, covers: Covers | None) -> None:
    """Ask the model, and give the client what it says. `cost` knows at the end what it was."""
    dialect, call, cost = asked.dialect, asked.call, asked.cost
    record, watch, reply = asked.record, asked.watch, asked.reply
    watch.request = request
    record.took(request.route)
    record.sent()
    watch.heard_at = record.sent_at
    watch.on_engine = True
    try:
        response = await model.respond(request)
    except asyncio.CancelledError:
        cost.abandon()
        raise
    try:
        if covers is not None and covers(response.status):
            raise Refused(f"The model {request.model!r} answered {response.status}.")
        if response.status < 400 and is_stream(response.headers):
            await relay_stream(response, Events(strip_usage=call.strip_usage), dialect.ends, record, watch, reply)
        else:
            await relay_whole(response, record, watch, reply)
    finally:
        cost.count(record, response.status)
        await response.body.aclose()


def _passed_on(headers: dict[bytes, bytes], record: Exchange) -> Headers:
    fields = [(b"x-request-id", record.request_id)]
    fields += [(name, headers[name]) for name in _PASSED_ON if name in headers]
    return fields
