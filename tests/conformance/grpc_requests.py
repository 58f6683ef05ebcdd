"""Requests of gRPC calls over the conformance model repository, in short."""

from __future__ import annotations

import struct
from typing import Any

from tritonclient.grpc import service_pb2 as messages

from tests.conformance.grpc_calls import Call


def infer(model: str, *inputs: tuple[str, str, tuple[int, ...], bytes | None], **fields: Any) -> Any:
    """A request with raw contents; an input whose bytes are None has neither those nor others."""
    request = messages.ModelInferRequest(model_name=model, **fields)
    for name, datatype, shape, data in inputs:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        if data is not None:
            request.raw_input_contents.append(data)
    return request


def call(name: str, request: Any, **metadata: str) -> Call:
    as_it_is = messages.ModelInferRequest()
    as_it_is.CopyFrom(request)
    return Call(name, "ModelInfer", [as_it_is], metadata)


def stream(name: str, *requests: Any, **metadata: str) -> Call:
    return Call(name, "ModelStreamInfer", list(requests), metadata)


def ints(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def strings(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


RAMP = ints(*range(16))
ONES = ints(*[1] * 16)


def addsub(model: str = "simple", rows: int = 1, **fields: Any) -> Any:
    return infer(
        model,
        ("INPUT0", "INT32", (rows, 16), RAMP * rows),
        ("INPUT1", "INT32", (rows, 16), ONES * rows),
        **fields,
    )


def identity(**fields: Any) -> Any:
    return infer("identity_fp32", ("INPUT0", "FP32", (1, 2), floats(1, 2)), **fields)


def set_parameters(parameters: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, str):
            parameters[key].string_param = value
        else:
            parameters[key].int64_param = value
