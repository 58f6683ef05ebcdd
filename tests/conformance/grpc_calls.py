"""A gRPC call as bytes, and what a server answers to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc

SERVICE = "inference.GRPCInferenceService"
_SECONDS = 60.0


@dataclass(slots=True)
class Call:
    """One call of an RPC; several requests on a stream."""

    name: str
    rpc: str
    requests: list[Any]
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Answer:
    """`code` is the name of the gRPC status, `messages` what came before it."""

    code: str
    details: str
    messages: list[bytes]


def ask(target: str, call: Call, channel: grpc.Channel | None = None) -> Answer:
    """Make the call over a channel of its own, where none is given."""
    if channel is None:
        with grpc.insecure_channel(target) as own:
            return ask(target, call, own)
    bodies = [each if isinstance(each, bytes) else each.SerializeToString() for each in call.requests]
    path, metadata = f"/{SERVICE}/{call.rpc}", tuple(call.metadata.items())
    messages: list[bytes] = []
    try:
        if call.rpc == "ModelStreamInfer":
            messages.extend(channel.stream_stream(path)(iter(bodies), timeout=_SECONDS, metadata=metadata))
        else:
            messages.append(channel.unary_unary(path)(bodies[0], timeout=_SECONDS, metadata=metadata))
    except grpc.RpcError as error:
        return Answer(error.code().name, error.details(), messages)
    return Answer("OK", "", messages)
