"""Tensors' contents in KServe's protobuf messages: raw ones without copies where they are large, typed ones as raw.

The wire format is protobuf's (https://protobuf.dev/programming-guides/encoding/): a message is a run of fields, each a
tag and, for bytes, a length before them. Raw contents are fields of the outermost message, so that they can be cut out
of it, and put behind it, without looking into anything else.
"""

from __future__ import annotations

import struct
from array import array
from typing import Any

from backends.errors import Code, InferenceError
from backends.protobuf import service_pb2 as pb
from backends.tensors import ELEMENT_BYTES, Buffer

_RAW_INPUT_TAG = 0x3A  # ModelInferRequest.raw_input_contents: field 7, length-delimited
_RAW_OUTPUT_TAG = b"\x32"  # ModelInferResponse.raw_output_contents: field 6, length-delimited
# Below this size the parser's two copies cost less than looking at the fields here.
_SMALL_BYTES = 32 * 1024
_INVALID_DATATYPE = "<invalid>"


def parse(body: Buffer) -> tuple[Any, list[Buffer]]:
    """A `ModelInferRequest` and its raw contents, which are views of `body` where that is large.

    Raises `ValueError` where it is no such message.
    """
    if len(body) <= _SMALL_BYTES:
        message = pb.ModelInferRequest.FromString(body)
        return message, list(message.raw_input_contents)
    rest, contents = _cut_raw(memoryview(body))
    return pb.ModelInferRequest.FromString(rest), contents


def is_small(contents: list[Buffer]) -> bool:
    """Whether these outputs are better put into their message than behind it."""
    return sum(map(len, contents)) <= _SMALL_BYTES


def raw_outputs(contents: list[Buffer]) -> list[Buffer]:
    """What to write behind a serialised `ModelInferResponse` without raw contents so that it has these."""
    parts: list[Buffer] = []
    for data in contents:
        parts += [_RAW_OUTPUT_TAG + varint(len(data)), data]
    return parts


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def typed(model: str, tensor: Any) -> bytes:
    """The contents of an `InferInputTensor` as raw bytes. Raises `InferenceError` for those of another datatype."""
    contents, datatype = tensor.contents, tensor.datatype
    data = b""
    for field, _ in contents.ListFields():
        kind, datatypes = _KINDS[field.name]
        if data:
            raise InferenceError(
                f"unexpected explicit tensor data for input tensor '{tensor.name}' for model '{model}', "
                "binary data was already supplied.",
                Code.INVALID_ARG,
            )
        if datatype not in datatypes:
            expected = datatype if datatype in ELEMENT_BYTES else _INVALID_DATATYPE
            raise InferenceError(
                f"unexpected explicit tensor data for input tensor '{tensor.name}' for model '{model}' of type "
                f"'{kind}', expected datatype '{expected}'",
                Code.INVALID_ARG,
            )
        data = _raw(getattr(contents, field.name), datatype, datatypes[datatype])
    return data


_KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "bool_contents": ("BOOL", {"BOOL": "B"}),
    "int_contents": ("INT32", {"INT8": "i", "INT16": "i", "INT32": "i"}),
    "int64_contents": ("INT64", {"INT64": "q"}),
    "uint_contents": ("UINT32", {"UINT8": "I", "UINT16": "I", "UINT32": "I"}),
    "uint64_contents": ("UINT64", {"UINT64": "Q"}),
    "fp32_contents": ("FP32", {"FP32": "f"}),
    "fp64_contents": ("FP64", {"FP64": "d"}),
    "bytes_contents": ("BYTES", {"BYTES": ""}),
}
"""By field: what Triton calls its elements, and the type codes by which it holds those of each datatype."""


def _raw(values: Any, datatype: str, typecode: str) -> bytes:
    if not typecode:
        return b"".join([struct.pack("<I", len(value)) + value for value in values])
    packed = array(typecode, values).tobytes()
    width, size = array(typecode).itemsize, ELEMENT_BYTES[datatype]
    if size == width:
        return packed
    # Small integers come in 32 bits each, of which the low ones count, as a cast would have it.
    return b"".join([packed[start : start + size] for start in range(0, len(packed), width)])


def _cut_raw(body: memoryview) -> tuple[bytes, list[Buffer]]:
    """The message without its raw contents, and these. Raises `ValueError`."""
    kept: list[memoryview] = []
    contents: list[Buffer] = []
    position, end = 0, len(body)
    while position < end:
        start = position
        tag, position = _read_varint(body, position)
        wire_type = tag & 7
        if wire_type == 2:
            size, first = _read_varint(body, position)
            position = first + size
            if tag == _RAW_INPUT_TAG:
                contents.append(body[first:position])
                start = position
        elif wire_type == 0:
            _, position = _read_varint(body, position)
        elif wire_type in _FIXED_BYTES:
            position += _FIXED_BYTES[wire_type]
        else:
            raise ValueError(f"wire type {wire_type}")
        if position > end:
            raise ValueError("a field goes past the message's end")
        if start < position:
            kept.append(body[start:position])
    return b"".join(kept), contents


_FIXED_BYTES = {1: 8, 5: 4}
_VARINT_BYTES = 10


def _read_varint(body: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    for each in body[position : position + _VARINT_BYTES]:
        position += 1
        value |= (each & 0x7F) << shift
        if each < 0x80:
            return value, position
        shift += 7
    raise ValueError("a varint without an end")
