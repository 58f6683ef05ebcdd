"""What a `model.py` imports: Triton's module of this name, as far as it is documented, over this project's classes."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.worker.loaders.python.byte_strings import decode, encode
from backends.worker.loaders.python.configuration import ModelConfig
from backends.worker.loaders.python.configuration import input_named as get_input_config_by_name
from backends.worker.loaders.python.configuration import is_decoupled as using_decoupled_model_transaction_policy
from backends.worker.loaders.python.configuration import output_named as get_output_config_by_name
from backends.worker.loaders.python.control import is_model_ready, load_model, unload_model
from backends.worker.loaders.python.errors import TritonError, TritonModelException
from backends.worker.loaders.python.logger import Logger
from backends.worker.loaders.python.metrics import MetricFamily
from backends.worker.loaders.python.request import InferenceRequest, MemoryType, PreferredMemory
from backends.worker.loaders.python.response import InferenceResponse
from backends.worker.loaders.python.session import current
from backends.worker.loaders.python.tensor import Tensor

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2
TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
TRITONSERVER_REQUEST_RELEASE_ALL = 1
TRITONSERVER_REQUEST_RELEASE_RESCHEDULE = 2
TRITONSERVER_MEMORY_GPU = MemoryType.TRITONSERVER_MEMORY_GPU
TRITONSERVER_MEMORY_CPU = MemoryType.TRITONSERVER_MEMORY_CPU

TRITON_STRING_TO_NUMPY: dict[str, Any] = {
    "TYPE_BOOL": bool,
    "TYPE_UINT8": np.uint8,
    "TYPE_UINT16": np.uint16,
    "TYPE_UINT32": np.uint32,
    "TYPE_UINT64": np.uint64,
    "TYPE_INT8": np.int8,
    "TYPE_INT16": np.int16,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
    "TYPE_STRING": np.object_,
}

# By the numbers of TRITONSERVER_DataType; 0 is none of them.
_NUMPY: tuple[Any, ...] = (None, np.bool_, *list(TRITON_STRING_TO_NUMPY.values())[1:])

__all__ = [
    "TRITONSERVER_MEMORY_CPU",
    "TRITONSERVER_MEMORY_GPU",
    "TRITONSERVER_REQUEST_FLAG_SEQUENCE_END",
    "TRITONSERVER_REQUEST_FLAG_SEQUENCE_START",
    "TRITONSERVER_REQUEST_RELEASE_ALL",
    "TRITONSERVER_REQUEST_RELEASE_RESCHEDULE",
    "TRITONSERVER_RESPONSE_COMPLETE_FINAL",
    "TRITON_STRING_TO_NUMPY",
    "InferenceRequest",
    "InferenceResponse",
    "Logger",
    "MetricFamily",
    "ModelConfig",
    "PreferredMemory",
    "Tensor",
    "TritonError",
    "TritonModelException",
    "deserialize_bytes_tensor",
    "get_input_config_by_name",
    "get_input_tensor_by_name",
    "get_model_dir",
    "get_output_config_by_name",
    "get_output_tensor_by_name",
    "is_model_ready",
    "json",
    "load_model",
    "np",
    "numpy_to_triton_type",
    "serialize_byte_tensor",
    "struct",
    "triton_string_to_numpy",
    "triton_to_numpy_type",
    "unload_model",
    "using_decoupled_model_transaction_policy",
]


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None:
    """The input of that name, None where the request has none."""
    for tensor in inference_request.inputs():
        if tensor.name() == name:
            return tensor
    return None


def get_output_tensor_by_name(inference_response: InferenceResponse, name: str) -> Tensor | None:
    """The output of that name, None where the response has none."""
    for tensor in inference_response.output_tensors():
        if tensor.name() == name:
            return tensor
    return None


def get_model_dir() -> str:
    """The directory of the model's version."""
    return current().directory


def triton_string_to_numpy(triton_type_string: str) -> Any:
    """The type of numpy for a `TYPE_…`. Raises `KeyError` for BF16, which numpy has not."""
    return TRITON_STRING_TO_NUMPY[triton_type_string]


def triton_to_numpy_type(data_type: int) -> Any:
    """The type of numpy for the number of a datatype (`Tensor.triton_dtype`), None where there is none."""
    return _NUMPY[data_type] if 0 < data_type < len(_NUMPY) else None


def numpy_to_triton_type(data_type: Any) -> int | None:
    """The number of the datatype for a type of numpy's, None where there is none."""
    for number, known in enumerate(_NUMPY):
        if number and data_type == known:
            return number
    return len(_NUMPY) - 1 if data_type == np.bytes_ else None


def serialize_byte_tensor(input_tensor: NDArray[Any]) -> bytes | tuple[()] | None:
    """The elements of an array of bytes or objects, each behind its length; `()` of none, None of other arrays."""
    if input_tensor.size == 0:
        return ()
    return encode(input_tensor) if input_tensor.dtype.kind in "OS" else None


def deserialize_bytes_tensor(encoded_tensor: bytes) -> NDArray[Any]:
    """The array of bytes that was serialized, in one dimension."""
    return decode(encoded_tensor, (-1,))
