"""Rerank and score over a tensor model that takes a query and a document: Cohere's, Jina's and vLLM's forms at once."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import msgspec

from backends.errors import InvalidRequest
from backends.model import OpenAIRequest, TensorModel
from backends.worker.openai import rows
from backends.worker.openai.asking import decode, failing_at
from backends.worker.text import Text

_score = struct.Struct("<f").unpack


class Document(msgspec.Struct):
    text: str


class Rerank(msgspec.Struct):
    query: str
    documents: list[str | Document]
    top_n: int | None = None
    return_documents: bool | None = None


class Score(msgspec.Struct):
    text_1: str | list[str]
    text_2: str | list[str]


async def rerank(model: TensorModel, text: Text, request: OpenAIRequest) -> bytes:
    """Documents by falling score, as JSON. Raises `InvalidRequest` naming the field at fault."""
    asked = decode(request.body, Rerank)
    if not asked.documents:
        raise InvalidRequest("'documents' is an empty list.", param="documents")
    if asked.top_n is not None and asked.top_n < 1:
        raise InvalidRequest(f"'top_n' is {asked.top_n}, and at least 1 is wanted.", param="top_n")
    texts = [document if isinstance(document, str) else document.text for document in asked.documents]
    scores, tokens = await _scores(model, text, request, [asked.query] * len(texts), texts, "documents")
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[: asked.top_n]
    results = [_result(i, scores[i], texts[i] if asked.return_documents else None) for i in order]
    answer = {
        "id": f"rerank-{uuid4().hex}",
        "model": request.model,
        "results": results,
        "meta": {
            "api_version": {"version": "2" if request.path.startswith("/v2/") else "1"},
            "billed_units": {"search_units": 1},
        },
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return msgspec.json.encode(answer)


async def score(model: TensorModel, text: Text, request: OpenAIRequest) -> bytes:
    """One text with each of several, or texts in pairs. Raises `InvalidRequest` naming the field at fault."""
    asked = decode(request.body, Score)
    first, second = _texts(asked.text_1, "text_1"), _texts(asked.text_2, "text_2")
    if len(first) == 1:
        first *= len(second)
    if len(first) != len(second):
        raise InvalidRequest(
            f"'text_1' has {len(first)} texts and 'text_2' {len(second)}: as many, or one, are wanted.", param="text_1"
        )
    scores, tokens = await _scores(model, text, request, first, second, "text_2")
    answer = {
        "id": f"score-{uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": request.model,
        "data": [{"index": i, "object": "score", "score": value} for i, value in enumerate(scores)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return msgspec.json.encode(answer)


async def _scores(
    model: TensorModel,
    text: Text,
    request: OpenAIRequest,
    queries: Sequence[str],
    documents: Sequence[str],
    param: str,
) -> tuple[list[float], int]:
    query, document = text.inputs
    columns = {query: [item.encode() for item in queries], document: [item.encode() for item in documents]}
    with failing_at(param):
        found = await rows.run(model, columns, {}, request)
    return [_score(output)[0] for output in found.outputs], found.tokens


def _texts(given: str | list[str], param: str) -> list[str]:
    if not given:
        raise InvalidRequest(f"'{param}' is empty.", param=param)
    return [given] if isinstance(given, str) else given


def _result(index: int, relevance: float, text: str | None) -> dict[str, Any]:
    result: dict[str, Any] = {"index": index, "relevance_score": relevance}
    return result if text is None else result | {"document": {"text": text}}
