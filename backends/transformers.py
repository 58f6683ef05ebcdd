"""Hugging Face transformers: `transformers serve --continuous-batching` in its own environment."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from backends.config import ModelConfig
from backends.engine.command import Command
from backends.engine.environment import interpreter
from backends.engine.instances import instances, replica_count, starts_processes
from backends.engine.replicas import EngineModel
from backends.engine.transformers_dialect import Adapter
from backends.errors import InvalidRequest
from backends.model import Capability, Endpoints, Models

_LAUNCHER = Path(__file__).parent / "engine" / "transformers_server.py"
# Its own `/v1/responses` streams without event names and whether asked to or not, so it is not offered.
_CAPABILITIES = frozenset({Capability.CHAT, Capability.COMPLETIONS})


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Options of `transformers serve`, by their names; `model` is a path in the version directory or a hub name.

    `max_inflight_requests` is ours: how many the gateway sends at once, for the engine takes any number.
    """

    model: str
    max_inflight_requests: int = 16
    device: str = "auto"
    dtype: str = "auto"
    attn_implementation: str | None = None
    quantization: str | None = None
    compile: bool = False
    reasoning: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    trust_remote_code: bool = False
    cb_block_size: int | None = None
    cb_num_blocks: int | None = None
    cb_max_batch_tokens: int | None = None
    cb_max_memory_percent: float | None = None
    cb_use_cuda_graph: bool | None = None
    default_seed: int | None = None


def launch(config: ModelConfig, *, runtime_dir: str) -> Sequence[Command]:
    """One `transformers serve` an instance.

    Raises `InvalidRequest` for a wrong argument, `Unavailable` without its environment.
    """
    arguments = _arguments(config)
    if not starts_processes(config):
        return []
    path = Path(config.path) / arguments.model
    model = str(path) if path.exists() else arguments.model
    options = ["--continuous-batching"]
    for key, value in msgspec.to_builtins(arguments).items():
        if key not in {"model", "max_inflight_requests"}:
            options.append(_flag(key.replace("_", "-"), value))
    python = interpreter("transformers")
    env = {"HF_HUB_OFFLINE": "1"} if path.exists() else {}
    return [
        Command(
            # -P: the launcher's own folder must not be searched for modules.
            argv=(python, "-P", str(_LAUNCHER), instance.socket, config.name, model, *options),
            address=f"unix:{instance.socket}",
            env={key: value for key, value in env.items() if key not in os.environ} | dict(instance.env),
            metrics=None,
            context_length=_context_length(path),
        )
        for instance in instances(config, runtime_dir)
    ]


def connect(config: ModelConfig, endpoints: Endpoints, models: Models) -> EngineModel:  # noqa: ARG001  # every kind's
    """A model that `transformers serve` serves."""
    parallelism = _arguments(config).max_inflight_requests * replica_count(config, endpoints)
    return EngineModel(config, endpoints, capabilities=_CAPABILITIES, parallelism=parallelism, adapter=Adapter())


def _arguments(config: ModelConfig) -> Arguments:
    given = config.arguments if starts_processes(config) else {"model": "", **config.arguments}
    try:
        arguments = msgspec.convert(given, Arguments)
    except msgspec.ValidationError as error:
        known = ", ".join(Arguments.__struct_fields__)
        raise InvalidRequest(
            f"Model {config.name!r}: the engine arguments are wrong: {error}. transformers takes {known}."
        ) from error
    if arguments.max_inflight_requests < 1:
        raise InvalidRequest(
            f"Model {config.name!r}: 'max_inflight_requests' is less than 1.", param="max_inflight_requests"
        )
    return arguments


def _flag(name: str, value: object) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={value if isinstance(value, str) else json.dumps(value)}"


def _context_length(folder: Path) -> int | None:
    """What the model's own configuration says; the engine does not tell."""
    try:
        length = json.loads((folder / "config.json").read_bytes()).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        return None
    return length if isinstance(length, int) else None
