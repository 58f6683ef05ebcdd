"""Tensors as numpy arrays and back: views of the same bytes wherever the encoding allows it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.errors import Code, InferenceError
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
    "BYTES": np.dtype(object),
}
"""numpy's type for a datatype. There is none for BF16, which libraries have types of their own for."""

_DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}


def to_array(tensor: Tensor) -> Array:
    """The tensor as an array over its own bytes; one of `bytes` for BYTES. Raises `InferenceError`, `ValueError`."""
    if tensor.datatype == "BYTES":
        found = elements(tensor.data)
        array = np.empty(len(found), dtype=object)
        array[:] = found
        return array.reshape(tensor.shape)
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise InferenceError(f"input '{tensor.name}' is of {tensor.datatype}, which arrays have not", Code.UNSUPPORTED)
    return np.frombuffer(tensor.data, dtype).reshape(tensor.shape)


def to_tensor(name: str, array: Array) -> Tensor:
    """The array as a tensor over its own memory, which is copied only where it is not contiguous."""
    if array.dtype.kind in "OSU":
        return Tensor(name, "BYTES", array.shape, join(map(_element, array.ravel())))
    datatype = _DATATYPES.get(array.dtype)
    if datatype is None:
        raise InferenceError(f"output '{name}' is of numpy's type {array.dtype}, which no datatype is", Code.INTERNAL)
    flat = np.ascontiguousarray(array).reshape(-1)
    return Tensor(name, datatype, array.shape, flat.view(np.uint8).data if flat.size else b"")


def _element(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
