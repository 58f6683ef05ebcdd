"""Triton's restricted APIs: groups of operations that want a header of a certain value, over HTTP and over gRPC.

Where nothing is restricted, nothing stands in the way of a request: what is here wraps what is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from backends.errors import Code, InferenceError, NotPermitted
from backends.tensors import Buffer
from gateway import pairs
from gateway.body import Receive
from gateway.errors import render
from gateway.kserve.call import Call, Stream, Unary
from gateway.kserve.routes import find_route
from gateway.wire import Scope, Send

_OPENAI, _KSERVE = "/v1/", "/v2"
_METADATA_PREFIX = "triton-grpc-protocol-"

_GROUP_OF_OPERATION = {
    "live": "health",
    "ready": "health",
    "model_ready": "health",
    "server": "metadata",
    "model": "metadata",
    "config": "model-config",
    "stats": "statistics",
    "infer": "inference",
    "generate": "inference",
    "generate_stream": "inference",
    "trace": "trace",
    "logging": "logging",
    "index": "model-repository",
    "load": "model-repository",
    "unload": "model-repository",
    "memory_status": "shared-memory",
    "memory_register": "shared-memory",
    "memory_unregister": "shared-memory",
}
_GROUP_OF_METHOD = {
    "ServerLive": "health",
    "ServerReady": "health",
    "ModelReady": "health",
    "Check": "health",
    "Watch": "health",
    "ServerMetadata": "metadata",
    "ModelMetadata": "metadata",
    "ModelConfig": "model-config",
    "ModelStatistics": "statistics",
    "ModelInfer": "inference",
    "ModelStreamInfer": "inference",
    "TraceSetting": "trace",
    "LogSettings": "logging",
    "RepositoryIndex": "model-repository",
    "RepositoryModelLoad": "model-repository",
    "RepositoryModelUnload": "model-repository",
    "SystemSharedMemoryStatus": "shared-memory",
    "SystemSharedMemoryRegister": "shared-memory",
    "SystemSharedMemoryUnregister": "shared-memory",
    "CudaSharedMemoryStatus": "shared-memory",
    "CudaSharedMemoryRegister": "shared-memory",
    "CudaSharedMemoryUnregister": "shared-memory",
}


class Application(Protocol):
    """An ASGI application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


def restricted(app: Application, options: Sequence[str]) -> Application:
    """The application, asked only by whom `--http-restricted-api` lets in.

    Whoever may not infer by KServe may not by OpenAI's API either: `inference` is everything under `/v1`.
    """
    return _Restricted(app, pairs.restrictions(options)) if options else app


class _Restricted:
    def __init__(self, app: Application, wanted: Mapping[str, tuple[str, str]]) -> None:
        self._app = app
        self._wanted = {group: (header.encode(), value.encode()) for group, (header, value) in wanted.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        wanted = self._wanted.get(_group(path))
        if wanted is None or dict(scope["headers"]).get(wanted[0]) == wanted[1]:
            await self._app(scope, receive, send)
            return
        error = NotPermitted(f"This API is restricted, expecting header '{wanted[0].decode()}'")
        status, headers, body = render(error)
        if path.startswith(_KSERVE):
            body = msgspec.json.encode({"error": error.message})
        fields: list[tuple[bytes, bytes]] = [*headers, (b"content-length", b"%d" % len(body))]
        start: dict[str, Any] = {"type": "http.response.start", "status": status, "headers": fields}
        await send(start)
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _group(path: str) -> str:
    if path.startswith(_OPENAI):
        return "inference"
    route = find_route(path) if path.startswith(_KSERVE) else None
    return "" if route is None else _GROUP_OF_OPERATION[route.operation]


def restricted_unary(rpcs: Mapping[str, Unary], options: Sequence[str]) -> dict[str, Unary]:
    """The RPCs by path, called only by whom `--grpc-restricted-protocol` lets in."""
    wanted = _by_path(rpcs, options)
    return {path: _guarded(rpc, wanted[path]) if path in wanted else rpc for path, rpc in rpcs.items()}


def restricted_streams(rpcs: Mapping[str, Stream], options: Sequence[str]) -> dict[str, Stream]:
    """The same of those that stream."""
    wanted = _by_path(rpcs, options)
    return {path: _guarded_stream(rpc, wanted[path]) if path in wanted else rpc for path, rpc in rpcs.items()}


def _by_path(rpcs: Mapping[str, object], options: Sequence[str]) -> dict[str, tuple[str, str]]:
    wanted = pairs.restrictions(options)
    groups = {path: _GROUP_OF_METHOD[path.rpartition("/")[2]] for path in rpcs}
    return {path: wanted[group] for path, group in groups.items() if group in wanted}


def _guarded(rpc: Unary, wanted: tuple[str, str]) -> Unary:
    async def call(body: Buffer, call: Call) -> list[Buffer]:
        _check(call, wanted)
        return await rpc(body, call)

    return call


def _guarded_stream(rpc: Stream, wanted: tuple[str, str]) -> Stream:
    async def call(call: Call) -> None:
        _check(call, wanted)
        await rpc(call)

    return call


def _check(call: Call, wanted: tuple[str, str]) -> None:
    header = _METADATA_PREFIX + wanted[0]
    if call.metadata.get(header) != wanted[1]:
        raise InferenceError(f"This protocol is restricted, expecting header '{header}'", Code.UNAVAILABLE)
