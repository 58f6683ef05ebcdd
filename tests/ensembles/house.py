"""A made-up house for pipelines: a library that finds what it is told to, and models that say what they are told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from backends.config import ModelConfig
from backends.errors import ModelNotFound, ModelNotReady, NotFound
from backends.model import (
    Capability,
    Frame,
    Headers,
    OpenAIRequest,
    OpenAIResponse,
    Write,
)
from ensembles.endpointless import Endpointless
from ensembles.pipeline import Pipeline
from ensembles.records.rows import VectorStore
from ensembles.stores.filters import Filter
from ensembles.stores.store import Chunk, Hit

JSON = ((b"content-type", b"application/json"),)
SSE = ((b"content-type", b"text/event-stream"),)
GENERATOR, EMBEDDER, RERANKER = "talker", "embedder", "reranker"
RECIPE = {"generator": GENERATOR, "embedder": EMBEDDER, "reranker": RERANKER, "stores": ["fruit"]}
TEXTS = ("apples are red and round", "pears are green and long", "plums are blue and small")


def chunk(number: int, text: str, **fields: Any) -> Chunk:
    return Chunk(f"file-{number}", f"{number}.txt", 0, text, **fields)


def store(name: str = "fruit", owner: str = "", embedder: str = EMBEDDER) -> VectorStore:
    return VectorStore(f"vs_{name}_{owner}", owner, name, "", {}, embedder, 0, 0, None, None)


@dataclass
class FakeLibrary:
    """Finds `chunks` by meaning in their order and by words in the other one. `faults` strike by the way's name."""

    chunks: Sequence[Chunk] = field(default_factory=lambda: [chunk(n, text) for n, text in enumerate(TEXTS, 1)])
    stores: list[VectorStore] = field(default_factory=lambda: [store()])
    faults: dict[str, Exception | asyncio.Event] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    during: Callable[[str], Awaitable[None]] | None = None
    reranker: str = ""

    @property
    def vector_stores(self) -> FakeLibrary:
        return self

    async def get(self, owner: str, store_id: str) -> VectorStore:
        for each in self.stores:
            if (each.id, each.owner) == (store_id, owner):
                return each
        raise NotFound(f"No vector store '{store_id}'.")

    async def find(self, owner: str, name: str) -> VectorStore | None:
        return next((each for each in self.stores if each.owner == owner and name in {each.id, each.name}), None)

    async def dense(self, store: str, vector: bytes, limit: int, condition: Filter | None) -> list[Hit]:
        await self._strike("dense", (store, vector, limit, condition))
        return [Hit(each, 0.9 - 0.1 * place) for place, each in enumerate(self.chunks)][:limit]

    async def words(self, store: str, query: str, limit: int, condition: Filter | None) -> list[Hit]:
        await self._strike("words", (store, query, limit, condition))
        return [Hit(each, 9.0 - place) for place, each in enumerate(self.chunks)][:limit]

    async def embed(self, texts: Sequence[str], embedder: str = "") -> list[bytes]:
        await self._strike("embed", (list(texts), embedder))
        return [b"vector"] * len(texts)

    def what(self, way: str) -> list[Any]:
        return [asked for name, asked in self.asked if name == way]

    async def _strike(self, way: str, asked: Any) -> None:
        self.asked.append((way, asked))
        if self.during is not None:
            await self.during(way)
        fault = self.faults.get(way)
        if isinstance(fault, Exception):
            raise fault
        if fault is not None:
            try:
                await fault.wait()
            except asyncio.CancelledError:
                self.cancelled.append(way)
                raise


