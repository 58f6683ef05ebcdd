"""Tensors as events of a trace: their elements as text, in Triton's form, up to a limit."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from backends.tensors import ELEMENT_BYTES, Buffer, Tensor
from gateway.kserve.elements import CODES

_CUT = "..."
"""Stands for the elements that are left out; `shape` says how many there are."""

_CODES = {**CODES, "BOOL": "?", "FP16": "e"}
"""How `struct` names each datatype."""


def event(id: int, activity: str, tensor: Tensor, most_bytes: int) -> dict[str, Any]:
    """What a trace says of a tensor, of the first `most_bytes` of it."""
    return {
        "id": id,
        "activity": activity,
        "tensor": {
            "name": tensor.name,
            "data": ",".join(_texts(tensor, most_bytes)),
            "shape": ",".join(map(str, tensor.shape)),
            "dtype": tensor.datatype,
        },
    }


def _texts(tensor: Tensor, most_bytes: int) -> Iterable[str]:
    """As Triton formats them, and also what it leaves out (FP16) or writes as characters (integers of one byte)."""
    if tensor.datatype == "BYTES":
        return _strings(tensor.data, most_bytes)
    size = ELEMENT_BYTES[tensor.datatype]
    count = min(tensor.size_bytes, most_bytes) // size
    numbers = _numbers(tensor.datatype, memoryview(tensor.data)[: count * size], count)
    texts = [f"{number:g}" if isinstance(number, float) else str(int(number)) for number in numbers]
    return [*texts, _CUT] if count * size < tensor.size_bytes else texts


def _numbers(datatype: str, data: memoryview, count: int) -> tuple[int | float, ...]:
    if datatype == "BF16":  # the upper half of an FP32
        halves = struct.unpack(f"<{count}H", data)
        data = memoryview(struct.pack(f"<{count}I", *(half << 16 for half in halves)))
        datatype = "FP32"
    return struct.unpack(f"<{count}{_CODES[datatype]}", data)


def _strings(data: Buffer, most_bytes: int) -> Iterable[str]:
    """Elements of `BYTES`, each in quotation marks; bytes that are no UTF-8, which JSON lacks, are escaped."""
    view, start, end = memoryview(data), 0, len(data)
    while start < end:
        first = start + 4
        start = first + int.from_bytes(view[start:first], "little")
        if start > most_bytes:
            yield _CUT
            return
        yield f'"{bytes(view[first:start]).decode("utf-8", "backslashreplace")}"'
