"""A model among several echo engines, asked as the gateway asks it, and what its streams say."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from backends.config import ModelConfig
from backends.engine.replica import Replica
from backends.engine.replicas import EngineModel
from backends.kinds import find_kind
from backends.model import Endpoint, Endpoints, OpenAIRequest, OpenAIResponse, State
from tests.backends.running import NO_MODELS
from tests.engines import MODEL, EchoEngine, echo_engine
from tests.processes import holds

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
NOBODY = "unix:/none"
STREAMED = pytest.mark.parametrize("stream", [True, False])
WORDS = " ".join(f"word{number}" for number in range(24))


@contextmanager
def engines(count: int, **options: object) -> Iterator[list[EchoEngine]]:
    with ExitStack() as stack:
        yield [stack.enter_context(echo_engine(**options)) for _ in range(count)]


@asynccontextmanager
async def among(replicas: Sequence[EchoEngine], **parameters: str) -> AsyncIterator[EngineModel]:
    """An echo model in front of these engines, which take turns unless another policy is named."""
    ready = Endpoints(tuple(Endpoint(f"e{n}", one.address, State.READY) for n, one in enumerate(replicas)))
    async with over(ready, **parameters) as model:
        yield model


@asynccontextmanager
async def over(endpoints: Endpoints, **parameters: str) -> AsyncIterator[EngineModel]:
    """The same in front of endpoints that may change. Whatever was asked, nothing of it is under way at the end."""
    config = ModelConfig(MODEL, "echo", parameters={"routing_policy": "round_robin", **parameters})
    model = find_kind("echo").connect(config, endpoints, NO_MODELS)
    try:
        yield model
        for replica in model.replicas.ready():
            assert (replica.in_flight, replica.tokens_in_flight) == (0, 0), f"at {replica.endpoint.id}"
        await holds(lambda: model.connections()[0] == 0)
    finally:
        model.close()


def asked(path: str = CHAT, *, stream: bool = True, **fields: Any) -> OpenAIRequest:
    prompt: dict[str, Any] = {"messages": [{"role": "user", "content": WORDS}]} if path == CHAT else {"prompt": WORDS}
    if stream:
        fields = {"stream_options": {"include_usage": True}, **fields}
    body = json.dumps({"model": MODEL, "stream": stream, **prompt, **fields}).encode()
    return OpenAIRequest(path, body, MODEL, stream=stream, prompt_tokens=7, output_tokens=3)


@dataclass
class Said:
    """A stream, read to its end."""

    chunks: list[dict[str, Any]]
    is_done: bool
    trailers: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def choices(self) -> list[dict[str, Any]]:
        return [choice for chunk in self.chunks for choice in chunk["choices"]]

    @property
    def text(self) -> str:
        return "".join(each.get("delta", each).get("content") or each.get("text") or "" for each in self.choices)

    @property
    def roles(self) -> int:
        return sum("role" in choice.get("delta", {}) for choice in self.choices)

    @property
    def finish_reasons(self) -> list[str]:
        return [choice["finish_reason"] for choice in self.choices if choice.get("finish_reason")]

    @property
    def usage(self) -> tuple[int, int, int]:
        """(prompt, completion, total) tokens; there is one usage, in a chunk of its own."""
        (usage,) = [chunk["usage"] for chunk in self.chunks if chunk.get("usage")]
        return usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]


async def heard(response: OpenAIResponse, *, is_pumped: bool) -> Said:
    """Read a stream by either way, and close it. Raises what breaks it."""
    parts: list[bytes] = []

    def take(chunk: bytes, _start: int, _end: int) -> bool:
        size, _, rest = chunk.partition(b"\r\n")
        parts.append(rest[: int(size, 16)])
        return True

    try:
        if is_pumped:
            await response.body.pump(parts.append, take)
        else:
            parts += [part async for part in response.body]
    finally:
        await response.body.aclose()
    events = [event for event in b"".join(parts).split(b"\n\n") if event.startswith(b"data: ")]
    is_done = events[-1] == b"data: [DONE]"
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events if event != b"data: [DONE]"]
    return Said(chunks, is_done, dict(response.trailers))


def endpoints(*addresses: str, states: Sequence[State] = ()) -> Endpoints:
    """Endpoints `e0`, `e1` and so on, ready unless told otherwise."""
    named = states or [State.READY] * len(addresses)
    pairs = zip(addresses, named, strict=True)
    return Endpoints(tuple(Endpoint(f"e{n}", address, state) for n, (address, state) in enumerate(pairs)))


def fields(response: OpenAIResponse) -> dict[bytes, bytes]:
    """What the head says of the request's way."""
    return {name: value for name, value in response.headers if name.startswith(b"x-tritium-")}


async def told(response: OpenAIResponse) -> Any:
    """A whole answer, decoded."""
    whole = b"".join([part async for part in response.body])
    await response.body.aclose()
    return json.loads(whole)


async def text(response: OpenAIResponse, *, stream: bool) -> str:
    if stream:
        return (await heard(response, is_pumped=True)).text
    content: str = (await told(response))["choices"][0]["message"]["content"]
    return content


def requests(engine: EchoEngine) -> int:
    count: int = engine.stats()["requests"]
    return count


def replica(model: EngineModel, name: str) -> Replica:
    return next(one for one in model.replicas.ready() if one.endpoint.id == name)


def is_banned(one: Replica) -> bool:
    return not one.admits(0.0)
