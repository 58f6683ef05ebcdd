"""Tensors as numpy arrays and back: views of the same bytes wherever the encoding allows it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.tensors import Tensor, elements, join

Array = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype("<u2"),
    "BYTES": np.dtype(object),
}
"""numpy's type for a datatype. It has none for BF16, which is kept as it is stored; libraries make theirs of it."""


def to_array(tensor: Tensor) -> Array:
    """The tensor as an array over its own bytes; one of `bytes` for BYTES. Raises `ValueError`."""
    if tensor.datatype == "BYTES":
        found = elements(tensor.data)
        array = np.empty(len(found), dtype=object)
        array[:] = found
        return array.reshape(tensor.shape)
    return np.frombuffer(tensor.data, DTYPES[tensor.datatype]).reshape(tensor.shape)


def to_tensor(name: str, datatype: str, array: Array) -> Tensor:
    """The array as a tensor over its own memory, which is copied only where it is not contiguous."""
    if datatype == "BYTES":
        return Tensor(name, datatype, array.shape, join(map(_element, array.ravel())))
    flat = np.ascontiguousarray(array).reshape(-1)
    return Tensor(name, datatype, array.shape, flat.view(np.uint8).data if flat.size else b"")


def _element(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
