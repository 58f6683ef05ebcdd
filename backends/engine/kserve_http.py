"""KServe v2 over HTTP as a client speaks it: one request and its answer, tensors in Triton's binary form."""

from __future__ import annotations

from typing import Any

import msgspec

from backends.errors import Code, InferenceError, UpstreamProtocolError
from backends.model import Headers, InferRequest, InferResponse, Scalar
from backends.tensors import Buffer, Tensor

_LENGTH = b"inference-header-content-length"
_CODES = {
    400: Code.INVALID_ARG,
    404: Code.NOT_FOUND,
    429: Code.UNAVAILABLE,
    501: Code.UNSUPPORTED,
    503: Code.UNAVAILABLE,
}


class _Parameters(msgspec.Struct, frozen=True):
    binary_data_size: int | None = None


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: _Parameters = _Parameters()


class _Answer(msgspec.Struct):
    outputs: list[_Output] = []
    parameters: dict[str, Any] = {}


class _Failure(msgspec.Struct):
    error: str = ""


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_failure = msgspec.json.Decoder(_Failure).decode


def parameters(request: InferRequest) -> dict[str, Scalar]:
    """The parameters of a request, with those that the protocol has for its sequence, priority and timeout."""
    found = dict(request.parameters)
    if request.sequence_id:
        found |= {
            "sequence_id": request.sequence_id,
            "sequence_start": request.sequence_start,
            "sequence_end": request.sequence_end,
        }
    if request.priority:
        found["priority"] = request.priority
    if request.timeout_us:
        found["timeout"] = request.timeout_us
    return found


def write(request: InferRequest) -> tuple[Headers, bytes]:
    """The header fields and the body of `POST …/infer`."""
    said: dict[str, Any] = {
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": tensor.shape,
                "parameters": {"binary_data_size": tensor.size_bytes},
            }
            for tensor in request.inputs
        ]
    }
    if request.id:
        said["id"] = request.id
    if request.outputs:
        said["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in request.outputs]
        said["parameters"] = parameters(request)
    else:
        said["parameters"] = parameters(request) | {"binary_data_output": True}
    head = msgspec.json.encode(said)
    return [(_LENGTH, b"%d" % len(head))], b"".join([head, *(tensor.data for tensor in request.inputs)])


def read(status: int, headers: Headers, body: bytes) -> InferResponse:
    """The answer to it. Raises `UpstreamProtocolError`."""
    if status != 200:
        return InferResponse(error=refusal(status, body))
    length = next((int(value) for name, value in headers if name == _LENGTH and value.isdigit()), len(body))
    view = memoryview(body)
    try:
        answer = _decode_answer(view[:length])
    except msgspec.DecodeError as error:
        raise UpstreamProtocolError(f"The remote server's answer is not KServe's: {error}") from error
    outputs = []
    offset = length
    for output in answer.outputs:
        size = output.parameters.binary_data_size
        if size is None or offset + size > len(body):
            raise UpstreamProtocolError(f"The remote server's answer lacks the data of output '{output.name}'.")
        data: Buffer = view[offset : offset + size]
        outputs.append(Tensor(output.name, output.datatype, output.shape, data))
        offset += size
    given = {key: value for key, value in answer.parameters.items() if isinstance(value, bool | int | float | str)}
    return InferResponse(outputs, given)


def refusal(status: int, body: bytes) -> InferenceError:
    """What the server answered instead, with the code that its status stands for."""
    try:
        message = _decode_failure(body).error
    except msgspec.DecodeError:
        message = body.decode("utf-8", "replace").strip()
    return InferenceError(message or f"the remote server answered {status}", _CODES.get(status, Code.INTERNAL))
