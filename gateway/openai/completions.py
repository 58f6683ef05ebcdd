"""Completions, the older text API."""

from __future__ import annotations

from backends.model import Capability
from gateway.dialect import Dialect
from gateway.operations import MODEL, PROMPTS, STREAM, STREAM_OPTIONS, Operation
from gateway.stream_options import read_generation

COMPLETIONS = Dialect("completions", Capability.COMPLETIONS, read=read_generation)

OPERATIONS = (
    Operation(
        "/v1/completions",
        COMPLETIONS,
        "Continue a text",
        {"model": MODEL, "prompt": PROMPTS, "stream": STREAM, "stream_options": STREAM_OPTIONS},
        ("model", "prompt"),
    ),
)
