"""The kinds of backend: a table of modules, each imported when a model chooses it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Protocol, cast

from backends.config import ModelConfig
from backends.engine.command import Command
from backends.errors import InvalidRequest
from backends.model import Endpoints, Model, Models

KINDS = {
    "echo": "backends.echo",
    "kserve": "backends.kserve",
    "llamacpp": "backends.llamacpp",
    "onnxruntime": "backends.onnxruntime",
    "openai": "backends.openai",
    "python": "backends.python",
    "pytorch": "backends.pytorch",
    "sglang": "backends.sglang",
    "tensorflow": "backends.tensorflow",
    "tensorrt": "backends.tensorrt",
    "tensorrtllm": "backends.tensorrtllm",
    "transformers": "backends.transformers",
    "vllm": "backends.vllm",
}

WORKER_KINDS = frozenset({"onnxruntime", "python", "pytorch", "tensorflow", "tensorrt"})
"""Kinds whose models run in workers."""


class Kind(Protocol):
    """What the module of a kind offers."""

    def launch(self, config: ModelConfig, *, runtime_dir: str) -> Sequence[Command]:
        """What the supervisor starts, nothing where others do. Raises `InvalidRequest` naming a bad argument."""
        ...

    def connect(self, config: ModelConfig, endpoints: Endpoints, models: Models) -> Model:
        """How a server process talks to the endpoints."""
        ...


def find_kind(backend: str) -> Kind:
    """The module of a backend. Raises `InvalidRequest` naming those that exist."""
    module = KINDS.get(backend)
    if module is None:
        raise InvalidRequest(
            f"unable to find backend library for backend '{backend}', "
            "try specifying runtime on the model configuration."
        )
    return cast("Kind", importlib.import_module(module))
