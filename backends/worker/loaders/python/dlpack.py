"""DLPack's structures (dmlc.github.io/dlpack, version 0): other libraries' tensors taken in, BF16 given out.

numpy speaks DLPack by itself but for BF16, which it has not, and for capsules without their tensor.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np

from backends.tensors import Buffer
from backends.worker.loaders.python.errors import TritonModelException

_CPU = 1
_BFLOAT = 4
_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}
_NAME = b"dltensor"


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("id", ctypes.c_int32))


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, (ctypes.py_object, ctypes.c_char_p)
_is_unused = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    (
        "PyCapsule_GetPointer",
        ctypes.pythonapi,
    )
)
_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


def taken(tensor: Any) -> tuple[Any, tuple[int, ...], memoryview | None]:
    """What a DLPack capsule, or what exports one, holds: its array and its shape; for BF16 its shape and its bytes.

    The memory is the exporter's, which lives as long as what is returned; that of a GPU is copied. Raises
    `TritonModelException` for what is no such tensor, or is not contiguous.
    """
    capsule = _capsule(tensor)
    managed = _Managed.from_address(_pointer(capsule, _NAME))
    source = managed.tensor
    shape = tuple(source.shape[axis] for axis in range(source.ndim))
    if source.strides and not _is_contiguous(shape, [source.strides[axis] for axis in range(source.ndim)]):
        raise TritonModelException(
            "DLPack tensor is not contiguous. Only contiguous DLPack tensors that are stored in C-Order are supported."
        )
    item_bytes = source.dtype.bits // 8
    size_bytes = item_bytes * int(np.prod(shape, dtype=np.int64))
    memory = (ctypes.c_ubyte * size_bytes).from_address((source.data or 0) + source.byte_offset) if size_bytes else b""
    if size_bytes:
        memory.owner = capsule  # type: ignore[union-attr]  # ctypes' arrays take attributes
    if source.dtype.code == _BFLOAT and item_bytes == 2:
        return None, shape, memoryview(memory).cast("B")
    if source.dtype.lanes != 1 or source.dtype.code not in _KINDS:
        raise TritonModelException("DLDataType code is not supported.")
    return np.ndarray(shape, f"{_KINDS[source.dtype.code]}{item_bytes}", memory), shape, None


def bfloat16_capsule(data: Buffer, shape: tuple[int, ...]) -> Any:
    """A capsule over a BF16 tensor's bytes, which live until whoever takes it is done with them."""
    view = np.frombuffer(data, np.uint8)
    managed = _Managed()
    dims = (ctypes.c_int64 * len(shape))(*shape)
    managed.tensor = _DLTensor(view.ctypes.data, _Device(_CPU, 0), len(shape), _Type(_BFLOAT, 16, 1), dims, None, 0)
    managed.deleter = ctypes.cast(_on_release, ctypes.c_void_p)
    address = ctypes.addressof(managed)
    _exported[address] = (managed, dims, view)
    return _new(address, _NAME, ctypes.cast(_on_drop, ctypes.c_void_p))


def _capsule(tensor: Any) -> Any:
    if _is_valid(tensor, _NAME):
        return tensor
    if not hasattr(tensor, "__dlpack__") or not hasattr(tensor, "__dlpack_device__"):
        raise TritonModelException(
            "Provided tensor is not supported. Tensor must be a DLPack capsule         or have `__dlpack__` and"
            " `__dlpack_device__` attributes"
        )
    if tensor.__dlpack_device__()[0] != _CPU:
        tensor = _in_host_memory(tensor)
    return tensor.__dlpack__()


def _in_host_memory(tensor: Any) -> Any:
    """A copy of a GPU's tensor, made by the library that it is of."""
    if hasattr(tensor, "cpu"):
        return tensor.cpu()
    if "torch" in sys.modules:
        return sys.modules["torch"].from_dlpack(tensor).cpu()
    if hasattr(tensor, "get"):
        return tensor.get()
    raise TritonModelException(f"a tensor of {type(tensor)} on a GPU needs torch to be copied from there")


def _is_contiguous(shape: tuple[int, ...], strides: list[int]) -> bool:
    if 0 in shape:
        return True
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


# What was exported, by the address of its structure, until the taker's call of the deleter: C code holds no references.
_exported: dict[int, Any] = {}


def _release(address: int) -> None:
    _exported.pop(address, None)


def _drop(capsule: int) -> None:
    """The capsule dies; whoever has taken the tensor out has renamed it, and releases it later."""
    if _is_unused(capsule, _NAME):
        _release(_pointer_of(capsule, _NAME))


_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_on_release, _on_drop = _Callback(_release), _Callback(_drop)
