"""What steps ask other models over their OpenAI side: JSON in, JSON out."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from backends.engine.answer import whole_of
from backends.errors import Unavailable, UnsupportedOperation, UpstreamError, UpstreamProtocolError
from backends.model import Capability, Models, OpenAIRequest

Answer = TypeVar("Answer")

_EXCERPT_BYTES = 300


async def ask(
    models: Models, capability: Capability, path: str, fields: dict[str, Any], kind: type[Answer], turn: OpenAIRequest
) -> Answer:
    """What the model named in `fields` answers to them, on behalf of the request `turn`. Cancelling it cancels that.

    Raises what the model raises, `UnsupportedOperation` where it lacks the capability, `Unavailable` and
    `UpstreamError` for an answer that is none.
    """
    name = fields["model"]
    model = models.openai(name)
    if capability not in model.capabilities:
        raise UnsupportedOperation(f"The model '{name}' does not support {capability.value}.", param="model")
    asked = OpenAIRequest(
        path,
        msgspec.json.encode(fields),
        name,
        stream=False,
        headers=turn.headers,
        deadline=turn.deadline,
        tenant=turn.tenant,
    )
    response = await model.respond(asked)
    try:
        body = await whole_of(response.body)
    finally:
        await response.body.aclose()
    if response.status >= 400:
        excerpt = body[:_EXCERPT_BYTES].decode("utf-8", "replace")
        text = f"The model '{name}' answered {response.status}: {excerpt}"
        raise Unavailable(text) if response.status in {429, 503} else UpstreamError(text)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise UpstreamProtocolError(f"The answer of the model '{name}' is not what was asked for: {error}") from error
