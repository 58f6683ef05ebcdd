"""A model's tensors: numpy arrays over received bytes, and received bytes as arrays, copied by neither."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends import tensors
from backends.worker.loaders.python.arguments import text
from backends.worker.loaders.python.byte_strings import decode, encode
from backends.worker.loaders.python.errors import TritonModelException

Array = NDArray[Any]

# Below this a copy costs less than a view of an array's memory.
_COPIED_BYTES = 2048

_DATATYPES = {
    np.dtype(name): datatype
    for name, datatype in (
        ("bool", "BOOL"),
        ("uint8", "UINT8"),
        ("uint16", "UINT16"),
        ("uint32", "UINT32"),
        ("uint64", "UINT64"),
        ("int8", "INT8"),
        ("int16", "INT16"),
        ("int32", "INT32"),
        ("int64", "INT64"),
        ("longlong", "INT64"),
        ("float16", "FP16"),
        ("float32", "FP32"),
        ("float64", "FP64"),
        ("object", "BYTES"),
    )
}
_DTYPES = {datatype: dtype for dtype, datatype in reversed(_DATATYPES.items())}
_NUMBERS = {"BOOL": 1, "UINT8": 2, "UINT16": 3, "UINT32": 4, "UINT64": 5, "INT8": 6, "INT16": 7, "INT32": 8} | {
    "INT64": 9,
    "FP16": 10,
    "FP32": 11,
    "FP64": 12,
    "BYTES": 13,
    "BF16": 14,
}


class Tensor:
    """A named tensor. `Tensor(name, array)`; BF16, which numpy has not, comes and goes by DLPack alone."""

    __slots__ = ("_array", "_data", "_datatype", "_name", "_shape")

    _array: Array | None
    _data: tensors.Buffer | None

    def __init__(self, name: str, array: Array, /) -> None:
        if type(name) is not str:
            name = text(name, "Tensor: name")
        if not isinstance(array, np.ndarray):
            raise TypeError(f"Tensor: array must be numpy.ndarray, not {type(array)}")
        if not name:
            raise TritonModelException("Tensor name cannot be an empty string.")
        datatype = _DATATYPES.get(array.dtype)
        self._data = None
        if datatype is None or datatype == "BYTES":
            if array.dtype.kind not in "OS":
                raise TritonModelException("NumPy dtype is not supported.")
            datatype = "BYTES"
            self._data = encode(array)
        elif not array.flags.c_contiguous:
            array = np.ascontiguousarray(array)
        self._name = name
        self._array = array
        self._datatype = datatype
        self._shape = array.shape

    @classmethod
    def received(cls, tensor: tensors.Tensor) -> Tensor:
        """A tensor that came; its array is a view of the received bytes, which are the model's to write into."""
        self = cls.__new__(cls)
        self._name = tensor.name
        self._array = None
        self._data = tensor.data
        self._datatype = tensor.datatype
        self._shape = tensor.shape
        return self

    def wire(self) -> tensors.Tensor:
        """The tensor as it is sent, over the array's own memory."""
        data = self._data
        if data is None:
            array = self._array
            assert array is not None
            data = array.tobytes() if array.nbytes <= _COPIED_BYTES else array.data.cast("B")
        return tensors.Tensor(self._name, self._datatype, self._shape, data)

    def name(self) -> str:
        return self._name

    def shape(self) -> list[int]:
        return list(self._shape)

    def triton_dtype(self) -> int:
        """The number of the datatype, as `triton_to_numpy_type` takes it."""
        return _NUMBERS[self._datatype]

    def is_cpu(self) -> bool:
        """Always: what crosses a process boundary here is in the host's memory."""
        return True

    def as_numpy(self) -> Array:
        """The array, the same at each call. Raises `TritonModelException` for BF16."""
        if self._array is None:
            data = self._data
            assert data is not None
            if self._datatype == "BYTES":
                self._array = decode(data, self._shape)
            elif self._datatype == "BF16":
                raise TritonModelException(
                    "Tensor dtype is BF16 and cannot be converted to NumPy. Use to_dlpack() and from_dlpack() instead."
                )
            else:
                array: Array = np.ndarray(self._shape, _DTYPES[self._datatype], data)
                # Behind a BYTES tensor anything may begin at an odd address, which libraries do not expect.
                self._array = array if array.flags.aligned else array.copy()
                self._data = None
        return self._array

    def to_dlpack(self) -> Any:
        """A DLPack capsule over the same memory. Raises `TritonModelException` for BYTES."""
        return self.__dlpack__()

    def __dlpack__(self, stream: Any = None, **_: Any) -> Any:
        del stream
        if self._datatype == "BYTES":
            raise TritonModelException("DLPack does not have support for string tensors.")
        if self._datatype == "BF16":
            from backends.worker.loaders.python.dlpack import bfloat16_capsule

            assert self._data is not None
            return bfloat16_capsule(self._data, self._shape)
        return self.as_numpy().__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    @staticmethod
    def from_dlpack(name: str, tensor: Any, /) -> Tensor:
        """A tensor over the memory of a DLPack capsule, or of what has `__dlpack__`; GPU memory is copied."""
        from backends.worker.loaders.python.dlpack import taken

        if not name:
            raise TritonModelException("Tensor name cannot be an empty string.")
        array, shape, data = taken(tensor)
        if data is None:
            return Tensor(name, array)
        return Tensor.received(tensors.Tensor(name, "BF16", shape, data))
