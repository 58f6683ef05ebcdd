"""TensorFlow SavedModels in an instance, by the signature that the configuration names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from backends.config import ModelConfig
from backends.errors import Code, InferenceError
from backends.worker.exchange import Exchange
from backends.worker.instance import Executable, LoadError
from backends.worker.loaders.array_model import ArrayModel
from backends.worker.loaders.arrays import Array
from backends.worker.loaders.completion import Signature, check, completed, library, model_file
from backends.worker.messages import Load

_FOLDER = "model.savedmodel"
_GRAPHDEF = "tensorflow_graphdef"
_TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "string": "TYPE_STRING",
}


def complete(config: ModelConfig) -> str:
    """Inputs, outputs and `max_batch_size` as the signature has them. Raises `LoadError`."""
    if config.input and config.output:
        return config.document
    _, function = _function(config, library("tensorflow", config, "tensorflow"))
    return completed(config, *_signatures(config, function))


def load(config: ModelConfig, assignment: Load, exchange: Exchange) -> Executable:
    """Load the model onto its device. Raises `LoadError`."""
    del exchange
    tensorflow = library("tensorflow", config, "tensorflow")
    _set_threads(config, tensorflow)
    device = f"/GPU:{assignment.device}" if assignment.device >= 0 else "/CPU:0"
    with tensorflow.device(device):
        model, function = _function(config, tensorflow)
    check(config, *_signatures(config, function))
    return ArrayModel(config, _TensorFlowSession(tensorflow, model, function, device))


class _TensorFlowSession:
    """A `Session` of TensorFlow. `model` is kept: its variables are gone with it."""

    def __init__(self, tensorflow: ModuleType, model: Any, function: Any, device: str) -> None:
        self._tensorflow = tensorflow
        self._model = model
        self._function = function
        self._device = device
        self._dtypes = {name: spec.dtype for name, spec in function.structured_input_signature[1].items()}

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str]) -> Sequence[Array]:
        tensorflow = self._tensorflow
        try:
            with tensorflow.device(self._device):
                given = {name: self._tensor(name, array) for name, array in feeds.items()}
                found = self._function(**given)
            return [_array(tensorflow, found[name]) for name in wanted]
        except Exception as error:  # its exceptions have no class in common but this one
            raise InferenceError(f"TensorFlow execute failure: {error}", Code.INTERNAL) from error

    def close(self) -> None:
        self._model = self._function = None

    def _tensor(self, name: str, array: Array) -> Any:
        dtype = self._dtypes[name]
        if dtype == self._tensorflow.bfloat16:
            array = array.view(dtype.as_numpy_dtype)
        return self._tensorflow.constant(array, dtype=dtype)


def _array(tensorflow: ModuleType, tensor: Any) -> Array:
    array: Array = tensor.numpy()
    array = np.asarray(array)  # a string without dimensions comes as bytes
    return array.view(np.uint16) if tensor.dtype == tensorflow.bfloat16 else array


def _function(config: ModelConfig, tensorflow: ModuleType) -> tuple[Any, Any]:
    """The loaded model and its signature's function."""
    if config.platform == _GRAPHDEF:
        raise LoadError(f"model '{config.name}' is a GraphDef, which is not served: convert it to a SavedModel")
    file = model_file(config, _FOLDER)
    tag = config.parameters.get("TF_GRAPH_TAG") or "serve"
    try:
        model = tensorflow.saved_model.load(str(file), tags=[tag])
    except Exception as error:  # as above
        raise LoadError(f"unable to load SavedModel '{file}': {error}") from error
    name = config.parameters.get("TF_SIGNATURE_DEF") or "serving_default"
    if name not in model.signatures:
        known = ", ".join(model.signatures) or "none"
        raise LoadError(f"model '{config.name}' has no signature '{name}', it has: {known}")
    return model, model.signatures[name]


def _signatures(config: ModelConfig, function: Any) -> tuple[list[Signature], list[Signature]]:
    inputs = [_signature(config, name, spec) for name, spec in function.structured_input_signature[1].items()]
    outputs = [_signature(config, name, spec) for name, spec in function.structured_outputs.items()]
    return inputs, outputs


def _signature(config: ModelConfig, name: str, spec: Any) -> Signature:
    if spec.dtype.name not in _TYPES:
        raise LoadError(f"unsupported type {spec.dtype.name} of tensor '{name}' of model '{config.name}'")
    shape = None if spec.shape.rank is None else tuple(-1 if size is None else size for size in spec.shape)
    return Signature(name, _TYPES[spec.dtype.name], shape)


def _set_threads(config: ModelConfig, tensorflow: ModuleType) -> None:
    threading = tensorflow.config.threading
    for key, set_count in (
        ("TF_NUM_INTRA_THREADS", threading.set_intra_op_parallelism_threads),
        ("TF_NUM_INTER_THREADS", threading.set_inter_op_parallelism_threads),
    ):
        if value := config.parameters.get(key):
            try:
                set_count(int(value))
            except (ValueError, RuntimeError) as error:
                raise LoadError(f"model '{config.name}': the parameter {key} is wrong: {error}") from error
