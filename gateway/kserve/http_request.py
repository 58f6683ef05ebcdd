"""The body of an inference over HTTP, JSON with or without binary data, as an `InferRequest`.

A body as clients send it is decoded into what is wanted of it. One that is unusual in any way is read again, field by
field in Triton's order: that way is slow, knows every case, and says what is wrong in Triton's words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from backends.errors import Code, InferenceError
from backends.model import InferRequest
from backends.signature import repeated
from backends.tensors import ELEMENT_BYTES, Buffer, Tensor, element_count
from gateway.kserve import elements
from gateway.kserve.dataplane import Served, Wanted
from gateway.kserve.json import decode
from gateway.kserve.members import as_array, as_boolean, as_string, as_unsigned, member, members, present
from gateway.kserve.parameters import apply_parameters
from gateway.kserve.shared_memory import Regions

_SOURCES = "'data', 'binary_data_size' in 'parameters', 'shared_memory_region' in 'parameters'"


@dataclass(slots=True)
class Inference:
    """A request, what is wanted of its outputs, and which of these go out as bytes rather than as JSON."""

    request: InferRequest
    wanted: list[Wanted] = field(default_factory=list)
    binary: set[str] = field(default_factory=set)
    all_binary: bool = False


Parameters = dict[str, str | bool | int | float]


_Size = Annotated[int, msgspec.Meta(ge=0)]


class _InputParameters(msgspec.Struct, frozen=True):
    binary_data_size: _Size = -1
    shared_memory_region: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    shared_memory_offset: _Size = 0
    shared_memory_byte_size: _Size = 0


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[_Size, ...]
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    parameters: _InputParameters | msgspec.UnsetType = msgspec.UNSET


class _OutputParameters(msgspec.Struct, frozen=True):
    binary_data: bool = False
    classification: _Size = 0
    shared_memory_region: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    shared_memory_offset: _Size = 0
    shared_memory_byte_size: _Size = 0


class _Output(msgspec.Struct):
    name: str
    parameters: _OutputParameters = _OutputParameters()


class _Body(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    outputs: list[_Output] = []
    parameters: Parameters = {}


_decode_body = msgspec.json.Decoder(_Body).decode

_HEADER_BYTES = b"inference-header-content-length"
_DIGITS = re.compile(rb"\s*([+-]?\d+)")


class _UnusualError(Exception):
    """A body that is to be read field by field."""


def read_inference(body: Buffer, header_bytes: int | None, served: Served, regions: Regions) -> Inference:
    """Read a body whose first `header_bytes` are JSON, all of it where None. Inputs are views of the body.

    With 0, or with no body, all of it is the data of the model's only input. Raises `InferenceError`.
    """
    if header_bytes == 0 or not body:
        return _read_raw(body, served)
    view = memoryview(body)
    header = body if header_bytes is None else view[:header_bytes]
    data = view[len(body) if header_bytes is None else header_bytes :]
    try:
        return _read_usual(_decode_body(header), data)
    except (_UnusualError, msgspec.DecodeError, ValueError, OverflowError, KeyError, RecursionError, InferenceError):
        return _Reader(served, regions, data).read(decode(header))


def json_bytes(headers: Mapping[bytes, bytes], body_bytes: int) -> int | None:
    """How many bytes of a body are JSON, None where the client does not say; 0 for what is no number, as Triton has it.

    Raises `InferenceError`.
    """
    value = headers.get(_HEADER_BYTES)
    if value is None:
        return None
    match = _DIGITS.match(value)
    size = int(match[1]) if match else 0
    if not 0 <= size <= body_bytes:
        raise InferenceError(
            f"inference header size should be in range (0, {body_bytes}), got: {value.decode('latin-1')}",
            Code.INVALID_ARG,
        )
    return size


def _read_raw(body: Buffer, served: Served) -> Inference:
    request = InferRequest(served.config.name, [served.signature.raw(memoryview(body))])
    return Inference(request, all_binary=True)


def _read_usual(body: _Body, data: memoryview) -> Inference:
    """What clients send as a rule. Raises anything where there is more to it."""
    inputs = []
    at = 0
    for tensor in body.inputs:
        name, datatype, shape, raw, parameters = (
            tensor.name,
            tensor.datatype,
            tensor.shape,
            tensor.data,
            tensor.parameters,
        )
        if parameters is not msgspec.UNSET and parameters.shared_memory_region is not msgspec.UNSET:
            raise _UnusualError
        if parameters is msgspec.UNSET or parameters.binary_data_size < 0:
            if raw is msgspec.UNSET:
                raise _UnusualError
            content, count = elements.read(datatype, raw)
            if count != (expected := element_count(shape)) and (datatype != "BYTES" or not expected):
                raise _UnusualError
            inputs.append(Tensor(name, datatype, shape, content))
        else:
            end = at + parameters.binary_data_size
            if end > len(data) or datatype not in ELEMENT_BYTES or raw is not msgspec.UNSET:
                raise _UnusualError
            inputs.append(Tensor(name, datatype, shape, data[at:end]))
            at = end
    if at != len(data) or (len(inputs) > 1 and len({tensor.name for tensor in inputs}) < len(inputs)):
        raise _UnusualError
    request = InferRequest("", inputs)
    request.id = body.id
    inference = Inference(request)
    if body.parameters:
        inference.all_binary = apply_parameters(request, body.parameters)
    for output in body.outputs:
        asked = output.parameters
        if asked.shared_memory_region is not msgspec.UNSET:
            raise _UnusualError
        inference.wanted.append(Wanted(output.name, asked.classification))
        if asked.binary_data:
            inference.binary.add(output.name)
        inference.all_binary = False
    return inference


class _Reader:
    """Reads a decoded body field by field, in Triton's order."""

    def __init__(self, served: Served, regions: Regions, data: memoryview) -> None:
        self._served = served
        self._regions = regions
        self._data = data
        self._at = 0

    def read(self, body: Any) -> Inference:
        request = InferRequest("", [])
        inference = Inference(request)
        if present(body, "id"):
            request.id = as_string(body["id"], "Unable to parse 'id'")
        if present(body, "parameters"):
            parameters = members(body["parameters"], "failed to get request params.")
            inference.all_binary = apply_parameters(request, parameters)
        for tensor in as_array(member(body, "inputs", "Unable to parse 'inputs'"), "Unable to parse 'inputs'"):
            request.inputs.append(self._input(tensor, request))
        if self._at != len(self._data):
            raise InferenceError(
                f"unexpected additional input data for model '{self._served.config.name}'", Code.INVALID_ARG
            )
        if present(body, "outputs"):
            outputs = as_array(body["outputs"], "Unable to parse 'outputs'")
            inference.all_binary = inference.all_binary and not outputs
            for output in outputs:
                wanted, is_binary = self._output(output)
                inference.wanted.append(wanted)
                if is_binary:
                    inference.binary.add(wanted.name)
        return inference

    def _input(self, tensor: Any, request: InferRequest) -> Tensor:
        parameters: Any = tensor.get("parameters") if isinstance(tensor, dict) else None
        sources = [
            present(tensor, "data"),
            present(parameters, "binary_data_size"),
            present(parameters, "shared_memory_region"),
        ]
        if sum(sources) != 1:
            names = ("'data'", "'binary_data_size'", "'shared_memory_region'")
            found = " ".join(name for name, is_set in zip(names, sources, strict=True) if is_set)
            raise InferenceError(
                f"Input must set only one of the following fields: {_SOURCES}. "
                f"But {f'set {found}' if found else 'no field is set'}",
                Code.INVALID_ARG,
            )
        name = as_string(member(tensor, "name", "Unable to parse 'name'"), "Unable to parse 'name'")
        datatype = as_string(member(tensor, "datatype", "Unable to parse 'datatype'"), "Unable to parse 'datatype'")
        sizes = as_array(member(tensor, "shape", "Unable to parse 'shape'"), "Unable to parse 'shape'")
        shape = tuple(as_unsigned(size, "Unable to parse 'shape'") for size in sizes)
        if any(given.name == name for given in request.inputs):
            raise repeated(request.id, name)
        if sources[1]:
            content: Buffer = self._binary(name, parameters["binary_data_size"])
        else:
            place = _place(parameters if isinstance(parameters, dict) else {})
            content = self._array(name, datatype, shape, tensor["data"]) if sources[0] else self._regions.read(*place)
        return Tensor(name, datatype if datatype in ELEMENT_BYTES else "<invalid>", shape, content)

    def _array(self, name: str, datatype: str, shape: tuple[int, ...], data: Any) -> bytes:
        """As Triton, which does not look at data that has no element to be."""
        expected = element_count(shape)
        if not shape or not expected:
            return b""
        values = as_array(data, "Unable to parse 'data'")
        if datatype not in ELEMENT_BYTES:
            raise InferenceError(f"invalid datatype for input {name}", Code.INVALID_ARG)
        content, count = elements.collect(name, datatype, values, expected)
        if count != expected and datatype != "BYTES":
            raise InferenceError("Unable to parse 'data': Shape does not match true shape of 'data' field")
        return content

    def _binary(self, name: str, size: Any) -> memoryview:
        end = self._at + as_unsigned(size, "Unable to parse 'binary_data_size'")
        if end > len(self._data):
            raise InferenceError(
                f"unexpected size for input '{name}', expecting {end - len(self._data)} additional bytes for model "
                f"'{self._served.config.name}'",
                Code.INVALID_ARG,
            )
        content = self._data[self._at : end]
        self._at = end
        return content

    def _output(self, output: Any) -> tuple[Wanted, bool]:
        name = as_string(member(output, "name", "Unable to parse 'name'"), "Unable to parse 'name'")
        wanted = Wanted(name)
        parameters = output.get("parameters")
        if not isinstance(parameters, dict):
            return wanted, False
        is_placed = "shared_memory_region" in parameters
        if is_placed:
            _check_alone(parameters)
        wanted.classes = as_unsigned(parameters.get("classification", 0), "Unable to set 'classification'")
        wanted.region, wanted.offset, wanted.byte_size = _place(parameters)
        is_binary = as_boolean(parameters.get("binary_data", False), "Unable to parse 'binary_data'")
        if is_placed:
            self._regions.read(wanted.region, wanted.offset, wanted.byte_size)
        return wanted, is_binary


def _check_alone(parameters: dict[str, Any]) -> None:
    """What goes into shared memory goes out in no other form; clients say `"binary_data": false` beside a region."""
    other = "classification"
    if other not in parameters:
        other = "binary_data"
        if not as_boolean(parameters.get(other, False), f"Unable to set '{other}'"):
            return
    raise InferenceError(f"Output can't set both 'shared_memory_region' and '{other}'", Code.INVALID_ARG)


def _place(parameters: dict[str, Any]) -> tuple[str, int, int]:
    """Region, offset and size of shared memory; no region where none is named."""
    region = as_string(parameters.get("shared_memory_region", ""), "Unable to parse 'shared_memory_region'")
    offset, size = (
        as_unsigned(parameters.get(key, 0), f"Unable to parse '{key}'")
        for key in ("shared_memory_offset", "shared_memory_byte_size")
    )
    return region, offset, size
