"""What KServe's HTTP API tells and does beside inference: health, metadata, statistics, shared memory, settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from backends.errors import Code, InferenceError
from backends.model import legible
from gateway.health import readiness
from gateway.kserve import log_settings, repository, statistics, trace_settings
from gateway.kserve.dataplane import DataPlane, TensorMetadata
from gateway.kserve.json import decode, encode
from gateway.kserve.members import as_boolean, as_string, as_unsigned, member, members, present
from gateway.kserve.routes import Route
from gateway.plane import Plane
from gateway.tenants import Tenant

EXTENSIONS = (
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "cuda_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)


@dataclass(slots=True)
class Call:
    """One request to an operation that is no inference."""

    plane: Plane
    dataplane: DataPlane
    route: Route
    method: str
    body: bytes | bytearray
    tenant: Tenant


@dataclass(slots=True)
class Answer:
    """`body` empty: nothing but the status."""

    body: bytes = b""
    status: int = 200


Operation = Callable[[Call], Awaitable[Answer]]


async def live(_call: Call) -> Answer:
    return Answer()


async def ready(call: Call) -> Answer:
    return Answer(status=200 if readiness(call.plane)[0] else 400)


async def model_ready(call: Call) -> Answer:
    route = call.route
    if not call.dataplane.is_ready(route.model, route.version, call.tenant):
        raise InferenceError("Model version not ready", Code.INVALID_ARG)
    return Answer()


async def server(call: Call) -> Answer:
    document = {"name": call.plane.settings.id, "version": version("tritium"), "extensions": EXTENSIONS}
    return Answer(encode(document))


async def model(call: Call) -> Answer:
    route = call.route
    metadata = call.dataplane.metadata(route.model, route.version, call.tenant)
    document = {
        "name": metadata.name,
        "versions": metadata.versions,
        "platform": metadata.platform,
        "inputs": [_tensor(tensor) for tensor in metadata.inputs],
        "outputs": [_tensor(tensor) for tensor in metadata.outputs],
    }
    return Answer(encode(document))


async def config(call: Call) -> Answer:
    route = call.route
    return Answer(call.dataplane.find(route.model, route.version, call.tenant).config.document.encode())


async def stats(call: Call) -> Answer:
    route = call.route
    found = await call.dataplane.statistics(route.model, route.version, call.tenant)
    return Answer(encode(statistics.document(found)))


async def logging(call: Call) -> Answer:
    state = call.dataplane.state
    if call.method == "POST":
        wanted = decode(call.body)
        with state.changing() as document:
            log_settings.apply(document.logs, wanted)
    return Answer(encode(state.read().logs))


async def trace(call: Call) -> Answer:
    state = call.dataplane.state
    name = call.route.model
    if name and not call.dataplane.is_known(name, call.tenant):
        raise InferenceError(f"Request for unknown model : {name}", Code.INVALID_ARG)
    if call.method == "POST":
        trace_settings.apply(state, name, decode(call.body))
    return Answer(encode(trace_settings.settings_of(state, name)))


async def memory_status(call: Call) -> Answer:
    regions = call.dataplane.regions
    kind, name = call.route.kind, call.route.region
    if kind == "cuda":
        regions.check_cuda(name)
        return Answer(b"[]")
    listed = [
        {"name": region.name, "key": region.key, "offset": region.offset, "byte_size": region.byte_size}
        for region in regions.list(name)
    ]
    return Answer(encode(listed))


async def memory_register(call: Call) -> Answer:
    kind, name = call.route.kind, call.route.region
    if not name:
        raise InferenceError(f"'region name' is necessary to register {kind} shared memory region", Code.INVALID_ARG)
    body = decode(call.body)
    wanted = "raw_handle" if kind == "cuda" else "key"
    if not present(body, wanted):
        raise InferenceError(f"Shared memory register request has no '{wanted}' field", Code.INVALID_ARG)
    if kind == "cuda":
        handle = as_string(member(body["raw_handle"], "b64"))
        as_unsigned(member(body, "byte_size"))
        as_unsigned(member(body, "device_id"))
        del handle
        raise InferenceError("'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t", Code.INVALID_ARG)
    key = as_string(body["key"])
    offset = as_unsigned(body["offset"]) if "offset" in body else 0
    if not present(body, "byte_size"):
        raise InferenceError("Shared memory register request has no 'byte_size' field", Code.INVALID_ARG)
    call.dataplane.regions.register(name, key, offset, as_unsigned(body["byte_size"]))
    return Answer()


async def memory_unregister(call: Call) -> Answer:
    regions, name = call.dataplane.regions, call.route.region
    if call.route.kind == "system" and name:
        regions.unregister(name)
    elif call.route.kind == "system":
        regions.unregister_all()
    return Answer()


async def index(call: Call) -> Answer:
    body = decode(call.body) if call.body else {}
    is_ready = as_boolean(body["ready"]) if present(body, "ready") else False
    return Answer(encode(await repository.index(call.plane, ready=is_ready)))


async def load(call: Call) -> Answer:
    route = call.route
    repository.check_unnamed(route.repository)
    body = decode(call.body) if call.body else {}
    parameters = members(body["parameters"]) if present(body, "parameters") else {}
    values = {legible(name): legible(as_string(value)) for name, value in parameters.items()}
    await repository.load(call.plane, route.model, values)
    return Answer()


async def unload(call: Call) -> Answer:
    """As Triton: what is wrong with the body is not looked at."""
    route = call.route
    repository.check_unnamed(route.repository)
    try:
        dependents = decode(call.body)["parameters"]["unload_dependents"] is True
    except (InferenceError, KeyError, TypeError):
        dependents = False
    await repository.unload(call.plane, route.model, dependents=dependents)
    return Answer()


OPERATIONS: dict[str, Operation] = {
    "index": index,
    "load": load,
    "unload": unload,
    "live": live,
    "ready": ready,
    "server": server,
    "model": model,
    "model_ready": model_ready,
    "config": config,
    "stats": stats,
    "logging": logging,
    "trace": trace,
    "memory_status": memory_status,
    "memory_register": memory_register,
    "memory_unregister": memory_unregister,
}
OPEN = frozenset({"live", "ready", "model_ready", "server"})
"""What needs no key: probes have none."""


def _tensor(tensor: TensorMetadata) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
