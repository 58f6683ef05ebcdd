"""A chat request as a pipeline reads it, and as its generator is asked: other fields stay the bytes that they were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from backends.errors import InvalidRequest
from ensembles.answering.search_options import Search, asks_for_file_search
from ensembles.texts import last_question, text_of

Fields = dict[str, msgspec.Raw]

EXTENSION = "rag"
TIMINGS = "include_timings"
_LIMITS = ("max_completion_tokens", "max_tokens")

_decode_fields = msgspec.json.Decoder(Fields).decode
_decode_messages = msgspec.json.Decoder(list[dict[str, Any]]).decode


class Wish(Search, forbid_unknown_fields=True):
    """The field `rag` of a request: what it wants otherwise than the pipeline has it. `report`: be told of it."""

    report: bool = False


_decode_wish = msgspec.json.Decoder(Wish | None).decode


@dataclass(slots=True)
class ChatRequest:
    """`fields` are all but the messages and what is meant for the pipeline alone; `reports`: it wants to be told."""

    fields: Fields
    messages: list[dict[str, Any]]
    query: str
    wish: Wish
    reports: bool

    @property
    def output_tokens(self) -> int | None:
        return limit(self.fields)

    @property
    def wants_usage(self) -> bool:
        options = msgspec.json.decode(self.fields.get("stream_options", b"null"))
        return isinstance(options, dict) and options.get("include_usage") is True


def read(body: bytes) -> ChatRequest:
    """Raises `InvalidRequest` naming the field that a pipeline cannot do with."""
    fields = decode_fields(body)
    if asks_for_file_search(body):
        raise InvalidRequest(
            f"A chat has no tool 'file_search': the field '{EXTENSION}' says what is searched, or ask /v1/responses.",
            param="tools",
        )
    try:
        messages = _decode_messages(fields.pop("messages", b"null"))
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"'messages' must be a list of objects: {error}.", param="messages") from error
    index = last_question(messages)
    if index < 0:
        raise InvalidRequest("No message of the user's has a text to search by.", param="messages")
    try:
        wish = _decode_wish(fields.pop(EXTENSION, b"null")) or Wish()
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"'{EXTENSION}' is wrong: {error}.", param=EXTENSION) from error
    timings = bytes(fields.pop(TIMINGS, b"false")) == b"true"
    query = text_of(messages[index]["content"]).strip()
    return ChatRequest(fields, messages, query, wish, timings or wish.report)


def decode_fields(body: bytes) -> Fields:
    try:
        return _decode_fields(body)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The body is no JSON object: {error}.", code="invalid_json") from error


def write(fields: Fields, model: str, messages: list[dict[str, Any]]) -> bytes:
    """The body for the generator."""
    return msgspec.json.encode({**fields, "model": model, "messages": messages})


def limit(fields: Fields) -> int | None:
    """How long the answer may become."""
    for name in _LIMITS:
        value = bytes(fields.get(name, b"null"))
        if value.isdigit():
            return int(value)
    return None
