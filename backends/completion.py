"""What Triton's core adds to a configuration: backend and file names told by the model's files, and its defaults.

It works on the fields as Triton's JSON has them; validation.py judges the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backends import interface

Fields = dict[str, Any]

DEFAULT_FILENAMES: Mapping[str, str] = {
    "python": "model.py",
    "onnxruntime": "model.onnx",
    "pytorch": "model.pt",
    "tensorflow": "model.savedmodel",
    "tensorrt": "model.plan",
}
"""The backends that run in workers, and what a version's model is called where the configuration does not say."""

_GRAPHDEF = ("tensorflow_graphdef", "model.graphdef")
_PLATFORM_OF_BACKEND = {
    "onnxruntime": "onnxruntime_onnx",
    "pytorch": "pytorch_libtorch",
    "tensorflow": "tensorflow_savedmodel",
    "tensorrt": "tensorrt_plan",
}
_BACKEND_OF_PLATFORM = {platform: backend for backend, platform in _PLATFORM_OF_BACKEND.items()} | {
    _GRAPHDEF[0]: "tensorflow"
}
# Which backend is asked for first where several models lie in one version, as Triton has it.
_ORDER = ("tensorflow", "tensorrt", "onnxruntime", "pytorch", "python")
_IDLE_MICROSECONDS = 1_000_000
# Backends of which the CPU runs two instances where the configuration says nothing.
_TWO_ON_THE_CPU = frozenset({"tensorflow", "onnxruntime"})


def complete(fields: Fields, name: str, version: Path | None, gpus: Sequence[int]) -> None:
    """Fill in what a configuration leaves out. `version` is the first version's directory, None without one.

    What the model itself knows (its tensors) an instance adds afterwards. Completing twice changes nothing.
    """
    fields["name"] = fields["name"] or name
    _complete_backend(fields, version)
    interface.complete(fields)
    fields.setdefault("version_policy", {"latest": {"num_versions": 1}})
    latest = fields["version_policy"].get("latest")
    if latest is not None:
        latest["num_versions"] = latest.get("num_versions") or 1
    _complete_batching(fields)
    if "ensemble_scheduling" in fields:
        if not fields["ensemble_scheduling"].get("max_inflight_requests"):
            fields["ensemble_scheduling"].pop("max_inflight_requests", None)  # unset, it is in no answer of Triton's
    else:
        _complete_optimization(fields)
        _complete_groups(fields, gpus)


def agree(backend: str, platform: str) -> bool:
    """Whether a platform is not another backend's. Backends without a platform of Triton's may have any."""
    return backend not in _PLATFORM_OF_BACKEND or _BACKEND_OF_PLATFORM.get(platform, backend) == backend


def _complete_backend(fields: Fields, version: Path | None) -> None:
    """Platform, backend and file name, each from the others, or from what lies in the version's directory."""
    if fields["platform"] == "ensemble" or "ensemble_scheduling" in fields:
        return
    backend = fields["backend"] or _BACKEND_OF_PLATFORM.get(fields["platform"], "")
    if not backend and not fields["platform"]:
        backend = next((kind for kind in _ORDER if _tells(kind, fields["default_model_filename"], version)), "")
    fields["backend"] = backend
    if backend == "tensorflow" and not fields["platform"] and _is_graphdef(fields["default_model_filename"], version):
        fields["platform"] = _GRAPHDEF[0]
    if not fields["platform"]:
        fields["platform"] = _PLATFORM_OF_BACKEND.get(backend, "")
    if not fields["default_model_filename"]:
        is_graphdef = fields["platform"] == _GRAPHDEF[0]
        fields["default_model_filename"] = _GRAPHDEF[1] if is_graphdef else DEFAULT_FILENAMES.get(backend, "")


def _tells(backend: str, filename: str, version: Path | None) -> bool:
    """Whether a file's name says that this backend is meant."""
    names = (DEFAULT_FILENAMES[backend], _GRAPHDEF[1]) if backend == "tensorflow" else (DEFAULT_FILENAMES[backend],)
    if filename:
        return filename in names
    return version is not None and any((version / name).exists() for name in names)


def _is_graphdef(filename: str, version: Path | None) -> bool:
    if filename:
        return filename == _GRAPHDEF[1]
    return version is not None and (version / _GRAPHDEF[1]).is_file()


def _complete_batching(fields: Fields) -> None:
    largest = fields["max_batch_size"]
    sequences = fields.get("sequence_batching")
    for batching in (fields.get("dynamic_batching"), (sequences or {}).get("oldest")):
        if batching is not None and not batching["preferred_batch_size"] and largest > 0:
            batching["preferred_batch_size"] = [largest]
    if sequences is not None and not sequences["max_sequence_idle_microseconds"]:
        sequences["max_sequence_idle_microseconds"] = _IDLE_MICROSECONDS


def _complete_optimization(fields: Fields) -> None:
    optimization = fields.setdefault(
        "optimization",
        {"priority": "PRIORITY_DEFAULT", "gather_kernel_buffer_threshold": 0, "eager_batching": False},
    )
    for side in ("input_pinned_memory", "output_pinned_memory"):
        optimization.setdefault(side, {"enable": True})


def _complete_groups(fields: Fields, gpus: Sequence[int]) -> None:
    groups = fields["instance_group"]
    if not groups:
        groups.append(_group(fields["name"]))
    for number, group in enumerate(groups):
        group["name"] = group["name"] or f"{fields['name']}_{number}"
        if group["kind"] == "KIND_AUTO":
            group["kind"] = "KIND_GPU" if gpus else "KIND_CPU"
        if group["count"] < 1:
            group["count"] = 2 if group["kind"] == "KIND_CPU" and fields["backend"] in _TWO_ON_THE_CPU else 1
        if group["kind"] == "KIND_GPU" and not group["gpus"]:
            group["gpus"] = list(gpus)


def _group(name: str) -> Fields:
    return {
        "name": name,
        "kind": "KIND_AUTO",
        "count": 0,
        "gpus": [],
        "secondary_devices": [],
        "profile": [],
        "passive": False,
        "host_policy": "",
    }
