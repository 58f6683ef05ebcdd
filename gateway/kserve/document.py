"""How the OpenAPI document speaks of KServe's HTTP API: one entry a path and method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_TEXT: Schema = {"type": "string"}
_OBJECT: Schema = {"type": "object"}
_SHAPE: Schema = {"type": "array", "items": {"type": "integer"}}

ERROR_SCHEMA: Schema = {"type": "object", "required": ["error"], "properties": {"error": _TEXT}}
"""Triton's error body, under the name `KServeError`."""

_TENSOR: Schema = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {"name": _TEXT, "datatype": _TEXT, "shape": _SHAPE, "parameters": _OBJECT, "data": {"type": "array"}},
}
_WANTED: Schema = {"type": "object", "required": ["name"], "properties": {"name": _TEXT, "parameters": _OBJECT}}
_INFERENCE: Schema = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": _TEXT,
        "parameters": _OBJECT,
        "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {"type": "array", "items": _WANTED},
    },
}
_GENERATION: Schema = {"type": "object", "properties": {"id": _TEXT, "parameters": _OBJECT}}
_PLACE: Schema = {
    "type": "object",
    "required": ["key", "byte_size"],
    "properties": {"key": _TEXT, "offset": {"type": "integer"}, "byte_size": {"type": "integer"}},
}
_READY: Schema = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
_WITH_PARAMETERS: Schema = {"type": "object", "properties": {"parameters": _OBJECT}}

# Path, method, summary, schema of the body.
_TABLE: tuple[tuple[str, str, str, Schema | None], ...] = (
    ("/v2", "get", "Server metadata", None),
    ("/v2/health/live", "get", "Whether the server lives", None),
    ("/v2/health/ready", "get", "Whether the server can take requests", None),
    ("/v2/models/{model}", "get", "Model metadata", None),
    ("/v2/models/{model}/ready", "get", "Whether a model can take requests", None),
    ("/v2/models/{model}/config", "get", "A model's configuration", None),
    ("/v2/models/{model}/stats", "get", "A model's statistics", None),
    ("/v2/models/stats", "get", "Statistics of all models", None),
    ("/v2/models/{model}/infer", "post", "Infer", _INFERENCE),
    ("/v2/models/{model}/generate", "post", "Generate, one answer", _GENERATION),
    ("/v2/models/{model}/generate_stream", "post", "Generate, answers as events", _GENERATION),
    ("/v2/repository/index", "post", "The models of the repositories", _READY),
    ("/v2/repository/models/{model}/load", "post", "Load a model", _WITH_PARAMETERS),
    ("/v2/repository/models/{model}/unload", "post", "Unload a model", _WITH_PARAMETERS),
    ("/v2/systemsharedmemory/status", "get", "Regions of system shared memory", None),
    ("/v2/systemsharedmemory/unregister", "post", "Forget all regions", None),
    ("/v2/systemsharedmemory/region/{region}/status", "get", "One region", None),
    ("/v2/systemsharedmemory/region/{region}/register", "post", "Make a region known", _PLACE),
    ("/v2/systemsharedmemory/region/{region}/unregister", "post", "Forget a region", None),
    ("/v2/cudasharedmemory/status", "get", "Regions of CUDA shared memory: there are none", None),
    ("/v2/trace/setting", "get", "Trace settings", None),
    ("/v2/trace/setting", "post", "Change trace settings", _OBJECT),
    ("/v2/models/{model}/trace/setting", "get", "Trace settings of a model", None),
    ("/v2/models/{model}/trace/setting", "post", "Change trace settings of a model", _OBJECT),
    ("/v2/logging", "get", "Log settings", None),
    ("/v2/logging", "post", "Change log settings", _OBJECT),
)
_BARE = frozenset({"live", "ready", "load", "unload", "register", "unregister"})
"""What is answered by the status alone, by the end of its path."""
_VERSIONED = frozenset({"", "/ready", "/config", "/stats", "/infer", "/generate", "/generate_stream"})


def paths() -> dict[str, dict[str, Any]]:
    """The document's entries; paths of a model stand there with and without its version."""
    found: dict[str, dict[str, Any]] = {}
    for path, method, summary, body in _TABLE:
        found.setdefault(path, {})[method] = _entry(path, method, summary, body)
        head, _, tail = path.partition("{model}")
        if head == "/v2/models/" and tail in _VERSIONED:
            versioned = f"{head}{{model}}/versions/{{version}}{tail}"
            found.setdefault(versioned, {})[method] = _entry(versioned, method, summary, body)
    return found


def _entry(path: str, method: str, summary: str, body: Schema | None) -> dict[str, Any]:
    kind = "text/event-stream" if path.endswith("generate_stream") else "application/json"
    failed = {"application/json": {"schema": {"$ref": "#/components/schemas/KServeError"}}, "text/event-stream": {}}
    schema: dict[str, Any] = {} if kind == "text/event-stream" else {"schema": {}}
    done: dict[str, Any] = {"description": "Done."}
    if path.rpartition("/")[2] not in _BARE:
        done["content"] = {kind: schema}
    entry: dict[str, Any] = {
        "summary": summary,
        "operationId": f"{method}_{path.strip('/').translate(str.maketrans('/', '_', '{}'))}",
        "tags": ["KServe"],
        "responses": {
            "200": done,
            "4XX": {"description": "Refused.", "content": failed},
            "5XX": {"description": "Failed, or not JSON of the right types.", "content": failed},
        },
    }
    parameters = [_parameter(name) for name in ("model", "version", "region") if f"{{{name}}}" in path]
    if parameters:
        entry["parameters"] = parameters
    if body is not None:
        entry["requestBody"] = {"content": {"application/json": {"schema": body}}}
    return entry


def _parameter(name: str) -> dict[str, Any]:
    schema: Schema = {"type": "integer", "minimum": 1} if name == "version" else {"type": "string", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "schema": schema}
