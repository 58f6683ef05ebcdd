"""Anthropic's Messages, for engines that speak them."""

from __future__ import annotations

from backends.model import Capability
from gateway.dialect import Dialect, named_event
from gateway.operations import MODEL, STREAM, Operation

_MESSAGES = {"type": "array", "items": {"type": "object"}, "minItems": 1}

MESSAGES = Dialect(
    "messages",
    Capability.MESSAGES,
    # An engine that makes its messages out of chat chunks may let OpenAI's mark through behind either.
    ends=(b"event: message_stop", b"event: error", b"data: [DONE]"),
    failure=named_event,
)
COUNT_TOKENS = Dialect("messages_count_tokens", Capability.COUNT_TOKENS)

OPERATIONS = (
    Operation(
        "/v1/messages",
        MESSAGES,
        "Answer a conversation (Anthropic's form)",
        {"model": MODEL, "messages": _MESSAGES, "max_tokens": {"type": "integer", "minimum": 1}, "stream": STREAM},
        ("model", "messages", "max_tokens"),
    ),
    Operation(
        "/v1/messages/count_tokens",
        COUNT_TOKENS,
        "Count the tokens of a conversation (Anthropic's form)",
        {"model": MODEL, "messages": _MESSAGES},
        ("model", "messages"),
    ),
)
