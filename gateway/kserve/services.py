"""gRPC's services by method: every RPC over one data plane, whichever transport carries the calls."""

from __future__ import annotations

import re
from dataclasses import dataclass

from backends.errors import Unavailable
from gateway.health import readiness
from gateway.kserve import health
from gateway.kserve.call import Call, Stream, Unary
from gateway.kserve.dataplane import DataPlane
from gateway.kserve.inference import Inference
from gateway.kserve.messages import Translated
from gateway.kserve.restrictions import restricted_streams, restricted_unary
from gateway.kserve.rpcs import Rpcs
from gateway.plane import Plane
from gateway.tenants import ANYONE, Tenant

_SERVICE = "inference.GRPCInferenceService"


@dataclass(frozen=True, slots=True)
class Services:
    """What is called by each path: `/SERVICE/METHOD`."""

    unary: dict[str, Unary]
    streams: dict[str, Stream]


def services(plane: Plane, dataplane: DataPlane) -> Services:
    """KServe's service and gRPC's own of health."""
    entrance = _Entrance(plane)
    inference = Inference(plane, dataplane, entrance.admit_work, entrance.complete)
    checks = health.Health(lambda: readiness(plane)[0])
    rpcs = {**Rpcs(plane, dataplane, entrance.admit).table(), "ModelInfer": inference.infer}
    unary = {f"/{_SERVICE}/{name}": rpc for name, rpc in rpcs.items()} | {f"/{health.SERVICE}/Check": checks.check}
    streams = {f"/{_SERVICE}/ModelStreamInfer": inference.stream, f"/{health.SERVICE}/Watch": checks.watch}
    options = plane.settings.grpc_restricted_protocol
    return Services(restricted_unary(unary, options), restricted_streams(streams, options))


class _Entrance:
    """Whom calls are let in for, and what they say of a request beside it."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        pattern = plane.settings.grpc_header_forward_pattern
        self._forwarded = re.compile(pattern) if pattern else None

    async def admit(self, call: Call) -> Tenant:
        """Raises `NotAuthenticated`."""
        keys = self._plane.keys
        if keys is None:
            return ANYONE
        return await keys.tenant({name.encode(): value.encode() for name, value in call.metadata.items()})

    async def admit_work(self, call: Call) -> Tenant:
        """Raises `NotAuthenticated`, and `Unavailable` once the process takes no new work."""
        if self._plane.draining:
            raise Unavailable("The server is shutting down and takes no new work.")
        return await self.admit(call)

    def complete(self, translated: Translated, call: Call) -> None:
        request = translated.request
        request.deadline = call.deadline
        metadata = call.metadata
        if not metadata:
            return
        request.traceparent = metadata.get("traceparent", "")
        if self._forwarded is not None:
            for name, value in metadata.items():
                if self._forwarded.search(name):
                    request.parameters.setdefault(name, value)
