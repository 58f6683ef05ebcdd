"""Elements of tensors as JSON values, to and from the bytes that tensors carry."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from backends.errors import Code, InferenceError
from backends.tensors import Buffer, Tensor

CODES = {
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
"""How `array` and `memoryview.cast` name each datatype. Only little-endian machines are served."""

_VIEWS: dict[str, Any] = {**CODES, "BOOL": "?"}
_WITHOUT_JSON = frozenset({"FP16", "BF16"})

_read_integers = msgspec.json.Decoder(list[int]).decode
_read_reals = msgspec.json.Decoder(list[float]).decode
_read_truths = msgspec.json.Decoder(list[bool]).decode
_read_texts = msgspec.json.Decoder(list[str]).decode


def numbers(tensor: Tensor) -> Sequence[int | float]:
    """The elements of a tensor of numbers or truth values."""
    data = tensor.data
    view = data if isinstance(data, memoryview) else memoryview(data)
    values: Sequence[int | float] = view.cast(_VIEWS[tensor.datatype]).tolist()
    return values


def texts(data: Buffer) -> list[str]:
    """The elements of `BYTES`, which need not be UTF-8: see `json.encode`."""
    found = []
    position, end = 0, len(data)
    while position + 4 <= end:
        start = position + 4
        position = start + int.from_bytes(data[position:start], "little")
        found.append(bytes(data[start:position]).decode("utf-8", "surrogateescape"))
    return found


def values(tensor: Tensor) -> Sequence[Any]:
    """The elements as JSON has them. Raises `InferenceError` for those that Triton writes as bytes alone."""
    if tensor.datatype == "BYTES":
        return texts(tensor.data)
    if tensor.datatype in _WITHOUT_JSON:
        raise InferenceError(
            f"sending {tensor.datatype} data via JSON is not supported. Please use the binary data format for output",
            Code.INVALID_ARG,
        )
    return numbers(tensor)


def read(datatype: str, raw: msgspec.Raw) -> tuple[bytes, int]:
    """A flat JSON array as a tensor's bytes, with the number of elements: the way that costs least.

    Raises `ValueError`, `OverflowError` or `KeyError` for anything unusual, which `collect` then looks at.
    """
    return _READERS[datatype](raw)


def collect(name: str, datatype: str, data: list[Any], expected: int) -> tuple[bytes, int]:
    """A decoded JSON array, nested as it may be, as a tensor's bytes, with the number of elements.

    Integers are cut to their size, as Triton does, which looks at no more elements than the `expected` ones. Raises
    `InferenceError` in Triton's words.
    """
    if datatype in _WITHOUT_JSON:
        raise InferenceError(
            f"receiving {datatype} data via JSON is not supported. Please use the binary data format for input {name}",
            Code.INVALID_ARG,
        )
    try:
        flat = list(_flattened(data))
    except RecursionError as error:
        raise InferenceError("Unable to parse 'data': Nested too deeply") from error
    if datatype == "BYTES":
        if not all(isinstance(text, str) for text in flat):
            raise InferenceError("Unable to parse JSON bytes array: attempt to access JSON non-string as string")
        return join(flat), len(flat)
    return _numbers(datatype, flat[:expected]), len(flat)


def join(elements: Sequence[str]) -> bytes:
    """The bytes of a `BYTES` tensor of these texts."""
    encoded = [_encoded(text) for text in elements]
    return b"".join([len(text).to_bytes(4, "little") + text for text in encoded])


def _numbers(datatype: str, flat: list[Any]) -> bytes:
    """Numbers or truth values. Raises `InferenceError` in Triton's words."""
    if datatype == "BOOL":
        _demand(all(isinstance(value, bool) for value in flat), "boolean")
        return bytes(flat)
    if datatype in {"FP32", "FP64"}:
        _demand(all(_is_number(value) for value in flat), "number", "double")
        try:
            return array(CODES[datatype], [float(value) for value in flat]).tobytes()
        except OverflowError as error:  # a whole number of hundreds of digits
            raise InferenceError(
                "failed to parse the request JSON buffer: Number too big to be stored in double."
            ) from error
    code = CODES[datatype]
    is_signed = code.islower()
    low, high = (-(1 << 63), 1 << 63) if is_signed else (0, 1 << 64)
    whole = all(isinstance(value, int) and not isinstance(value, bool) and low <= value < high for value in flat)
    _demand(whole, "signed-integer" if is_signed else "unsigned-integer")
    size = array(code).itemsize
    mask = (1 << 8 * size) - 1
    return b"".join([(value & mask).to_bytes(size, "little") for value in flat])


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _flattened(data: list[Any]) -> Iterator[Any]:
    for value in data:
        if isinstance(value, list):
            yield from _flattened(value)
        else:
            yield value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _demand(holds: bool, kind: str, wanted: str = "") -> None:
    if not holds:
        raise InferenceError(f"Unable to parse 'data': attempt to access JSON non-{kind} as {wanted or kind}")


def _reader(code: str, decode: Callable[[msgspec.Raw], list[Any]]) -> Callable[[msgspec.Raw], tuple[bytes, int]]:
    def read_numbers(raw: msgspec.Raw) -> tuple[bytes, int]:
        found = decode(raw)
        return array(code, found).tobytes(), len(found)

    return read_numbers


def _truths(raw: msgspec.Raw) -> tuple[bytes, int]:
    found = _read_truths(raw)
    return bytes(found), len(found)


def _texts(raw: msgspec.Raw) -> tuple[bytes, int]:
    found = _read_texts(raw)
    return join(found), len(found)


_READERS: dict[str, Callable[[msgspec.Raw], tuple[bytes, int]]] = {
    datatype: _reader(code, _read_reals if code in "fd" else _read_integers) for datatype, code in CODES.items()
} | {"BOOL": _truths, "BYTES": _texts}
