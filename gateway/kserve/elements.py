"""Elements of tensors as numbers and JSON values, to and from the bytes that tensors carry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backends.tensors import Tensor

_FORMAT: dict[str, Any] = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP32": "f",
    "FP64": "d",
}
"""How `memoryview.cast` names each datatype. Only little-endian machines are served."""


def numbers(tensor: Tensor) -> Sequence[int | float]:
    """The elements of a tensor of numbers or truth values."""
    data = tensor.data
    view = data if isinstance(data, memoryview) else memoryview(data)
    values: Sequence[int | float] = view.cast(_FORMAT[tensor.datatype]).tolist()
    return values
