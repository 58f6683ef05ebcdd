"""Tokenize and detokenize, in vLLM's form."""

from __future__ import annotations

from backends.model import Capability
from gateway.dialect import Dialect
from gateway.operations import MODEL, TEXT, Operation

TOKENIZE = Dialect("tokenize", Capability.TOKENIZE)
DETOKENIZE = Dialect("detokenize", Capability.DETOKENIZE)

OPERATIONS = (
    Operation(
        "/tokenize",
        TOKENIZE,
        "Text or messages to token ids",
        {"model": MODEL, "prompt": TEXT, "messages": {"type": "array", "items": {"type": "object"}}},
    ),
    Operation(
        "/detokenize",
        DETOKENIZE,
        "Token ids to text",
        {"model": MODEL, "tokens": {"type": "array", "items": {"type": "integer"}}},
        ("model", "tokens"),
    ),
)
