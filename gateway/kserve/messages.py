"""Inferences between KServe's protobuf messages and `InferRequest` and `InferResponse`; texts are Triton's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backends.errors import Code, InferenceError
from backends.model import InferRequest, InferResponse, Scalar
from backends.protobuf import service_pb2 as pb
from backends.signature import repeated
from backends.tensors import ELEMENT_BYTES, Buffer, Tensor
from gateway.kserve import contents
from gateway.kserve.dataplane import Wanted
from gateway.kserve.parameters import sequence_name
from gateway.kserve.shared_memory import Regions
from gateway.kserve.traces import UNTRACED, Traced

_RESERVED = "triton_"
_WITH_FINAL = "triton_enable_empty_final_response"
_FINAL = "triton_final_response"
_REGION, _SIZE, _OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"
_NUMBERS = 2**64
"""Triton takes sequences' ids, and places in shared memory, without a sign: below 0 are the largest ones."""


@dataclass(slots=True)
class Translated:
    """A request as the data plane takes it. `ends_explicitly`: an empty response is to mark the end of a stream.

    `version` is as the client wrote it, which is how responses without outputs tell it.
    """

    request: InferRequest
    version: str = ""
    wanted: list[Wanted] = field(default_factory=list)
    ends_explicitly: bool = False
    traced: Traced = UNTRACED


def read(message: Any, raw: list[Buffer], regions: Regions) -> Translated:
    """An inference from its message and the raw contents of it. Raises `InferenceError` for what cannot be read."""
    request = InferRequest(message.model_name, [], id=message.id)
    translated = Translated(request, message.model_version)
    if message.parameters:
        _read_parameters(message.parameters, translated)
    try:
        _read_inputs(message, raw, request.inputs, regions)
        if message.outputs:
            translated.wanted = [_wanted(output, regions) for output in message.outputs]
    except InferenceError:
        _check_names(message)
        raise
    return translated


def write(response: InferResponse, model: str, version: str, id: str, *, streams: bool) -> tuple[Any, list[Buffer]]:
    """A `ModelInferResponse`, and the raw contents that are to be written behind it, empty where they are in it.

    On a stream it says whether it is the last one of its request.
    """
    outputs = response.outputs
    message = pb.ModelInferResponse(model_name=model, model_version=version, id=id)
    for tensor in outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    for key, value in response.parameters.items():
        _write_parameter(message.parameters[key], value)
    if streams:
        message.parameters[_FINAL].bool_param = response.final
    raw: list[Buffer] = [tensor.data for tensor in outputs]
    if contents.is_small(raw):
        message.raw_output_contents.extend([data if isinstance(data, bytes) else bytes(data) for data in raw])
        return message, []
    return message, raw


def write_end(model: str, version: str, id: str) -> Any:
    """The `ModelInferResponse` that stands for nothing but the end of a request's responses."""
    message = pb.ModelInferResponse(model_name=model, model_version=version, id=id)
    message.parameters[_FINAL].bool_param = True
    return message


def _read_inputs(message: Any, raw: list[Buffer], inputs: list[Tensor], regions: Regions) -> None:
    model, taken = message.model_name, 0
    for tensor in message.inputs:
        parameters = tensor.parameters
        place = _place(tensor.name, parameters) if parameters else None
        data: Buffer
        if place is not None:
            data = regions.read(*place)
        elif raw:
            if tensor.HasField("contents"):
                raise _invalid(
                    f"contents field must not be specified when using raw_input_contents for '{tensor.name}' for "
                    f"model '{model}'"
                )
            if taken >= len(raw):
                raise _missing(model, tensor.name)
            data = raw[taken]
            taken += 1
        elif tensor.HasField("contents"):
            data = contents.typed(model, tensor)
        else:
            raise _missing(model, tensor.name)
        datatype = tensor.datatype
        inputs.append(
            Tensor(tensor.name, datatype if datatype in ELEMENT_BYTES else "<invalid>", tuple(tensor.shape), data)
        )


def _check_names(message: Any) -> None:
    """An input's second appearance is told before anything about the contents of any."""
    names = set()
    for tensor in message.inputs:
        if tensor.name in names:
            raise repeated(message.id, tensor.name)
        names.add(tensor.name)


