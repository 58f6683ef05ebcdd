"""Response bodies from given pieces, for what rewrites them, and a question that wants a tool."""

from __future__ import annotations

from collections.abc import Sequence

from backends.model import Body, Frame, OpenAIResponse, Write

EVENT_STREAM = ((b"content-type", b"text/event-stream"),)
JSON = ((b"content-type", b"application/json"),)

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "get_time"}},
]
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]


class Pieces:
    """A body that yields `pieces`; knows whether it was closed."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = iter(pieces)
        self.is_closed = False

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration

    async def pump(self, write: Write, frame: Frame | None = None) -> None:  # noqa: ARG002  # the protocol
        for piece in self._pieces:
            waits = write(piece)
            if waits is not None:
                await waits

    async def aclose(self) -> None:
        self.is_closed = True


def stream(*pieces: bytes) -> OpenAIResponse:
    return OpenAIResponse(200, EVENT_STREAM, Pieces(pieces))


def whole(*pieces: bytes, status: int = 200) -> OpenAIResponse:
    return OpenAIResponse(status, JSON, Pieces(pieces))


async def read(body: Body) -> bytes:
    """All of it, by iterating."""
    return b"".join([data async for data in body])


async def pumped(body: Body) -> bytes:
    """All of it, by `pump`."""
    parts: list[bytes] = []
    await body.pump(parts.append)
    return b"".join(parts)
