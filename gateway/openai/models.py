"""The models: what is served, what each can do, and how it is."""

from __future__ import annotations

from typing import Any

from backends.model import State
from gateway.plane import Plane
from gateway.registry import Entry


def list_models(plane: Plane) -> dict[str, Any]:
    """`GET /v1/models`: every model of the repository, ready or not."""
    return {"object": "list", "data": [_describe(entry) for entry in plane.registry.entries().values()]}


def show_model(plane: Plane, name: str) -> dict[str, Any]:
    """`GET /v1/models/{id}`. Raises `ModelNotFound`."""
    return _describe(plane.registry.find(name))


def _describe(entry: Entry) -> dict[str, Any]:
    """OpenAI's four fields; vLLM's `max_model_len`; ours: capabilities, context length, state, backend, reason."""
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
    }
    if status.reason and status.state is not State.READY:
        fields["reason"] = status.reason
    return fields
