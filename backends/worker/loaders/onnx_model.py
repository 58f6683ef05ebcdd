"""ONNX models in an instance: onnxruntime with the parameters of Triton's backend for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backends.config import ModelConfig
from backends.errors import Code, InferenceError
from backends.worker.exchange import Exchange
from backends.worker.instance import Executable, LoadError
from backends.worker.loaders import text_model
from backends.worker.loaders.array_model import ArrayModel
from backends.worker.loaders.arrays import Array
from backends.worker.loaders.completion import Signature, check, completed, library, model_file
from backends.worker.loaders.onnx_options import parallel_runs, providers, session_options
from backends.worker.messages import Load

_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}


def complete(config: ModelConfig) -> str:
    """Inputs, outputs and `max_batch_size` as the model file has them. Raises `LoadError`."""
    if config.input and config.output:
        return config.document
    session = _session(config, -1)
    inputs, outputs = _signatures(config, session.get_inputs()), _signatures(config, session.get_outputs())
    if (text := text_model.declared(config)) is not None:
        return text_model.completed(config, text, outputs)
    return completed(config, inputs, outputs)


def load(config: ModelConfig, assignment: Load, exchange: Exchange) -> Executable:
    """Load the model onto its device. Raises `LoadError`."""
    session = _session(config, assignment.device if assignment.kind == "KIND_GPU" else -1)
    inputs, outputs = _signatures(config, session.get_inputs()), _signatures(config, session.get_outputs())
    if (text := text_model.declared(config)) is not None:
        parallel = parallel_runs(config) if assignment.kind != "KIND_GPU" else 1
        return text_model.TextModel(
            config, text, _OnnxSession(session, config, parallel), inputs, outputs, exchange.send
        )
    check(config, inputs, outputs)
    return ArrayModel(config, _OnnxSession(session, config))


class _OnnxSession:
    """A `Session` of onnxruntime. Feeds are used where they are, outputs are arrays over its own memory."""

    def __init__(self, session: Any, config: ModelConfig, parallel: int = 1) -> None:
        self.parallel = parallel
        self._session = session
        self._strings = frozenset(entry.name for entry in session.get_inputs() if entry.type == "tensor(string)")
        self._options = _run_options(config)

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str]) -> Sequence[Array]:
        if self._strings:
            feeds = {name: _decoded(name, array) if name in self._strings else array for name, array in feeds.items()}
        try:
            found: Sequence[Array] = self._session.run(wanted, feeds, self._options)
        except Exception as error:  # its exceptions have no class in common but this one
            raise InferenceError(f"onnx runtime error: {error}", Code.INTERNAL) from error
        return found

    def close(self) -> None:
        self._session = None


def _session(config: ModelConfig, device: int) -> Any:
    onnxruntime = library("onnxruntime", config, "onnxruntime")
    file = model_file(config, "model.onnx")
    try:
        return onnxruntime.InferenceSession(
            str(file),
            session_options(config, onnxruntime),
            providers=providers(config, device, onnxruntime.get_available_providers()),
        )
    except LoadError:
        raise
    except Exception as error:  # as above
        raise LoadError(f"onnx runtime error: {error}") from error


def _run_options(config: ModelConfig) -> Any:
    shrinking = config.parameters.get("memory.enable_memory_arena_shrinkage")
    if not shrinking:
        return None
    options = library("onnxruntime", config, "onnxruntime").RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", shrinking)
    return options


def _signatures(config: ModelConfig, entries: Sequence[Any]) -> list[Signature]:
    found = []
    for entry in entries:
        if entry.type not in _TYPES:
            raise LoadError(f"unsupported type {entry.type} of tensor '{entry.name}' of model '{config.name}'")
        shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in entry.shape)
        found.append(Signature(entry.name, _TYPES[entry.type], shape))
    return found


def _decoded(name: str, array: Array) -> Array:
    """Strings as onnxruntime takes them."""
    found = np.empty(array.size, dtype=object)
    try:
        found[:] = [element.decode() for element in array.flat]
    except UnicodeDecodeError as error:
        raise InferenceError(f"input '{name}' is not UTF-8: {error}", Code.INVALID_ARG) from error
    return found.reshape(array.shape)
