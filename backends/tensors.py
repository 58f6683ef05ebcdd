"""Tensors as they cross a wire: a name, a KServe v2 datatype, a shape, and raw bytes that are never copied here."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

Buffer = bytes | bytearray | memoryview

ELEMENT_BYTES = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "FP32": 4,
    "FP64": 8,
    "BF16": 2,
    "BYTES": 0,
}
"""Size of an element by datatype (KServe v2, tensor data types); 0: elements differ in size."""

DATATYPE_OF_TYPE = {f"TYPE_{name}": name for name in ELEMENT_BYTES} | {"TYPE_STRING": "BYTES"}
"""The protocol's datatype for the name that `config.pbtxt` has for it."""
del DATATYPE_OF_TYPE["TYPE_BYTES"]

TYPE_OF_DATATYPE = {datatype: name for name, datatype in DATATYPE_OF_TYPE.items()}

_LENGTH = struct.Struct("<I")


@dataclass(slots=True)
class Tensor:
    """A tensor in the encoding of Triton's binary tensor data extension.

    Elements are little-endian and in row-major order; those of `BYTES` are a length (uint32) and so many bytes each.
    `data` may be a view of a buffer that others hold too: it is only read. A view is contiguous, of format `B`.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Buffer

    @property
    def size_bytes(self) -> int:
        data = self.data
        return data.nbytes if isinstance(data, memoryview) else len(data)


def element_count(shape: tuple[int, ...]) -> int:
    """How many elements a shape has; 1 for that of a scalar."""
    return prod(shape)


def elements(data: Buffer) -> list[bytes]:
    """The elements of a tensor of `BYTES`. Raises `ValueError` where their lengths do not add up."""
    view = memoryview(data)
    found: list[bytes] = []
    offset, end = 0, view.nbytes
    while offset < end:
        start = offset + _LENGTH.size
        offset = start + _LENGTH.unpack_from(view, offset)[0] if start <= end else end + 1
        if offset > end:
            raise ValueError("incomplete string data")
        found.append(bytes(view[start:offset]))
    return found


def join(elements: Iterable[bytes]) -> bytes:
    """The data of a tensor of `BYTES`."""
    parts: list[bytes] = []
    for element in elements:
        parts += (_LENGTH.pack(len(element)), element)
    return b"".join(parts)
