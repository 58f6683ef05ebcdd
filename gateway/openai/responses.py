"""Responses: created by a model, and those that an engine keeps: get, cancel, delete."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from backends.errors import (
    DeadlineExceeded,
    ModelNotReady,
    NotFound,
    ServingError,
    Unavailable,
    UpstreamError,
    UpstreamProtocolError,
)
from backends.model import Capability, OpenAIModel, OpenAIRequest, OpenAIResponse
from ensembles.answering.search_options import asks_for_file_search
from ensembles.file_search import before
from gateway import access
from gateway.dialect import Call, Dialect, named_event, read_call
from gateway.errors import envelope, from_engine
from gateway.events import Events
from gateway.operations import MODEL, STREAM, Operation
from gateway.plane import Plane
from gateway.registry import Entry

_ENDS = (b"event: response.completed", b"event: response.incomplete", b"event: response.failed", b"event: error")


def read_response(body: bytes) -> Call:
    """As any call; one with a file search among its tools is answered from a chat. Raises `InvalidRequest`."""
    call = read_call(body)
    if asks_for_file_search(body):
        call.dialect = FILE_SEARCH
    return call


RESPONSES = Dialect("responses", Capability.RESPONSES, read=read_response, ends=_ENDS, failure=named_event)
FILE_SEARCH = Dialect("responses", Capability.CHAT, ends=_ENDS, failure=named_event, through=before)

# No such response, or an engine that keeps none and has no such route.
_UNKNOWN = frozenset({404, 405, 501})

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

    Its path names no model, and any server process must find it: the tenant's models that offer responses are asked in
    turn, each as often as it has endpoints, for these take turns. Raises `NotFound` when none knows it, what an
    engine failed with when one could not say, `DeadlineExceeded`.
    """
    failure: ServingError | None = None
    try:
        async with asyncio.timeout(plane.settings.request_timeout):
            for entry in access.visible(plane.registry, request.state.tenant):
                for _ in entry.endpoints.current:
                    try:
                        answer = await _ask(entry, request)
                    except (Unavailable, UpstreamError) as error:
                        failure = failure if isinstance(error, ModelNotReady) else error
                        continue
                    if answer is not None:
                        return await _passed_on(answer)
    except TimeoutError as error:
        raise DeadlineExceeded("The request did not finish before its deadline.") from error
    response_id = request.path_params["response_id"]
    raise failure or NotFound(f"No response with id '{response_id}' is kept by an engine.", param="response_id")


async def _ask(entry: Entry, request: Request) -> OpenAIResponse | None:
    """One endpoint's answer, None where it knows nothing of the response."""
    model = entry.model
    if not isinstance(model, OpenAIModel) or Capability.RESPONSES not in model.capabilities:
        return None
    # As the client wrote it: what its escapes stand for must not become part of the request line.
    asked = OpenAIRequest(
        request.scope["raw_path"].decode("latin-1"),
        b"",
        entry.status.config.name,
        stream=False,
        headers=((b"x-request-id", request.state.request_id),),
        method=request.method,
        query=request.scope["query_string"].decode("latin-1"),
    )
    answer = await model.respond(asked)
    if answer.status not in _UNKNOWN:
        return answer
    await answer.body.aclose()
    return None


async def _passed_on(answer: OpenAIResponse) -> Response:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}
    if headers.get("content-type", "").startswith("text/event-stream"):
        headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(_events(answer), answer.status, headers)
    try:
        body = b"".join([data async for data in answer.body])
    finally:
        await answer.body.aclose()
    if answer.status >= 400:
        headers["content-type"] = "application/json"
        body = msgspec.json.encode(from_engine(answer.status, body))
    return Response(body, answer.status, headers)


async def _events(answer: OpenAIResponse) -> AsyncIterator[bytes]:
    events = Events(strip_usage=False)
    try:
        async for data in answer.body:
            if whole := events.feed(data):
                yield whole
            if events.failed:
                return
        if not events.ended_with(RESPONSES.ends):
            raise UpstreamProtocolError("The engine ended its stream before the answer was complete.")
    except UpstreamError as error:
        yield RESPONSES.failure(envelope(error))
    finally:
        await answer.body.aclose()
