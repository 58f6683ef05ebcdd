"""KServe's RPCs other than inference, each from its request message to its response message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from backends.errors import Code, InferenceError
from backends.protobuf import service_pb2 as pb
from backends.statistics import BatchStatistics, InferenceStatistics, ModelStatistics, ResponseStatistics
from backends.tensors import Buffer
from gateway.health import readiness
from gateway.kserve import grpc_settings, repository
from gateway.kserve.call import Call, Unary
from gateway.kserve.control import EXTENSIONS
from gateway.kserve.dataplane import DataPlane
from gateway.plane import Plane
from gateway.tenants import ANYONE, Tenant

Admit = Callable[[Call], Awaitable[Tenant]]
"""Who calls. Raises `ServingError` for whom is not let in."""

_OPEN = frozenset({"ServerLive", "ServerReady", "ServerMetadata", "ModelReady"})
"""What needs no key, as over HTTP: probes have none."""

_CONTROL = frozenset({"RepositoryModelLoad", "RepositoryModelUnload"})


class Rpcs:
    """The RPCs by name, over one server process's data plane."""

    def __init__(self, plane: Plane, dataplane: DataPlane, admit: Admit) -> None:
        self._plane = plane
        self._dataplane = dataplane
        self._admit = admit

    def table(self) -> dict[str, Unary]:
        """Every RPC that answers one message by one message, `ModelInfer` aside."""
        return {
            name: self._entrance(name)(getattr(pb, f"{name}Request"), rpc)
            for name, rpc in {
                "ServerLive": self._live,
                "ServerReady": self._ready,
                "ServerMetadata": self._server_metadata,
                "ModelReady": self._model_ready,
                "ModelMetadata": self._model_metadata,
                "ModelConfig": self._configuration,
                "ModelStatistics": self._statistics,
                "SystemSharedMemoryStatus": self._shared_memory,
                "SystemSharedMemoryRegister": self._register,
                "SystemSharedMemoryUnregister": self._unregister,
                "CudaSharedMemoryStatus": self._cuda_shared_memory,
                "CudaSharedMemoryRegister": self._register_cuda,
                "CudaSharedMemoryUnregister": self._unregister_cuda,
                "RepositoryIndex": self._index,
                "RepositoryModelLoad": self._load,
                "RepositoryModelUnload": self._unload,
                "TraceSetting": self._traces,
                "LogSettings": self._logs,
            }.items()
        }

    def _entrance(self, name: str) -> Callable[[Any, _Rpc], Unary]:
        if name in _OPEN:
            return self._open
        return self._control if name in _CONTROL else self._guarded

    def _open(self, kind: Any, rpc: _Rpc) -> Unary:
        """For whoever asks, as health is over HTTP."""

        async def call(body: Buffer, _call: Call) -> list[Buffer]:
            return [(await rpc(_parse(kind, body), ANYONE)).SerializeToString()]

        return call

    def _control(self, kind: Any, rpc: _Rpc) -> Unary:
        """For those who may control what runs. No browser speaks gRPC, so no page of another site is behind it."""

        async def call(body: Buffer, call: Call) -> list[Buffer]:
            metadata = {name.encode(): value.encode() for name, value in call.metadata.items()}
            repository.authorise(self._plane, {**metadata, b"host": b"localhost"})
            return [(await rpc(_parse(kind, body), ANYONE)).SerializeToString()]

        return call

    def _guarded(self, kind: Any, rpc: _Rpc) -> Unary:
        async def call(body: Buffer, call: Call) -> list[Buffer]:
            tenant = await self._admit(call)
            return [(await rpc(_parse(kind, body), tenant)).SerializeToString()]

        return call

    async def _live(self, _request: Any, _tenant: Tenant) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def _ready(self, _request: Any, _tenant: Tenant) -> Any:
        return pb.ServerReadyResponse(ready=readiness(self._plane)[0])

    async def _server_metadata(self, _request: Any, _tenant: Tenant) -> Any:
        return pb.ServerMetadataResponse(
            name=self._plane.settings.id, version=version("tritium"), extensions=EXTENSIONS
        )

    async def _model_ready(self, request: Any, tenant: Tenant) -> Any:
        return pb.ModelReadyResponse(ready=self._dataplane.is_ready(request.name, request.version, tenant))

    async def _model_metadata(self, request: Any, tenant: Tenant) -> Any:
        metadata = self._dataplane.metadata(request.name, request.version, tenant)
        answer = pb.ModelMetadataResponse(name=metadata.name, versions=metadata.versions, platform=metadata.platform)
        for field, tensors in ((answer.inputs, metadata.inputs), (answer.outputs, metadata.outputs)):
            for tensor in tensors:
                field.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        return answer

    async def _configuration(self, request: Any, tenant: Tenant) -> Any:
        config = self._dataplane.find(request.name, request.version, tenant).config
        answer = pb.ModelConfigResponse()
        json_format.Parse(config.document, answer.config, ignore_unknown_fields=True)
        return answer

    async def _statistics(self, request: Any, tenant: Tenant) -> Any:
        answer = pb.ModelStatisticsResponse()
        for name, number, statistics in await self._dataplane.statistics(request.name, request.version, tenant):
            _write_statistics(answer.model_stats.add(name=name, version=str(number)), statistics)
        return answer

    async def _shared_memory(self, request: Any, _tenant: Tenant) -> Any:
        answer = pb.SystemSharedMemoryStatusResponse()
        for region in self._dataplane.regions.list(request.name):
            told = answer.regions[region.name]
            told.name, told.key, told.offset, told.byte_size = region.name, region.key, region.offset, region.byte_size
        return answer

    async def _register(self, request: Any, _tenant: Tenant) -> Any:
        self._dataplane.regions.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    async def _unregister(self, request: Any, _tenant: Tenant) -> Any:
        if request.name:
            self._dataplane.regions.unregister(request.name)
        else:
            self._dataplane.regions.unregister_all()
        return pb.SystemSharedMemoryUnregisterResponse()

    async def _cuda_shared_memory(self, request: Any, _tenant: Tenant) -> Any:
        self._dataplane.regions.check_cuda(request.name)
        return pb.CudaSharedMemoryStatusResponse()

    async def _register_cuda(self, _request: Any, _tenant: Tenant) -> Any:
        raise InferenceError("failed to register shared memory region: invalid args", Code.INVALID_ARG)

    async def _unregister_cuda(self, _request: Any, _tenant: Tenant) -> Any:
        return pb.CudaSharedMemoryUnregisterResponse()

    async def _index(self, request: Any, _tenant: Tenant) -> Any:
        repository.check_unnamed(request.repository_name)
        answer = pb.RepositoryIndexResponse()
        for entry in await repository.index(self._plane, ready=request.ready):
            answer.models.add(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
        return answer

    async def _load(self, request: Any, _tenant: Tenant) -> Any:
        repository.check_unnamed(request.repository_name)
        parameters = {key: _load_parameter(key, value) for key, value in request.parameters.items()}
        await repository.load(self._plane, request.model_name, parameters)
        return pb.RepositoryModelLoadResponse()

    async def _unload(self, request: Any, _tenant: Tenant) -> Any:
        repository.check_unnamed(request.repository_name)
        dependents = False
        if "unload_dependents" in request.parameters:
            parameter = request.parameters["unload_dependents"]
            if parameter.WhichOneof("parameter_choice") != "bool_param":
                raise InferenceError(
                    "invalid value type for 'unload_dependents' parameter, expected bool_param.", Code.INVALID_ARG
                )
            dependents = parameter.bool_param
        await repository.unload(self._plane, request.model_name, dependents=dependents)
        return pb.RepositoryModelUnloadResponse()

    async def _traces(self, request: Any, tenant: Tenant) -> Any:
        return grpc_settings.traces(self._dataplane, request, tenant)

    async def _logs(self, request: Any, _tenant: Tenant) -> Any:
        return grpc_settings.logs(self._dataplane, request)


_Rpc = Callable[[Any, Tenant], Awaitable[Any]]


def _load_parameter(key: str, value: Any) -> str | bytes:
    if key != "config" and not key.startswith("file:"):
        raise InferenceError(f"unrecognized load parameter '{key}'.", Code.INVALID_ARG)
    expected = "string_param" if key == "config" else "bytes_param"
    if value.WhichOneof("parameter_choice") != expected:
        raise InferenceError(f"invalid value type for load parameter '{key}', expected {expected}.", Code.INVALID_ARG)
    content: str | bytes = getattr(value, expected)
    return content


def _parse(kind: Any, body: Buffer) -> Any:
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise InferenceError("Unable to parse request") from error


def _write_statistics(message: Any, statistics: ModelStatistics) -> None:
    message.last_inference = statistics.last_inference_ms
    message.inference_count = statistics.inference_count
    message.execution_count = statistics.execution_count
    _write_durations(message.inference_stats, statistics.inference_stats)
    for size in sorted(statistics.batch_stats):
        _write_durations(message.batch_stats.add(batch_size=size), statistics.batch_stats[size])
    for index in sorted(statistics.response_stats):
        _write_durations(message.response_stats[str(index)], statistics.response_stats[index])


def _write_durations(message: Any, durations: InferenceStatistics | BatchStatistics | ResponseStatistics) -> None:
    for name in durations.__struct_fields__:
        told, duration = getattr(message, name), getattr(durations, name)
        told.count, told.ns = duration.count, duration.ns
        told.SetInParent()
