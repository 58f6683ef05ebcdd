"""What a tenant's limits and a model's permits have to say before an inference runs, as they do for `/v1`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from backends.errors import DeadlineExceeded, ServingError
from backends.model import Capability
from gateway import dialect
from gateway.cost import Cost
from gateway.errors import status_and_type
from gateway.kserve.call import Call
from gateway.kserve.dataplane import Served
from gateway.plane import Plane
from gateway.quotas import NOTHING
from gateway.telemetry import Exchange
from gateway.tenants import ANYONE, Tenant

_PATHS = {
    stream: f"/inference.GRPCInferenceService/{name}"
    for stream, name in ((False, "ModelInfer"), (True, "ModelStreamInfer"))
}


def is_free(served: Served, tenant: Tenant) -> bool:
    """Whether neither has a limit: then there is nothing to wait for."""
    return served.entry.gate.permits is None and not tenant.is_limited


@asynccontextmanager
async def permitted(
    plane: Plane, tenant: Tenant, served: Served, record: Exchange, body: bytes, *, stream: bool
) -> AsyncIterator[bytes]:
    """Hold a permit, and what the tenant may be charged, for the length of the block; the lines that tell of limits.

    Engines are charged tokens, estimated from the body and counted by what came; other models requests alone.
    Raises `RateLimited`, `Overloaded`, `Unavailable`.
    """
    entry, config = served.entry, served.config
    generates = bool(served.model.capabilities & {Capability.CHAT, Capability.COMPLETIONS})
    capability = Capability.COMPLETIONS if generates else Capability.TOKENIZE
    cost = Cost(dialect.Call(config.name, body, stream), capability, entry.status.context_length)
    reservation = await plane.quotas.reserve(tenant, cost) if tenant.is_limited else NOTHING
    if reservation.refusal is not None:
        raise reservation.refusal
    try:
        permit = entry.gate.try_enter(tenant, cost.prompt_tokens)
        if permit is None:
            record.queue()
            permit = await entry.gate.enter(tenant, cost.prompt_tokens)
        record.admit()
        status = 200
        try:
            yield reservation.head_lines
        except ServingError as error:
            status = status_and_type(error)[0]
            raise
        finally:
            cost.count(record, status)
            entry.gate.leave(permit, cost.spent or 0)
    finally:
        reservation.settle(cost.spent)


def is_accounted(served: Served, tenant: Tenant) -> bool:
    """Whether a call of gRPC has a record: somebody's, or of a model with permits. Triton's metrics tell of all."""
    return tenant is not ANYONE or not is_free(served, tenant)


@asynccontextmanager
async def accounted(
    plane: Plane, tenant: Tenant, served: Served, call: Call, body: bytes, *, stream: bool
) -> AsyncIterator[Exchange]:
    """As `permitted`, for one inference of a gRPC call: recorded as those over HTTP are, and ended when its time is up.

    Raises `DeadlineExceeded` besides.
    """
    offered_id = call.metadata.get("x-request-id", "").encode()
    path = _PATHS[stream]
    record = plane.telemetry.begin("infer", "POST", path, call.client, offered_id)
    record.tenant = tenant.name
    record.route(served.config.name, stream)
    try:
        async with (
            asyncio.timeout(plane.settings.request_timeout),
            permitted(plane, tenant, served, record, body, stream=stream),
        ):
            yield record
    except asyncio.CancelledError:
        if call.deadline is not None and monotonic() >= call.deadline:
            record.fail(_late(), 504)
        else:
            record.disconnect()
        raise
    except TimeoutError as error:
        record.fail(_late(), 504)
        raise _late() from error
    except Exception as error:
        record.fail(error, status_and_type(error)[0] if isinstance(error, ServingError) else 500)
        raise
    record.done(200)


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("The request did not finish before its deadline.")
