"""The models: what is served, what each can do, and how it is."""

from __future__ import annotations

from collections import Counter
from typing import Any

from backends.model import State
from gateway import access
from gateway.plane import Plane
from gateway.registry import Entry
from gateway.tenants import Tenant


def list_models(plane: Plane, tenant: Tenant) -> dict[str, Any]:
    """`GET /v1/models`: every model of the repository that the tenant may use, ready or not."""
    return {"object": "list", "data": [_describe(entry) for entry in access.visible(plane.registry, tenant)]}


def show_model(plane: Plane, name: str, tenant: Tenant) -> dict[str, Any]:
    """`GET /v1/models/{id}`. Raises `ModelNotFound`."""
    access.check(plane.registry, tenant, name)
    return _describe(plane.registry.find(name))


def _describe(entry: Entry) -> dict[str, Any]:
    """OpenAI's four fields; vLLM's `max_model_len`; ours, from `capabilities` on.

    `endpoints` counts them by their state.
    """
    status = entry.status
    model = entry.model
    fields: dict[str, Any] = {
        "id": status.config.name,
        "object": "model",
        "created": status.created,
        "owned_by": "tritium",
        "capabilities": sorted(item.value for item in model.capabilities) if model is not None else [],
        "context_length": status.context_length,
        "max_model_len": status.context_length,
        "state": status.state.value,
        "backend": status.config.backend,
        "version": status.config.version,
        "endpoints": Counter(endpoint.state.value for endpoint in status.endpoints),
        "aliases": entry.naming.aliases,
    }
    if status.reason and status.state is not State.READY:
        fields["reason"] = status.reason
    return fields
