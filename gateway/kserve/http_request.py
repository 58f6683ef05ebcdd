"""The body of an inference over HTTP, JSON with or without binary data, as an `InferRequest`.

A body as clients send it is decoded into what is wanted of it. One that is unusual in any way is read again, field by
field in Triton's order: that way is slow, knows every case, and says what is wrong in Triton's words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from backends.errors import Code, InferenceError
from backends.model import InferRequest, Scalar
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


class _InputParameters(msgspec.Struct, frozen=True):
    binary_data_size: Annotated[int, msgspec.Meta(ge=0)] = -1
    shared_memory_region: msgspec.Raw | None = None


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    parameters: _InputParameters | msgspec.UnsetType = msgspec.UNSET


class _OutputParameters(msgspec.Struct, frozen=True):
    binary_data: bool = False
    classification: Annotated[int, msgspec.Meta(ge=0)] = 0
    shared_memory_region: msgspec.Raw | None = None


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
        if parameters is msgspec.UNSET or (parameters.binary_data_size < 0 and not parameters.shared_memory_region):
            if raw is msgspec.UNSET:
                raise _UnusualError
            content, count = elements.read(datatype, raw)
            if count != element_count(shape) and datatype != "BYTES":
                raise _UnusualError
            inputs.append(Tensor(name, datatype, shape, content))
        else:
            end = at + parameters.binary_data_size
            unfit = end > len(data) or datatype not in ELEMENT_BYTES
            if unfit or raw is not msgspec.UNSET or parameters.shared_memory_region is not None:
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
        if asked.shared_memory_region is not None:
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
            known = request.id or "<id_unknown>"
            raise InferenceError(f"[request id: {known}] input '{name}' already exists in request", Code.INVALID_ARG)
        if sources[0]:
            content: Buffer = self._array(name, datatype, shape, tensor["data"])
        elif sources[1]:
            content = self._binary(name, parameters["binary_data_size"])
        else:
            content = self._shared(parameters)
        if datatype not in ELEMENT_BYTES:
            raise InferenceError(f"invalid datatype for input {name}", Code.INVALID_ARG)
        return Tensor(name, datatype, shape, content)

    def _array(self, name: str, datatype: str, shape: tuple[int, ...], data: Any) -> bytes:
        values = as_array(data, "Unable to parse 'data'")
        if datatype not in ELEMENT_BYTES:
            raise InferenceError(f"invalid datatype for input {name}", Code.INVALID_ARG)
        content, count = elements.collect(name, datatype, values)
        if count != element_count(shape) and datatype != "BYTES" and shape:
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

    def _shared(self, parameters: dict[str, Any]) -> memoryview:
        return self._regions.read(*_place(parameters))

    def _output(self, output: Any) -> tuple[Wanted, bool]:
        name = as_string(member(output, "name", "Unable to parse 'name'"), "Unable to parse 'name'")
        wanted = Wanted(name)
        parameters = output.get("parameters")
        if not isinstance(parameters, dict):
            return wanted, False
        read: Sequence[tuple[str, Callable[[Any, str], Scalar], str]] = (
            ("classification", as_unsigned, "Unable to set 'classification'"),
            ("binary_data", as_boolean, "Unable to parse 'binary_data'"),
        )
        for key, _, _ in read:
            # Clients say `"binary_data": false` beside a region.
            if "shared_memory_region" in parameters and parameters.get(key, False) is not False:
                raise InferenceError(f"Output can't set both 'shared_memory_region' and '{key}'", Code.INVALID_ARG)
        classes, is_binary = (what(parameters[key], text) if key in parameters else 0 for key, what, text in read)
        wanted.classes = int(classes)
        if "shared_memory_region" in parameters:
            wanted.region, wanted.offset, wanted.byte_size = _place(parameters)
            self._regions.read(wanted.region, wanted.offset, wanted.byte_size)
        return wanted, bool(is_binary)


def _place(parameters: dict[str, Any]) -> tuple[str, int, int]:
    """Region, offset and size of shared memory."""
    region = as_string(parameters["shared_memory_region"], "Unable to parse 'shared_memory_region'")
    offset, size = (
        as_unsigned(parameters.get(key, 0), f"Unable to parse '{key}'")
        for key in ("shared_memory_offset", "shared_memory_byte_size")
    )
    return region, offset, size
