"""Triton's generate extension: a plain JSON object in, an object or server-sent events of them out.

Members named as inputs become tensors, the others, and those of `parameters`, parameters of the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.config import Input
from backends.errors import Code, InferenceError
from backends.model import InferRequest, InferResponse, Responses, legible
from backends.signature import repeated
from backends.tensors import DATATYPE_OF_TYPE, Tensor, element_count
from gateway.kserve import elements
from gateway.kserve.dataplane import Served
from gateway.kserve.http_reply import HttpReply
from gateway.kserve.json import decode, encode, encode_loosely, is_finite
from gateway.kserve.members import as_string, members
from gateway.kserve.parameters import own_parameter
from gateway.telemetry import Exchange

_NOT_ONE = (
    "generate expects model to produce exactly 1 response, use generate stream for model that generates various number "
    "of responses"
)
_PARAMETERS = "parameters"


def read(body: bytes | bytearray, served: Served) -> InferRequest:
    """The request that a body asks for. Raises `InferenceError` in Triton's words."""
    document = members(decode(body))
    request = InferRequest("", [])
    if "id" in document:
        request.id = as_string(document["id"], "Unable to parse 'id'")
    inputs = {tensor.name: tensor for tensor in served.config.input}
    for name, value in document.items():
        if name == _PARAMETERS and name not in inputs:
            if not isinstance(value, dict):
                raise InferenceError(
                    f"Expected JSON object for keyword: '{name}': attempt to access JSON non-object as object"
                )
            try:
                for inner, inner_value in value.items():
                    _convert(request, inputs, served, inner, inner_value)
            except InferenceError as error:
                raise InferenceError(f"Converting keyword: '{name}': {error.message}", error.status) from error
        else:
            _convert(request, inputs, served, name, value)
    return request


async def collect(responses: Responses, request: InferRequest, served: Served) -> bytes:
    """The one answer of a model, as JSON. Raises `InferenceError`, at once where there is a second one."""
    answer: bytes | None = None
    async for response in responses:
        if _is_end(response, served, is_first=answer is None):
            continue
        if answer is not None:
            return encode({"error": _NOT_ONE})
        answer = _write(response, request, served)
    return encode({"error": _NOT_ONE}) if answer is None else answer


async def stream(
    responses: Responses, request: InferRequest, served: Served, reply: HttpReply, record: Exchange
) -> None:
    """The answers of a model as events, as they come. What fails first decides the status; later it is an event."""
    async for response in responses:
        if _is_end(response, served, is_first=not reply.status):
            continue
        record.chunk()
        try:
            status, data = 200, _write(response, request, served)
        except InferenceError as error:
            status, data = 400, encode({"error": error.message})
        await reply.event(status, data)
    record.answered()
    await reply.start_events(200)
    await reply.end()


def _is_end(response: InferResponse, served: Served, *, is_first: bool) -> bool:
    """Whether a response stands for the end alone, and is not the answer of a model that has none of the outputs."""
    return response.is_empty and response.final and (served.is_decoupled or not is_first)


def _convert(request: InferRequest, inputs: Mapping[str, Input], served: Served, name: str, value: Any) -> None:
    declared = inputs.get(name)
    if declared is None:
        request.parameters[legible(name)] = own_parameter(name, value)
        return
    if any(tensor.name == name for tensor in request.inputs):
        raise repeated(request.id, name)
    datatype = DATATYPE_OF_TYPE.get(declared.data_type, declared.data_type)
    values = value if isinstance(value, list) else [value]
    lead = (-1,) if served.signature.is_batched else ()
    has_texts = datatype == "BYTES"  # which Triton looks at before the shape
    data = elements.collect(name, datatype, values, 0)[0] if has_texts else b""
    shape = _shape(name, (*lead, *declared.dims), len(values))
    if not has_texts:
        expected = element_count(shape)
        data, count = elements.collect(name, datatype, values, expected)
        if count != expected:
            raise InferenceError("Unable to parse 'data': Shape does not match true shape of 'data' field")
    request.inputs.append(Tensor(name, datatype, shape, data))


def _shape(name: str, dims: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The shape of so many elements: the last open dimension takes what the fixed ones leave, the others are 1."""
    left = count
    for size in dims:
        if size > 0 and left % size == 0:
            left //= size
        elif size != -1:
            raise _unshaped(name)
    shape = []
    for size in reversed(dims):
        shape.append(left if size == -1 else size)
        left = 1 if size == -1 else left
    if left != 1:
        raise _unshaped(name)
    return tuple(reversed(shape))


def _unshaped(name: str) -> InferenceError:
    return InferenceError(f"The schema can not convert input '{name}' to tensor with proper shape", Code.INVALID_ARG)


def _write(response: InferResponse, request: InferRequest, served: Served) -> bytes:
    """One answer as JSON, an output of one element as that element. Raises `InferenceError`, the model's own as 400."""
    if response.error is not None:
        raise InferenceError(response.error.message, Code.INVALID_ARG)
    config = served.config
    document: dict[str, Any] = {"model_name": config.name, "model_version": str(config.version)}
    if request.id:
        document["id"] = request.id
    document |= response.parameters
    has_words = True
    for tensor in response.outputs:
        values = elements.values(tensor)
        document[tensor.name] = values[0] if len(values) == 1 else values
        if tensor.datatype in {"FP32", "FP64"}:
            has_words = has_words and is_finite(values)
    document = dict(sorted(document.items()))  # Triton's order: who reads events may compare texts
    return encode(document) if has_words else encode_loosely(document)
