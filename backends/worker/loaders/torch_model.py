"""PyTorch models in an instance: TorchScript (`model.pt`) and `torch.export` (`model.pt2`), by Triton's conventions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from backends.config import ModelConfig
from backends.errors import Code, InferenceError
from backends.worker.exchange import Exchange
from backends.worker.instance import Executable, LoadError
from backends.worker.loaders.array_model import ArrayModel
from backends.worker.loaders.arrays import Array
from backends.worker.loaders.completion import Signature, completed, library, model_file
from backends.worker.messages import Load

_SCRIPT = "model.pt"
_EXPORTED = "model.pt2"
_INDEXED = re.compile(r".+__(\d+)")
_TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
}


def complete(config: ModelConfig) -> str:
    """Inputs and outputs as an exported program has them; a script does not know its own. Raises `LoadError`."""
    file = _file(config)
    if (config.input and config.output) or file.suffix != ".pt2":
        return config.document
    return completed(config, *_signatures(config, _exported(_torch(config), file)))


def load(config: ModelConfig, assignment: Load, exchange: Exchange) -> Executable:
    """Load the model onto its device. Raises `LoadError`."""
    del exchange
    if not config.input or not config.output:
        raise LoadError(f"model '{config.name}' must have its inputs and outputs in its configuration")
    torch = _torch(config)
    _set_options(config, torch)
    device = f"cuda:{assignment.device}" if assignment.device >= 0 else "cpu"
    file = _file(config)
    arguments: list[str]
    if file.suffix == ".pt2":
        program = _exported(torch, file)
        module = program.module().to(device)
        arguments = list(program.graph_signature.user_inputs)
    else:
        module = _script(torch, config, file, device)
        arguments = [argument.name for argument in module.forward.schema.arguments[1:]]
    return ArrayModel(config, _TorchSession(torch, config, module, device, arguments))


class _TorchSession:
    """A `Session` of PyTorch: arrays become tensors over the same memory, and back."""

    def __init__(
        self, torch: ModuleType, config: ModelConfig, module: Any, device: str, arguments: Sequence[str]
    ) -> None:
        self._torch = torch
        self._module = module
        self._device = device
        self._inputs = _ordered(config, arguments)
        self._outputs = _indexed([entry.name for entry in config.output])
        types = {entry.name: entry.data_type for entry in config.input}
        types |= {entry.name: entry.data_type for entry in config.output}
        self._halves = {name for name, data_type in types.items() if data_type == "TYPE_BF16"}
        self._is_inference = config.parameters.get("INFERENCE_MODE", "true").lower() == "true"
        self._is_optimized = config.parameters.get("DISABLE_OPTIMIZED_EXECUTION", "false").lower() != "true"

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str]) -> Sequence[Array]:
        torch = self._torch
        try:
            with torch.inference_mode(self._is_inference), torch.jit.optimized_execution(self._is_optimized):
                given = [self._tensor(name, feeds[name]) for name in self._inputs if name in feeds]
                found = self._module(*given)
                # A list of strings is one output, any other list one of outputs.
                is_one = not isinstance(found, tuple | list) or any(isinstance(each, str) for each in found)
                results = (found,) if is_one else found
                return [self._array(name, results[self._outputs[name]]) for name in wanted]
        except Exception as error:  # PyTorch raises nothing more exact
            raise InferenceError(f"PyTorch execute failure: {error}", Code.INTERNAL) from error

    def close(self) -> None:
        self._module = None

    def _tensor(self, name: str, array: Array) -> Any:
        if array.dtype == object:
            return [element.decode() for element in array.flat]
        torch = self._torch
        tensor = torch.from_numpy(np.require(array, requirements="W"))
        return (tensor.view(torch.bfloat16) if name in self._halves else tensor).to(self._device)

    def _array(self, name: str, result: Any) -> Array:
        if isinstance(result, list):  # strings
            made = np.empty(len(result), dtype=object)
            made[:] = result
            return made
        torch = self._torch
        tensor = result.detach().to("cpu").contiguous()
        found: Array = (tensor.view(torch.uint16) if name in self._halves else tensor).numpy()
        return found


def _ordered(config: ModelConfig, arguments: Sequence[str]) -> list[str]:
    """The inputs in the order of the model's arguments.

    Cases: all have the arguments' names; all end in `__` and their places; neither, which is refused as Triton does.
    """
    names = [entry.name for entry in config.input]
    names += [control.name for control in config.sequence_batching.control_input] if config.sequence_batching else []
    if set(names) <= set(arguments):
        return [name for name in arguments if name in names]
    places = _indexed(names, config.name)
    return sorted(names, key=places.__getitem__)


def _indexed(names: Sequence[str], model: str = "") -> dict[str, int]:
    """Places by name: those that the names say (`OUTPUT__0`), or the order of the configuration where none does."""
    matches = [_INDEXED.fullmatch(name) for name in names]
    if all(matches):
        return {name: int(match[1]) for name, match in zip(names, matches, strict=True) if match}
    if model:
        raise LoadError(
            f"PyTorch model '{model}' is using sequence of inputs {', '.join(names)}, which are neither its arguments'"
            " names nor follow <name>__<index>"
        )
    return {name: index for index, name in enumerate(names)}


def _torch(config: ModelConfig) -> ModuleType:
    return library("torch", config, "pytorch")


def _file(config: ModelConfig) -> Path:
    exported = Path(config.path) / _EXPORTED
    if config.default_model_filename in {"", _SCRIPT} and exported.exists():
        return exported
    return model_file(config, _SCRIPT)


def _script(torch: ModuleType, config: ModelConfig, file: Path, device: str) -> Any:
    try:
        module = torch.jit.load(str(file), map_location=device)
    except Exception as error:  # as above
        raise LoadError(f"failed to load model '{config.name}': {error}") from error
    module.eval()
    return module


def _exported(torch: ModuleType, file: Path) -> Any:
    try:
        return torch.export.load(str(file))
    except Exception as error:  # as above
        raise LoadError(f"failed to load '{file}': {error}") from error


def _signatures(config: ModelConfig, program: Any) -> tuple[list[Signature], list[Signature]]:
    """What an exported program takes and gives; outputs have no names of their own and are called by their places."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    signature = program.graph_signature
    inputs = [_signature(config, name, values[name]) for name in signature.user_inputs]
    outputs = [
        _signature(config, f"OUTPUT__{index}", values[name]) for index, name in enumerate(signature.user_outputs)
    ]
    return inputs, outputs


def _signature(config: ModelConfig, name: str, value: Any) -> Signature:
    kind = str(getattr(value, "dtype", "")).removeprefix("torch.")
    if kind not in _TYPES:
        raise LoadError(f"model '{config.name}': '{name}' is of type {kind or type(value).__name__}, not supported")
    return Signature(name, _TYPES[kind], tuple(size if isinstance(size, int) else -1 for size in value.shape))


def _set_options(config: ModelConfig, torch: ModuleType) -> None:
    """Threads, by the parameters of Triton's backend."""
    given = config.parameters
    for key, set_count in (
        ("INTRA_OP_THREAD_COUNT", torch.set_num_threads),
        ("INTER_OP_THREAD_COUNT", torch.set_num_interop_threads),
    ):
        if value := given.get(key):
            try:
                set_count(int(value))
            except (ValueError, RuntimeError) as error:
                raise LoadError(f"model '{config.name}': the parameter {key} is wrong: {error}") from error
