"""What a tenant's limits and a model's permits have to say before an inference runs, as they do for `/v1`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backends.model import Capability
from gateway.cost import Cost
from gateway.dialect import Call
from gateway.kserve.dataplane import Served
from gateway.plane import Plane
from gateway.quotas import NOTHING
from gateway.telemetry import Exchange
from gateway.tenants import Tenant


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
    cost = Cost(Call(config.name, body, stream), capability, entry.status.context_length)
    reservation = await plane.quotas.reserve(tenant, cost) if tenant.is_limited else NOTHING
    if reservation.refusal is not None:
        raise reservation.refusal
    try:
        permit = entry.gate.try_enter(tenant, cost.prompt_tokens)
        if permit is None:
            record.queue()
            permit = await entry.gate.enter(tenant, cost.prompt_tokens)
        record.admit()
        try:
            yield reservation.head_lines
        finally:
            cost.count(record, record.status)
            entry.gate.leave(permit, cost.spent or 0)
    finally:
        reservation.settle(cost.spent)