class FakeBody:
    """Pieces, one a read; an exception is raised where it stands. `closed` once its holder has closed it."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = list(pieces)
        self.closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._pieces:
            raise StopAsyncIteration
        piece = self._pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece

    async def pump(self, write: Write, frame: Frame | None = None) -> None:  # noqa: ARG002
        async for piece in self:
            if (waits := write(piece)) is not None:
                await waits

    async def aclose(self) -> None:
        self.closed = True


Say = Callable[[dict[str, Any]], "OpenAIResponse | Exception"]


class FakeModel(Endpointless):
    """Answers each path as it is told."""

    session_header = b"x-session-id"

    def __init__(self, name: str, **says: Say) -> None:
        self.config = ModelConfig(name, "fake")
        self.says = says
        self.capabilities = frozenset(Capability(word) for word in says)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.requests: list[OpenAIRequest] = []
        self.is_ready = True
        self.hangs: asyncio.Event | None = None
        self.cancelled = 0
        self.bodies: list[FakeBody] = []

    def ready(self) -> bool:
        return self.is_ready

    def lacking(self) -> ModelNotReady | None:
        return None if self.is_ready else ModelNotReady("not ready")

    async def respond(self, request: OpenAIRequest) -> OpenAIResponse:
        fields = msgspec.json.decode(request.body)
        self.asked.append((request.path, fields))
        self.requests.append(request)
        if self.hangs is not None:
            try:
                await self.hangs.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        answer = self.says[_CAPABILITIES[request.path]](fields)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer.body, FakeBody)
        self.bodies.append(answer.body)
        return answer


_CAPABILITIES = {
    "/v1/chat/completions": "chat",
    "/v1/rerank": "rerank",
    "/tokenize": "tokenize",
}


def answered(fields: Any, status: int = 200, headers: Headers = JSON) -> OpenAIResponse:
    return OpenAIResponse(status, headers, FakeBody(msgspec.json.encode(fields)))


def completion(text: str, finish_reason: str = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


def chunks(*texts: str, finish_reason: str | None = "stop") -> list[bytes]:
    """The events of a stream of these texts."""
    about = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": GENERATOR}
    parts: list[dict[str, Any]] = [{"delta": {"role": "assistant", "content": ""}}]
    parts += [{"delta": {"content": text}} for text in texts]
    if finish_reason is not None:
        parts.append({"delta": {}, "finish_reason": finish_reason})
    events = [{**about, "choices": [{"index": 0, "finish_reason": None, **part}]} for part in parts]
    if finish_reason is not None:
        usage = {"prompt_tokens": 7, "completion_tokens": len(texts), "total_tokens": 7 + len(texts)}
        events.append({**about, "choices": [], "usage": usage})
    done = [b"data: [DONE]\n\n"] if finish_reason is not None else []
    return [b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events] + done


def talker(*texts: str, finish_reason: str = "stop") -> FakeModel:
    """A generator that says these texts, and counts words as tokens."""

    def chat(fields: dict[str, Any]) -> OpenAIResponse:
        if not fields.get("stream"):
            return answered(completion("".join(texts), finish_reason))
        return OpenAIResponse(200, SSE, FakeBody(*chunks(*texts, finish_reason=finish_reason)))

    return FakeModel(GENERATOR, chat=chat, tokenize=lambda fields: answered({"count": len(fields["prompt"].split())}))


def reranker(*scores: float) -> FakeModel:
    """A reranker that gives the documents these scores, in the order of the documents."""

    def rerank(fields: dict[str, Any]) -> OpenAIResponse:
        given = scores or [0.5] * len(fields["documents"])
        results = [{"index": index, "relevance_score": score} for index, score in enumerate(given)]
        return answered({"results": results[: len(fields["documents"])]})

    return FakeModel(RERANKER, rerank=rerank)


class House:
    """Models by name, and a library."""

    control = None

    def __init__(self, *models: FakeModel, library: FakeLibrary | None = None, context: int | None = 100_000) -> None:
        self.models = {model.config.name: model for model in models}
        self.library = library or FakeLibrary()
        self.context = context

    def openai(self, name: str) -> FakeModel:
        if name not in self.models:
            raise ModelNotFound(f"The model '{name}' does not exist.")
        return self.models[name]

    def context_length(self, name: str) -> int | None:
        assert name in self.models
        return self.context


def pipeline(house: House, **recipe: Any) -> Pipeline:
    return Pipeline(ModelConfig("handbook", "rag", arguments={**RECIPE, **recipe}), house)  # type: ignore[arg-type]


def asked(path: str = "/v1/chat/completions", *, tenant: str = "", **fields: Any) -> OpenAIRequest:
    body = {"model": "handbook", **fields}
    return OpenAIRequest(path, msgspec.json.encode(body), "handbook", bool(fields.get("stream")), tenant=tenant)


def question(text: str = "what is red?", **fields: Any) -> OpenAIRequest:
    return asked(messages=[{"role": "user", "content": text}], **fields)


async def body_of(response: OpenAIResponse) -> bytes:
    try:
        return b"".join([piece async for piece in response.body])
    finally:
        await response.body.aclose()


async def whole(model: Any, request: OpenAIRequest) -> dict[str, Any]:
    response = await model.respond(request)
    assert response.status == 200
    fields: dict[str, Any] = msgspec.json.decode(await body_of(response))
    return fields


async def streamed(model: Any, request: OpenAIRequest) -> list[dict[str, Any]]:
    """The events of a stream, without the mark of its end."""
    response = await model.respond(request)
    assert response.status == 200
    lines = (await body_of(response)).split(b"\n\n")
    events = [line.rpartition(b"data: ")[2] for line in lines if line]
    return [msgspec.json.decode(event) for event in events if event != b"[DONE]"]


def said(events: Sequence[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The text of a stream and its annotations."""
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    text = "".join(delta.get("content") or "" for delta in deltas)
    return text, [annotation for delta in deltas for annotation in delta.get("annotations", [])]


def built(*texts: str, library: FakeLibrary | None = None, **recipe: Any) -> tuple[Pipeline, House]:
    """A pipeline whose generator says these texts, and whose reranker prefers the second passage."""
    house = House(talker(*texts), reranker(0.2, 0.9, 0.1), library=library)
    return pipeline(house, **recipe), house
