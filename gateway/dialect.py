"""What differs between the families of the OpenAI surface: how a call is read, how its stream ends, how it fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec

from backends.errors import InvalidRequest
from backends.model import Capability, Models, OpenAIModel, OpenAIRequest, OpenAIResponse

# JSON in English has about four bytes a token.
_BYTES_A_TOKEN = 4
_MOST_TOKENS = 1 << 40


@dataclass(slots=True)
class Call:
    """What the gateway needs of a request body.

    `strip_usage`: the usage chunk is ours, not the client's. `output_tokens` is how long its answers may become
    together, None where it does not say. `cache_salt` is the client's own.
    """

    model: str
    body: bytes
    stream: bool = False
    strip_usage: bool = False
    output_tokens: int | None = None
    cache_salt: object = None
    dialect: Dialect | None = None
    """Set where another way to answer than the path's own is asked for."""

    @property
    def prompt_tokens(self) -> int:
        """A guess, from the length of the body."""
        return len(self.body) // _BYTES_A_TOKEN


T = TypeVar("T")


class Peek(msgspec.Struct):
    """The fields that are looked at. Those that an engine judges are taken as they come."""

    model: str | None = None
    stream: bool | None = None
    max_tokens: object = None
    max_completion_tokens: object = None
    max_output_tokens: object = None
    n: object = None
    cache_salt: object = None

    def output_tokens(self) -> int | None:
        """The limit, under the name that the family has for it, times the answers asked for."""
        limit = self.max_completion_tokens or self.max_tokens or self.max_output_tokens
        if not isinstance(limit, int) or isinstance(limit, bool):
            return None
        answers = self.n if isinstance(self.n, int) else 1
        return min(max(0, limit) * max(1, answers), _MOST_TOKENS)


_decode_peek = msgspec.json.Decoder(Peek).decode


def read_call(body: bytes) -> Call:
    """What is looked at of a request body, which passes on untouched. Raises `InvalidRequest`."""
    peek = decode(_decode_peek, body)
    return Call(
        named(peek.model),
        body,
        bool(peek.stream),
        output_tokens=peek.output_tokens(),
        cache_salt=peek.cache_salt,
    )


def decode(decoder: Callable[[bytes], T], body: bytes) -> T:
    """The body decoded; what is wrong with it becomes an `InvalidRequest` that names the field."""
    try:
        return decoder(body)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        param = path.strip("`.") or None
        where = f"'{param}'" if param else "the body"
        raise InvalidRequest(f"Invalid type for {where}: {text}.", param=param, code="invalid_type") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from error
    except RecursionError as error:
        raise InvalidRequest("The body's JSON is nested too deeply.", code="invalid_json") from error


def named(model: str | None) -> str:
    if not model:
        raise InvalidRequest("You must provide a 'model'.", param="model", code="missing_required_parameter")
    return model


def data_event(envelope: dict[str, Any]) -> bytes:
    """An error after the first byte, as OpenAI's SDK reads it: one `data:` event with a top-level `error`."""
    return b"data: " + msgspec.json.encode({"error": envelope["error"]}) + b"\n\n"


def named_event(envelope: dict[str, Any]) -> bytes:
    """The same for families with named events (Messages, Responses): `event: error`."""
    return b"event: error\ndata: " + msgspec.json.encode(envelope) + b"\n\n"


GENERATING = frozenset({Capability.CHAT, Capability.COMPLETIONS, Capability.RESPONSES, Capability.MESSAGES})
"""The operations whose answers are tokens."""


class Answering(Protocol):
    """What answers a request as a model does."""

    async def respond(self, request: OpenAIRequest) -> OpenAIResponse: ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """One operation. `operation` labels its metrics; a stream is whole when it ended with one of `ends`."""

    operation: str
    capability: Capability
    read: Callable[[bytes], Call] = read_call
    ends: tuple[bytes, ...] = (b"data: [DONE]",)
    failure: Callable[[dict[str, Any]], bytes] = data_event
    through: Callable[[OpenAIModel, Models], Answering] | None = None
    """What stands before the model."""
