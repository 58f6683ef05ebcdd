"""gRPC calls in their order to a server in explicit mode that was started with `simple` alone."""

from __future__ import annotations

import json
from typing import Any

from tritonclient.grpc import service_pb2 as messages

from tests.conformance.grpc_calls import Call
from tests.conformance.grpc_requests import addsub, floats, infer

_CONFIG = {
    "name": "identity_fp32",
    "backend": "python",
    "max_batch_size": 2,
    "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
    "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
    "instance_group": [{"kind": "KIND_CPU", "count": 1}],
}
_MODEL = b"""
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        found = [pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", each * 2)]) for each in found]
"""


def explicit_cases() -> list[Call]:
    """Each call depends on those before it."""
    calls = [
        _ready("simple"),
        _ready("double_i32"),
        _index("before"),
        _index("before", ready=True),
        _infer("simple", "at the start"),
        _infer("versioned_all", "before it is loaded"),
        _load("nope"),
        _load(""),
        _load("broken_cfg"),
        _load("broken_init"),
        _load("unknown_backend"),
        _load("no_version"),
        _load("wrong_name"),
        _load("ens_missing"),
        _index("after loads that failed"),
        _load("versioned_all"),
        _infer("versioned_all", "of version 2", model_version="2"),
        _load("versioned_all", "again"),
        _unload("versioned_all"),
        _infer("versioned_all", "after it is unloaded"),
        _infer("versioned_all", "of version 2 after it is unloaded", model_version="2"),
        _ready("versioned_all", "after it is unloaded"),
        _unload("versioned_all", "again"),
        _unload("nope"),
        _unload(""),
        _load("ens_addsub_double"),
        _index("with an ensemble", ready=True),
        _unload("ens_addsub_double"),
        _index("without its ensemble", ready=True),
        _load("ens_addsub_double", "again"),
        _unload("ens_addsub_double", "with its parts", dependents=True),
        _index("without its ensemble and its parts", ready=True),
        _load("identity_fp32"),
        _load("identity_fp32", "with a configuration", config=json.dumps(_CONFIG)),
        Call("its configuration", "ModelConfig", [messages.ModelConfigRequest(name="identity_fp32")]),
        _load("identity_fp32", "with a configuration that is no JSON", config="{"),
        _load("identity_fp32", "with an empty configuration", config="{}"),
        _load("identity_fp32", "with files alone", files={"1/model.py": _MODEL}),
        _load("identity_fp32", "with a file without a name", config=json.dumps(_CONFIG), files={"": _MODEL}),
        _load(
            "identity_fp32", "with a configuration and files", config=json.dumps(_CONFIG), files={"1/model.py": _MODEL}
        ),
        Call(
            "an inference by the file that was sent",
            "ModelInfer",
            [infer("identity_fp32", ("INPUT0", "FP32", (1, 2), floats(1, 2)))],
        ),
        _load("identity_fp32", "as it lies in the repository"),
        Call(
            "an inference by the file of the repository",
            "ModelInfer",
            [infer("identity_fp32", ("INPUT0", "FP32", (1, 2), floats(1, 2)))],
        ),
        _unload("simple"),
        _infer("simple", "after it is unloaded"),
    ]
    names = [call.name for call in calls]
    assert len(set(names)) == len(names)
    return calls


def _load(model: str, how: str = "", *, config: str = "", files: dict[str, bytes] | None = None) -> Call:
    request = messages.RepositoryModelLoadRequest(model_name=model)
    if config:
        request.parameters["config"].string_param = config
    for path, data in (files or {}).items():
        request.parameters[f"file:{path}"].bytes_param = data
    return Call(f"loading {model!r} {how}".rstrip(), "RepositoryModelLoad", [request])


def _unload(model: str, how: str = "", *, dependents: bool = False) -> Call:
    request = messages.RepositoryModelUnloadRequest(model_name=model)
    if dependents:
        request.parameters["unload_dependents"].bool_param = True
    return Call(f"unloading {model!r} {how}".rstrip(), "RepositoryModelUnload", [request])


def _index(when: str, *, ready: bool = False) -> Call:
    name = f"the index {when}{', of what is ready' if ready else ''}"
    return Call(name, "RepositoryIndex", [messages.RepositoryIndexRequest(ready=ready)])


def _ready(model: str, when: str = "") -> Call:
    return Call(f"whether {model!r} is ready {when}".rstrip(), "ModelReady", [messages.ModelReadyRequest(name=model)])


def _infer(model: str, what: str, **fields: Any) -> Call:
    return Call(f"an inference of {model!r} {what}", "ModelInfer", [addsub(model, **fields)])
