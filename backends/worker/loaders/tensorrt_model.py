"""TensorRT plans in an instance, on the GPU that it was given."""

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
from backends.worker.loaders.arrays import DTYPES, Array
from backends.worker.loaders.completion import Signature, check, completed, library, model_file
from backends.worker.messages import Load

_FILE = "model.plan"
_EXTRA = "tensorrt"
_TYPES = {
    "BOOL": "TYPE_BOOL",
    "UINT8": "TYPE_UINT8",
    "INT8": "TYPE_INT8",
    "INT32": "TYPE_INT32",
    "INT64": "TYPE_INT64",
    "HALF": "TYPE_FP16",
    "BF16": "TYPE_BF16",
    "FLOAT": "TYPE_FP32",
}


def complete(config: ModelConfig) -> str:
    """Inputs, outputs and `max_batch_size` as the plan has them. Raises `LoadError`."""
    if config.input and config.output:
        return config.document
    return completed(config, *_signatures(config, _engine(config)))


def load(config: ModelConfig, assignment: Load, exchange: Exchange) -> Executable:
    """Load the plan onto its GPU. Raises `LoadError`."""
    del exchange
    if assignment.device < 0:
        raise LoadError(f"model '{config.name}' is a TensorRT plan, which only runs on an NVIDIA GPU (KIND_GPU)")
    cuda = _Cuda(library("cuda.bindings.runtime", config, _EXTRA), assignment.device)
    engine = _engine(config)
    inputs, outputs = _signatures(config, engine)
    check(config, inputs, outputs)
    return ArrayModel(config, _TensorRTSession(cuda, engine, inputs, outputs, _profile(config, engine)))


class _TensorRTSession:
    """A `Session` of TensorRT: arrays are copied to buffers of the GPU, which grow as they have to, and back."""

    def __init__(
        self, cuda: _Cuda, engine: Any, inputs: Sequence[Signature], outputs: Sequence[Signature], profile: int
    ) -> None:
        self._cuda = cuda
        self._engine = engine
        self._context = engine.create_execution_context()
        self._context.set_optimization_profile_async(profile, cuda.stream)
        self._inputs = [signature.name for signature in inputs]
        self._dtypes = {entry.name: DTYPES[entry.data_type.removeprefix("TYPE_")] for entry in (*inputs, *outputs)}
        self._outputs = [signature.name for signature in outputs]
        self._buffers: dict[str, tuple[int, int]] = {}

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str]) -> Sequence[Array]:
        cuda, context = self._cuda, self._context
        kept = {name: np.ascontiguousarray(feeds[name]) for name in self._inputs if name in feeds}
        for name, array in kept.items():
            if not context.set_input_shape(name, array.shape):
                raise InferenceError(
                    f"input '{name}' of shape {list(array.shape)} is outside of the plan's optimization profile",
                    Code.INVALID_ARG,
                )
            cuda.upload(self._buffer(name, array.nbytes), array)
        results = {}
        for name in self._outputs:
            results[name] = np.empty(tuple(context.get_tensor_shape(name)), self._dtypes[name])
            self._buffer(name, results[name].nbytes)
        if not context.execute_async_v3(cuda.stream):
            raise InferenceError("TensorRT execute failure: the plan could not be enqueued", Code.INTERNAL)
        for name in wanted:
            cuda.download(results[name], self._buffers[name][0])
        cuda.synchronize()
        return [results[name] for name in wanted]

    def close(self) -> None:
        for address, _ in self._buffers.values():
            self._cuda.free(address)
        self._buffers.clear()

    def _buffer(self, name: str, size_bytes: int) -> int:
        address, capacity = self._buffers.get(name, (0, 0))
        if not address or capacity < size_bytes:
            if address:
                self._cuda.free(address)
            address = self._cuda.allocate(max(size_bytes, 1))
            self._buffers[name] = address, size_bytes
        self._context.set_tensor_address(name, address)
        return address


class _Cuda:
    """What of CUDA's runtime is used: memory and one stream of a device. Everything raises `InferenceError`."""

    def __init__(self, runtime: ModuleType, device: int) -> None:
        self._runtime = runtime
        self._call(runtime.cudaSetDevice, device)
        self.stream = int(self._call(runtime.cudaStreamCreate))

    def allocate(self, size_bytes: int) -> int:
        return int(self._call(self._runtime.cudaMalloc, size_bytes))

    def free(self, address: int) -> None:
        self._call(self._runtime.cudaFree, address)

    def upload(self, address: int, array: Array) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(self._runtime.cudaMemcpyAsync, address, array.ctypes.data, array.nbytes, kind, self.stream)

    def download(self, array: Array, address: int) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(self._runtime.cudaMemcpyAsync, array.ctypes.data, address, array.nbytes, kind, self.stream)

    def synchronize(self) -> None:
        self._call(self._runtime.cudaStreamSynchronize, self.stream)

    def _call(self, function: Any, *arguments: Any) -> Any:
        status, *found = function(*arguments)
        if int(status):
            raise InferenceError(f"CUDA failed in {function.__name__}: {status.name}", Code.INTERNAL)
        return found[0] if found else None


def _engine(config: ModelConfig) -> Any:
    tensorrt = library("tensorrt", config, _EXTRA)
    file = model_file(config, _FILE)
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    engine = tensorrt.Runtime(logger).deserialize_cuda_engine(file.read_bytes())
    if engine is None:
        raise LoadError(f"unable to load plan file to auto complete config: {file}")
    return engine


def _profile(config: ModelConfig, engine: Any) -> int:
    """The optimization profile that the configuration names, the first one otherwise."""
    named = next((profile for group in config.instance_group for profile in group.profile), "0")
    if not named.isdigit() or int(named) >= engine.num_optimization_profiles:
        raise LoadError(
            f"model '{config.name}' has no optimization profile {named!r}, it has {engine.num_optimization_profiles}"
        )
    return int(named)


def _signatures(config: ModelConfig, engine: Any) -> tuple[list[Signature], list[Signature]]:
    inputs: list[Signature] = []
    outputs: list[Signature] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        kind = engine.get_tensor_dtype(name).name
        if kind not in _TYPES:
            raise LoadError(f"unsupported type {kind} of tensor '{name}' of model '{config.name}'")
        side = inputs if engine.get_tensor_mode(name).name == "INPUT" else outputs
        side.append(Signature(name, _TYPES[kind], tuple(engine.get_tensor_shape(name))))
    return inputs, outputs
