"""Configurations and what a model file itself says: the one completed from, and held to, the other, as Triton does."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from backends.config import Input, ModelConfig, Output
from backends.worker.instance import LoadError


@dataclass(frozen=True, slots=True)
class Signature:
    """An input or output of a model file: `data_type` is Triton's, -1 in `shape` any size, None an unknown rank."""

    name: str
    data_type: str
    shape: tuple[int, ...] | None


def completed(config: ModelConfig, inputs: Sequence[Signature], outputs: Sequence[Signature]) -> str:
    """Triton's JSON of the configuration with the inputs and outputs it lacks, and a batch size where it has none."""
    document: dict[str, Any] = json.loads(config.document)
    if config.input and config.output:
        return config.document
    if not config.max_batch_size and _takes_batches([*inputs, *outputs]):
        document["max_batch_size"] = config.default_max_batch_size
    is_batched = document.get("max_batch_size", 0) > 0
    if document.get("max_batch_size", 0) > 1 and not _has_scheduler(config):
        document["dynamic_batching"] = dynamic_batching()
    if not config.input:
        document["input"] = [input_document(*_entry(signature, is_batched)) for signature in inputs]
    if not config.output:
        document["output"] = [output_document(*_entry(signature, is_batched)) for signature in outputs]
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def check(config: ModelConfig, inputs: Sequence[Signature], outputs: Sequence[Signature]) -> None:
    """Hold a configuration to what the model file says. Raises `LoadError` in Triton's words."""
    generated = {control.name for control in _controls(config)} | {state.input_name for state in _states(config)}
    expected = len(config.input) + len(config.batch_input) + len(generated)
    if expected != len(inputs) and not any(entry.optional for entry in config.input):
        raise LoadError(
            f"unable to load model '{config.name}', configuration expects {expected} inputs,"
            f" model provides {len(inputs)}"
        )
    _check_side(config, "input", config.input, inputs)
    _check_side(config, "output", config.output, outputs)


def dynamic_batching() -> dict[str, Any]:
    """Triton's JSON of a dynamic batcher that nothing more is said of."""
    return {
        "preferred_batch_size": [],
        "max_queue_delay_microseconds": 0,
        "preserve_ordering": False,
        "priority_levels": 0,
        "default_priority_level": 0,
        "priority_queue_policy": {},
    }


def input_document(name: str, data_type: str, dims: Sequence[int], reshape: Sequence[int] | None) -> dict[str, Any]:
    """Triton's JSON of an input."""
    document: dict[str, Any] = {"name": name, "data_type": data_type, "format": "FORMAT_NONE", "dims": list(dims)}
    if reshape is not None:
        document["reshape"] = {"shape": list(reshape)}
    flags = ("is_shape_tensor", "allow_ragged_batch", "optional", "is_non_linear_format_io")
    return document | dict.fromkeys(flags, False)


def output_document(name: str, data_type: str, dims: Sequence[int], reshape: Sequence[int] | None) -> dict[str, Any]:
    """Triton's JSON of an output."""
    document: dict[str, Any] = {"name": name, "data_type": data_type, "dims": list(dims)}
    if reshape is not None:
        document["reshape"] = {"shape": list(reshape)}
    return document | {"label_filename": "", "is_shape_tensor": False, "is_non_linear_format_io": False}


def _entry(signature: Signature, is_batched: bool) -> tuple[str, str, tuple[int, ...], tuple[int, ...] | None]:
    """Name, type, dimensions and reshape; a scalar is one element to the protocol, which knows no empty shapes."""
    shape = signature.shape or ()
    dims = shape[1:] if is_batched else shape
    return (
        (signature.name, signature.data_type, dims, None) if dims else (signature.name, signature.data_type, (1,), ())
    )


def _takes_batches(signatures: Sequence[Signature]) -> bool:
    return all(signature.shape and signature.shape[0] == -1 for signature in signatures)


def _has_scheduler(config: ModelConfig) -> bool:
    return config.dynamic_batching is not None or config.sequence_batching is not None


def _controls(config: ModelConfig) -> Sequence[Any]:
    return config.sequence_batching.control_input if config.sequence_batching is not None else ()


def _states(config: ModelConfig) -> Sequence[Any]:
    return config.sequence_batching.state if config.sequence_batching is not None else ()


def _check_side(
    config: ModelConfig, side: str, entries: Sequence[Input] | Sequence[Output], signatures: Sequence[Signature]
) -> None:
    found = {signature.name: signature for signature in signatures}
    for entry in entries:
        signature = found.get(entry.name)
        if signature is None:
            allowed = ", ".join(sorted(found))
            raise LoadError(f"unexpected inference {side} '{entry.name}', allowed {side}s are: {allowed}")
        if entry.data_type != signature.data_type:
            raise LoadError(
                f"unable to load model '{config.name}', unexpected datatype {entry.data_type} for inference {side}"
                f" '{entry.name}', expecting {signature.data_type}"
            )
        is_ragged = isinstance(entry, Input) and entry.allow_ragged_batch
        if signature.shape is not None and not is_ragged:
            dims = entry.dims if entry.reshape is None else entry.reshape.shape
            _check_dims(config, entry.name, dims, signature.shape)


def _check_dims(config: ModelConfig, name: str, dims: tuple[int, ...], shape: tuple[int, ...]) -> None:
    is_batched = config.max_batch_size > 0
    whole = (-1, *dims) if is_batched else dims
    # A batch is any size, so the model's first dimension has to be; elsewhere either side may leave it open.
    fits = len(whole) == len(shape) and all(a == b or -1 in {a, b} for a, b in zip(whole, shape, strict=True))
    if fits and not (is_batched and shape[0] != -1):
        return
    if not is_batched:
        raise LoadError(
            f"model '{config.name}', tensor '{name}': the model expects {len(shape)} dimensions (shape {_shown(shape)})"
            f" but the model configuration specifies {len(whole)} dimensions (shape {_shown(whole)})"
        )
    raise LoadError(
        f"model '{config.name}', tensor '{name}': the model expects {len(shape)} dimensions (shape {_shown(shape)}) but"
        f" the model configuration specifies {len(whole)} dimensions (an initial batch dimension because max_batch_size"
        f" > 0 followed by the explicit tensor shape, making complete shape {_shown(whole)})"
    )


def _shown(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def library(name: str, config: ModelConfig, extra: str) -> ModuleType:
    """The library that runs a model, imported now. Raises `LoadError` that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LoadError(
            f"model '{config.name}' needs {name}, which cannot be imported ({error}): pip install 'tritium[{extra}]'"
        ) from error


def model_file(config: ModelConfig, usual: str) -> Path:
    """The file of a version, or the folder that stands for it. Raises `LoadError` where there is none."""
    path = Path(config.path) / (config.default_model_filename or usual)
    if not path.exists():
        raise LoadError(f"unable to find '{path}' for model instance '{config.name}'")
    # External weights need a folder, in which the model has the folder's name.
    nested = path / path.name
    return nested if nested.is_file() else path
