"""What differs between the families of the OpenAI surface: how a call is read, how its stream ends, how it fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from backends.errors import InvalidRequest
from backends.model import Capability


@dataclass(slots=True)
class Call:
    """What the gateway needs of a request body. `strip_usage`: the usage chunk is ours, not the client's."""

    model: str
    body: bytes
    stream: bool = False
    strip_usage: bool = False


T = TypeVar("T")


class _Peek(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None


_decode_peek = msgspec.json.Decoder(_Peek).decode


def read_call(body: bytes) -> Call:
    """`model` and `stream` of a request body, which passes on untouched. Raises `InvalidRequest`."""
    peek = decode(_decode_peek, body)
    return Call(named(peek.model), body, bool(peek.stream))


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


@dataclass(frozen=True, slots=True)
class Dialect:
    """One operation. `operation` labels its metrics; a stream is whole when it ended with one of `ends`."""

    operation: str
    capability: Capability
    read: Callable[[bytes], Call] = read_call
    ends: tuple[bytes, ...] = (b"data: [DONE]",)
    failure: Callable[[dict[str, Any]], bytes] = data_event
