"""How the OpenAPI document speaks of the pass-through operations: one entry a path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.dialect import Dialect

Schema = Mapping[str, Any]

TEXT: Schema = {"type": "string"}
TEXTS: Schema = {"anyOf": [TEXT, {"type": "array", "items": TEXT}]}
PROMPTS: Schema = {
    "anyOf": [
        TEXT,
        {"type": "array", "items": TEXT},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    ],
    "description": "A text, texts, the tokens of one or of several.",
}
MODEL: Schema = {"type": "string", "minLength": 1, "description": "Name of a model, as GET /v1/models lists it."}
STREAM: Schema = {"anyOf": [{"type": "boolean"}, {"type": "null"}], "description": "Answer by server-sent events."}
STREAM_OPTIONS: Schema = {
    "anyOf": [
        {"type": "object", "properties": {"include_usage": {"anyOf": [{"type": "boolean"}, {"type": "null"}]}}},
        {"type": "null"},
    ],
    "description": "include_usage: one more chunk with the usage before [DONE].",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One path: its dialect, and what the document says of it. Fields beyond `properties` pass on too."""

    path: str
    dialect: Dialect
    summary: str
    properties: Mapping[str, Schema]
    required: tuple[str, ...] = ("model",)

    def document(self) -> dict[str, Any]:
        """The operation's entry in the OpenAPI document."""
        body = {"type": "object", "properties": dict(self.properties), "required": list(self.required)}
        content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
        if "stream" in self.properties:
            content["text/event-stream"] = {}  # OpenAPI 3.1 has no words for a sequence of events
        return {
            "summary": self.summary,
            "operationId": self.path.strip("/").replace("/", "_"),
            "tags": ["OpenAI"],
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {
                "200": {"description": "The model's answer.", "content": content},
                **{str(status): error_document(text) for status, text in _ERRORS.items()},
            },
        }


def error_document(description: str) -> dict[str, Any]:
    """An error answer's entry in the OpenAPI document."""
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


ERROR_SCHEMA: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": TEXT,
                "type": TEXT,
                "param": {"anyOf": [TEXT, {"type": "null"}]},
                "code": {"anyOf": [TEXT, {"type": "integer"}, {"type": "null"}]},
            },
        }
    },
}

_ERRORS = {
    400: "The request is wrong, or the model does not support the operation.",
    401: "No API key, or one that is not known.",
    403: "The engine lets nobody in.",
    404: "No model of that name; the message lists the nearest.",
    413: "The body is over the limit.",
    429: "A limit of the tenant's is reached, or every place of the model is taken; Retry-After says for how long.",
    500: "The engine failed.",
    501: "The engine does not do this.",
    502: "The engine failed.",
    503: "The model is not ready.",
    504: "A deadline passed.",
}
