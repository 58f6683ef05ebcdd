"""Vectors of texts, by the OpenAI side of an embedder."""

from __future__ import annotations

import base64
import binascii
import sys
from array import array
from collections.abc import Sequence

import msgspec

from backends.errors import InvalidRequest, Unavailable, UpstreamError, UpstreamProtocolError
from backends.model import Models, OpenAIRequest

_EXCERPT_CHARACTERS = 300


class _Item(msgspec.Struct):
    index: int
    embedding: str | list[float]


class _Answer(msgspec.Struct):
    data: list[_Item]


async def embed(models: Models, name: str, texts: Sequence[str], prompt: str = "", priority: int = 0) -> list[bytes]:
    """A vector of each text, little-endian float32, by one request. Cancelling it cancels that.

    `prompt` is what the texts are (`query`), for models whose parameter `prompt.query` says what goes before those.
    `priority` is that of `OpenAIRequest`.

    Raises what the model raises, `InvalidRequest` for texts that it refuses, `UpstreamError` for a useless answer.
    """
    model = models.openai(name)
    fields: dict[str, object] = {"model": name, "input": list(texts), "encoding_format": "base64"}
    if f"prompt.{prompt}" in model.config.parameters:
        fields["prompt_name"] = prompt
    body = msgspec.json.encode(fields)
    response = await model.respond(OpenAIRequest("/v1/embeddings", body, name, stream=False, priority=priority))
    try:
        answer = b"".join([data async for data in response.body])
    finally:
        await response.body.aclose()
    if response.status != 200:
        raise _refusal(name, response.status, answer)
    try:
        items = sorted(msgspec.json.decode(answer, type=_Answer).data, key=lambda item: item.index)
        vectors = [_vector(item.embedding) for item in items]
    except (msgspec.DecodeError, binascii.Error) as error:
        raise UpstreamProtocolError(f"The embedder '{name}' gave an answer that holds no vectors.") from error
    if len(vectors) != len(texts):
        raise UpstreamProtocolError(f"The embedder '{name}' gave {len(vectors)} vectors for {len(texts)} texts.")
    return vectors


def _refusal(name: str, status: int, answer: bytes) -> InvalidRequest | Unavailable | UpstreamError:
    text = f"The embedder '{name}' answered {status}: {answer[:_EXCERPT_CHARACTERS].decode('utf-8', 'replace')}"
    if status in {429, 503}:
        return Unavailable(text)
    return InvalidRequest(text) if status < 500 else UpstreamError(text)


def _vector(embedding: str | list[float]) -> bytes:
    if isinstance(embedding, str):
        return base64.b64decode(embedding, validate=True)
    numbers = array("f", embedding)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
