"""Embeddings, rerank and score: vectors and likenesses made from the words of the texts."""

from __future__ import annotations

import base64
import sys
import time
from array import array

import msgspec

from backends.simulator import text
from backends.simulator.engine import Call, ModelRequest
from backends.simulator.faults import RequestError


class EmbeddingRequest(ModelRequest, kw_only=True):
    """An embedding request; the input is text or token ids, one or several."""

    input: text.Prompts
    encoding_format: str = "float"
    dimensions: int | None = None


class Document(msgspec.Struct):
    """A document in the form that has fields."""

    text: str


class RerankRequest(ModelRequest, kw_only=True):
    """A rerank request, of Jina's and of Cohere's API."""

    query: str
    documents: list[str | Document]
    top_n: int = 0


class ScoreRequest(ModelRequest, kw_only=True):
    """A score request: one text or as many as the others, against others."""

    text_1: str | list[str]
    text_2: str | list[str]


async def embeddings(call: Call) -> None:
    """Answer an embedding request."""
    asked, model = call.decode(EmbeddingRequest)
    size = call.engine.options.dimensions
    if asked.encoding_format not in ("float", "base64"):
        raise RequestError(400, f"encoding_format {asked.encoding_format!r} is not known.", param="encoding_format")
    if asked.dimensions is not None and not 1 <= asked.dimensions <= size:
        raise RequestError(400, f"dimensions must be from 1 to {size}, got {asked.dimensions}.", param="dimensions")
    inputs = call.engine.vocabulary.texts(asked.input)
    if not inputs:
        raise RequestError(400, "input must not be empty.", param="input")
    tokens = await _run(call, inputs)
    data = []
    for index, each in enumerate(inputs):
        vector = text.embed(each, asked.dimensions or size)
        value = _base64(vector) if asked.encoding_format == "base64" else vector.tolist()
        data.append({"index": index, "object": "embedding", "embedding": value})
    call.reply({**_opening(call, "embd", model), "data": data, "usage": _usage(tokens)})


async def rerank(call: Call) -> None:
    """Answer a rerank request, the best document first."""
    asked, model = call.decode(RerankRequest)
    documents = [each if isinstance(each, str) else each.text for each in asked.documents]
    if not documents:
        raise RequestError(400, "documents must not be empty.", param="documents")
    tokens = await _run(call, [asked.query + " " + each for each in documents])
    size = call.engine.options.dimensions
    scored = [(text.similarity(asked.query, each, size), index) for index, each in enumerate(documents)]
    scored.sort(key=lambda entry: (-entry[0], entry[1]))
    results = [
        {"index": index, "document": {"text": documents[index], "multi_modal": None}, "relevance_score": score}
        for score, index in scored[: asked.top_n or None]
    ]
    call.reply({"id": f"score-{call.id}", "model": model, "usage": _usage(tokens), "results": results})


async def score(call: Call) -> None:
    """Answer a score request."""
    asked, model = call.decode(ScoreRequest)
    left = [asked.text_1] if isinstance(asked.text_1, str) else asked.text_1
    right = [asked.text_2] if isinstance(asked.text_2, str) else asked.text_2
    if len(left) == 1:
        left = left * len(right)
    if not right or len(left) != len(right):
        raise RequestError(400, f"text_1 has {len(left)} texts and text_2 has {len(right)}.", param="text_1")
    tokens = await _run(call, [one + " " + other for one, other in zip(left, right, strict=True)])
    size = call.engine.options.dimensions
    data = [
        {"index": index, "object": "score", "score": text.similarity(one, other, size)}
        for index, (one, other) in enumerate(zip(left, right, strict=True))
    ]
    call.reply({**_opening(call, "score", model), "data": data, "usage": _usage(tokens)})


async def _run(call: Call, inputs: list[str]) -> int:
    """Take a slot for as long as a first token takes; the prompt's tokens."""
    tokens = call.prompt_tokens(sum(map(text.count, inputs)))
    call.engine.check_length(max(map(text.count, inputs)), None, "input")
    async with call.run(tokens) as run:
        await run.complete()
    return tokens


def _opening(call: Call, prefix: str, model: str) -> dict[str, object]:
    return {"id": f"{prefix}-{call.id}", "object": "list", "created": int(time.time()), "model": model}


def _usage(tokens: int) -> dict[str, object]:
    return {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None}


def _base64(vector: array[float]) -> str:
    if sys.byteorder == "big":
        vector.byteswap()
    return base64.b64encode(vector.tobytes()).decode("ascii")
