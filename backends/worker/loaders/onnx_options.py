"""What a configuration tells onnxruntime, by the names of Triton's backend: threads, optimizations, providers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from backends.config import ModelConfig
from backends.worker.instance import LoadError

# Triton's words for the graph's optimization; anything else is all of it.
_LEVELS = {-1: "ORT_ENABLE_BASIC", 1: "ORT_ENABLE_EXTENDED", 2: "ORT_DISABLE_ALL"}
_CUDA_KEYS = (
    "cudnn_conv_algo_search", "gpu_mem_limit", "arena_extend_strategy", "cudnn_conv_use_max_workspace",
    "do_copy_in_default_stream", "use_ep_level_unified_stream",
)  # fmt: skip
_TENSORRT_KEYS = {
    "precision_mode": "",
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
_PRECISIONS = {"FP32": {}, "FP16": {"trt_fp16_enable": "1"}, "INT8": {"trt_int8_enable": "1"}}

Providers = list[tuple[str, dict[str, str]]]


def session_options(config: ModelConfig, ort: Any) -> Any:
    """The `SessionOptions` of a model. Raises `LoadError` naming a wrong value."""
    parameters = config.parameters
    options = ort.SessionOptions()
    options.intra_op_num_threads = _number(config, "intra_op_thread_count", _threads_an_instance(config))
    options.inter_op_num_threads = _number(config, "inter_op_thread_count", 0)
    if _number(config, "execution_mode", 0):
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = bool(_number(config, "enable_mem_arena", 1))
    options.enable_mem_pattern = bool(_number(config, "enable_mem_pattern", 1))
    level = _optimization(config).get("graph", {}).get("level", 0)
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS.get(level, "ORT_ENABLE_ALL"))
    # Threads that spin while they wait take the cores that server processes and other instances need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    for key, value in parameters.items():
        if key.startswith(("session.", "optimization.", "mlas.", "ep.")):
            options.add_session_config_entry(key, value)
    # 3: errors. What a model's author can do something about is raised.
    options.log_severity_level = 3
    return options


def parallel_runs(config: ModelConfig) -> int:
    """How many runs keep an instance's share of the cores busy, with the threads that one of them has."""
    share = _threads_an_instance(config)
    threads = _number(config, "intra_op_thread_count", share)
    return max(1, share // threads) if threads > 0 else 1


def providers(config: ModelConfig, device: int, available: list[str]) -> Providers:
    """The execution providers in order of preference; `device` -1 is the CPU. Raises `LoadError` for one not there."""
    accelerators = _optimization(config).get("execution_accelerators", {})
    chosen: Providers = []
    if device >= 0:
        for accelerator in accelerators.get("gpu_execution_accelerator", []):
            chosen.append(_accelerator(config, accelerator, device))
        if all(name != "CUDAExecutionProvider" for name, _ in chosen):
            chosen.append(("CUDAExecutionProvider", _cuda(config.parameters, device)))
    for accelerator in accelerators.get("cpu_execution_accelerator", []):
        chosen.append(_accelerator(config, accelerator, -1))
    for name, _ in chosen:
        if name not in available:
            raise LoadError(
                f"model '{config.name}' wants {name}, which this onnxruntime has not"
                f" (it has {', '.join(available)}): pip install onnxruntime-gpu"
            )
    chosen.append(("CPUExecutionProvider", {}))
    return chosen


def _accelerator(config: ModelConfig, accelerator: Mapping[str, Any], device: int) -> tuple[str, dict[str, str]]:
    name = accelerator.get("name", "")
    given: Mapping[str, str] = accelerator.get("parameters", {})
    match name, device >= 0:
        case "tensorrt", True:
            return "TensorrtExecutionProvider", _tensorrt(config, given, device)
        case "cuda", True:
            return "CUDAExecutionProvider", _cuda({**config.parameters, **given}, device)
        case "openvino", False:
            return "OpenVINOExecutionProvider", dict(given)
        case _:
            raise LoadError(f"unknown Execution Accelerator '{name}' is requested")


def _cuda(given: Mapping[str, str], device: int) -> dict[str, str]:
    return {"device_id": str(device)} | {key: given[key] for key in _CUDA_KEYS if key in given}


def _tensorrt(config: ModelConfig, given: Mapping[str, str], device: int) -> dict[str, str]:
    options = {"device_id": str(device)}
    for key, value in given.items():
        if key == "precision_mode":
            if value not in _PRECISIONS:
                raise LoadError(f"model '{config.name}': unsupported precision mode '{value}' is requested")
            options |= _PRECISIONS[value]
        else:
            options[_TENSORRT_KEYS.get(key, key)] = value
    return options


def _threads_an_instance(config: ModelConfig) -> int:
    """The machine's cores, divided among the instances on them."""
    instances = sum(group.count * max(1, len(group.gpus)) for group in config.instance_group) or 1
    return max(1, len(os.sched_getaffinity(0)) // instances)


def _optimization(config: ModelConfig) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(config.document or "{}").get("optimization") or {}
    return found


def _number(config: ModelConfig, key: str, default: int) -> int:
    value = config.parameters.get(key, "")
    if not value:
        return default
    try:
        return int(value)
    except ValueError as error:
        raise LoadError(f"model '{config.name}': the parameter {key} is no number: {value!r}") from error
