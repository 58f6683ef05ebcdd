"""Chat completions."""

from __future__ import annotations

from backends.model import Capability
from gateway.dialect import Dialect
from gateway.operations import MODEL, STREAM, STREAM_OPTIONS, Operation
from gateway.stream_options import read_generation

CHAT = Dialect("chat_completions", Capability.CHAT, read=read_generation)

OPERATIONS = (
    Operation(
        "/v1/chat/completions",
        CHAT,
        "Answer a conversation",
        {
            "model": MODEL,
            "messages": {"type": "array", "items": {"type": "object"}, "minItems": 1},
            "stream": STREAM,
            "stream_options": STREAM_OPTIONS,
        },
        ("model", "messages"),
    ),
)
