"""ONNX files for tests, written field by field (onnx.proto3): what a model needs and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

TYPES = {"float": 1, "uint8": 2, "int32": 6, "int64": 7, "string": 8, "bool": 9, "double": 11}
_OPSET = 17
_IR_VERSION = 8


@dataclass
class Node:
    op: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, int | Sequence[int]] = field(default_factory=dict)


def write(
    file: Path,
    nodes: Sequence[Node],
    inputs: Mapping[str, tuple[str, Sequence[int | str]]],
    outputs: Mapping[str, tuple[str, Sequence[int | str]]],
    constants: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """A model. Types are ONNX's names, sizes are numbers or the names of variable dimensions."""
    graph = b"".join(_bytes(1, _node(node)) for node in nodes)
    graph += _bytes(2, b"graph")
    graph += b"".join(_bytes(5, _tensor(name, array)) for name, array in (constants or {}).items())
    graph += b"".join(_bytes(11, _value(name, *told)) for name, told in inputs.items())
    graph += b"".join(_bytes(12, _value(name, *told)) for name, told in outputs.items())
    opset = _bytes(1, b"") + _number(2, _OPSET)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(_number(1, _IR_VERSION) + _bytes(7, graph) + _bytes(8, opset))
    return file


def _node(node: Node) -> bytes:
    made = b"".join(_bytes(1, name.encode()) for name in node.inputs)
    made += b"".join(_bytes(2, name.encode()) for name in node.outputs)
    made += _bytes(4, node.op.encode())
    for name, value in node.attributes.items():
        attribute = _bytes(1, name.encode())
        if isinstance(value, int):
            attribute += _number(3, value) + _number(20, 2)
        else:
            attribute += b"".join(_number(8, each) for each in value) + _number(20, 7)
        made += _bytes(5, attribute)
    return made


def _tensor(name: str, array: np.ndarray) -> bytes:
    kind = {"float32": "float", "float64": "double"}.get(array.dtype.name, array.dtype.name)
    made = b"".join(_number(1, size) for size in array.shape) + _number(2, TYPES[kind])
    return made + _bytes(8, name.encode()) + _bytes(9, array.tobytes())


def _value(name: str, kind: str, shape: Sequence[int | str]) -> bytes:
    dims = b"".join(
        _bytes(1, _number(1, size) if isinstance(size, int) else _bytes(2, size.encode())) for size in shape
    )
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, _number(1, TYPES[kind]) + _bytes(2, dims)))


def _bytes(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)