def _read_parameters(parameters: Mapping[str, Any], translated: Translated) -> None:
    request = translated.request
    for key, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        value: Scalar = getattr(parameter, kind) if kind else ""
        if key == "sequence_id":
            request.sequence_id = _sequence_id(kind, value)
        elif key in {"sequence_start", "sequence_end", _WITH_FINAL}:
            if kind != "bool_param":
                raise _wrong_type(key, "bool_param")
            _set_flag(translated, key, is_on=bool(value))
        elif key == "priority":
            request.priority = _priority(kind, value)
        elif key == "timeout":
            if kind != "int64_param":
                raise _wrong_type(key, "int64_param")
            request.timeout_us = int(value)
        elif key.startswith(_RESERVED):
            raise _invalid(
                f"parameter keys starting with '{_RESERVED}' are reserved for Triton usage. Only the following keys "
                f"starting with '{_RESERVED}' are allowed: {_WITH_FINAL}"
            )
        elif kind not in {"bool_param", "int64_param", "string_param", "double_param"}:
            raise _wrong_type(key, "int64_param, bool_param, or string_param")
        else:
            request.parameters[key] = value


def _sequence_id(kind: str | None, value: Scalar) -> int | str:
    if kind == "int64_param":
        return int(value) % _NUMBERS
    if kind != "string_param":
        raise _wrong_type("sequence_id", "int64_param or string_param")
    return sequence_name(str(value))


def _priority(kind: str | None, value: Scalar) -> int:
    if kind not in {"int64_param", "uint64_param"}:
        raise _wrong_type("priority", "int64_param or uint64_param")
    level = int(value)
    if level < 0:
        raise _invalid("invalid value for 'priority', expected value >= 0.")
    return level


def _set_flag(translated: Translated, key: str, *, is_on: bool) -> None:
    if key == "sequence_start":
        translated.request.sequence_start = is_on
    elif key == "sequence_end":
        translated.request.sequence_end = is_on
    else:
        translated.ends_explicitly = is_on


def _wanted(output: Any, regions: Regions) -> Wanted:
    parameters = output.parameters
    wanted = Wanted(output.name)
    if not parameters:
        return wanted
    place = _place(output.name, parameters)
    if place is not None:
        wanted.region, wanted.offset, wanted.byte_size = place
    if "classification" in parameters:
        if place is not None:
            raise _invalid("output can't set both 'shared_memory_region' and 'classification'")
        choice = parameters["classification"]
        if choice.WhichOneof("parameter_choice") != "int64_param":
            raise _invalid("invalid value type for 'classification' parameter, expected int64_param")
        wanted.classes = choice.int64_param
        if wanted.classes <= 0:
            raise _invalid("invalid value for 'classification' parameter, expected >= 0")
    if place is not None:
        regions.read(*place)  # one that is not there is told before anything runs
    return wanted


def _place(tensor: str, parameters: Mapping[str, Any]) -> tuple[str, int, int] | None:
    """Region, offset and size of a tensor in shared memory; None for one that is not there."""
    if _REGION not in parameters:
        for key in (_OFFSET, _SIZE):
            if key in parameters:
                raise _invalid(f"'{key}' can not be specified without '{_REGION}' parameter for tensor '{tensor}'")
        return None
    region = parameters[_REGION]
    if region.WhichOneof("parameter_choice") != "string_param":
        raise _wrong_place(_REGION, tensor, "string_param")
    offset = size = 0
    if _OFFSET in parameters:
        if parameters[_OFFSET].WhichOneof("parameter_choice") != "int64_param":
            raise _wrong_place(_OFFSET, tensor, "int64_param")
        offset = parameters[_OFFSET].int64_param % _NUMBERS
    if _SIZE not in parameters:
        raise _invalid(f"'{_SIZE}' must be specified along with '{_REGION}' parameter for tensor '{tensor}'")
    if parameters[_SIZE].WhichOneof("parameter_choice") != "int64_param":
        raise _wrong_place(_SIZE, tensor, "int64_param")
    size = parameters[_SIZE].int64_param % _NUMBERS
    return region.string_param, offset, size


def _write_parameter(parameter: Any, value: Scalar) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    elif isinstance(value, str):
        parameter.string_param = value
    else:
        parameter.double_param = value


def _invalid(message: str) -> InferenceError:
    return InferenceError(message, Code.INVALID_ARG)


def _missing(model: str, tensor: str) -> InferenceError:
    return _invalid(f"unable to find data for input tensor '{tensor}' for model '{model}' in request.")


def _wrong_type(key: str, expected: str) -> InferenceError:
    return _invalid(f"invalid value type for '{key}' parameter, expected {expected}.")


def _wrong_place(key: str, tensor: str, expected: str) -> InferenceError:
    return _invalid(f"invalid value type for '{key}' parameter for tensor '{tensor}', expected {expected}.")
