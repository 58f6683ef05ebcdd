"""Elements of BYTES tensors between numpy and Triton's encoding: a length (uint32, little-endian) and the bytes."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.tensors import Buffer

Array = NDArray[Any]

_LENGTH = struct.Struct("<I")


def decode(data: Buffer, shape: tuple[int, ...]) -> Array:
    """An array of `bytes`. Raises `ValueError` for a length beyond the end, and where the shape has another size."""
    raw = bytes(data)
    end = len(raw)
    length = _LENGTH.unpack_from
    elements = []
    offset = 0
    while offset < end:
        start = offset + 4
        offset = start + length(raw, offset)[0]
        elements.append(raw[start:offset])
    if offset != end:
        raise ValueError(f"an element that ends at {offset}, in {end} bytes")
    array: Array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array if array.shape == shape else array.reshape(shape)


def encode(array: Array) -> bytes:
    """The encoding of an array of `bytes`, or of anything else that is sent as its text in UTF-8, in C order."""
    pack = _LENGTH.pack
    parts = []
    for element in array.ravel().tolist():
        value = element if type(element) is bytes else str(element).encode()
        parts.append(pack(len(value)))
        parts.append(value)
    return b"".join(parts)
