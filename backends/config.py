"""A model's configuration: Triton's `config.pbtxt`, as frozen values with Triton's field names."""

from __future__ import annotations

from typing import Any

import msgspec


class InstanceGroup(msgspec.Struct, frozen=True):
    """Triton's `instance_group`: how many instances, of which kind (`KIND_AUTO`, `KIND_CPU`, …), on which GPUs."""

    count: int = 1
    kind: str = "KIND_AUTO"
    gpus: tuple[int, ...] = ()


class ModelConfig(msgspec.Struct, frozen=True):
    """One version of one model, as the supervisor read it and as server processes receive it.

    Fields up to `parameters` are Triton's. `parameters` maps each key to its `string_value`. `version` is the
    version directory's number, `path` that directory (absolute), `arguments` the decoded JSON object of the
    engine-argument file in it (`default_model_filename`, else `model.json`), empty when there is none.
    """

    name: str
    backend: str
    platform: str = ""
    max_batch_size: int = 0
    default_model_filename: str = ""
    instance_group: tuple[InstanceGroup, ...] = ()
    parameters: dict[str, str] = {}
    version: int = 1
    path: str = ""
    arguments: dict[str, Any] = {}
