"""Responses: created by a model, and those that an engine keeps: get, cancel, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator
from time import monotonic

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from backends.errors import ModelNotReady, NotFound
from backends.model import Capability, OpenAIRequest, OpenAIResponse
from gateway.dialect import Dialect, named_event
from gateway.errors import from_engine
from gateway.operations import MODEL, STREAM, Operation
from gateway.plane import Plane

RESPONSES = Dialect(
    "responses",
    Capability.RESPONSES,
    ends=(b"event: response.completed", b"event: response.incomplete", b"event: response.failed", b"event: error"),
    failure=named_event,
)

OPERATIONS = (
    Operation(
        "/v1/responses",
        RESPONSES,
        "Create a response",
        {"model": MODEL, "input": {"anyOf": [{"type": "string"}, {"type": "array"}]}, "stream": STREAM},
        ("model", "input"),
    ),
)


async def stored_response(plane: Plane, request: Request) -> Response:
    """Get, cancel or delete a stored response.

    Its path names no model, and any server process must find it: the models that offer responses are asked in
    turn. Raises `NotFound` when each says 404.
    """
    query = request.url.query
    path = request.url.path + (f"?{query}" if query else "")
    deadline = monotonic() + plane.settings.request_timeout
    for name, entry in plane.registry.entries().items():
        model = entry.model
        if model is None or Capability.RESPONSES not in model.capabilities:
            continue
        asked = OpenAIRequest(path, b"", name, stream=False, deadline=deadline, method=request.method)
        try:
            answer = await model.respond(asked)
        except ModelNotReady:
            continue
        if answer.status != 404:
            return await _passed_on(answer)
        await answer.body.aclose()
    response_id = request.path_params["response_id"]
    raise NotFound(f"No response with id '{response_id}' is kept by an engine.", param="response_id")


async def _passed_on(answer: OpenAIResponse) -> Response:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}
    if headers.get("content-type", "").startswith("text/event-stream"):
        headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(_closing(answer), answer.status, headers)
    try:
        body = b"".join([data async for data in answer.body])
    finally:
        await answer.body.aclose()
    if answer.status >= 400:
        headers["content-type"] = "application/json"
        body = msgspec.json.encode(from_engine(answer.status, body))
    return Response(body, answer.status, headers)


async def _closing(answer: OpenAIResponse) -> AsyncIterator[bytes]:
    try:
        async for data in answer.body:
            yield data
    finally:
        await answer.body.aclose()
