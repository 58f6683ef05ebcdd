"""SGLang: `python -m sglang.launch_server` in its own environment, or one by URL."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backends.config import ModelConfig
from backends.engine.command import Command
from backends.engine.environment import interpreter
from backends.engine.flags import Flags, positive, with_local_paths
from backends.engine.instances import instances, replica_count, starts_processes
from backends.engine.load import METRICS_PATHS
from backends.engine.loopback import loopback_ports
from backends.engine.replicas import EngineModel
from backends.engine.sglang_arguments import BOOLEANS, LISTS, RESERVED, SWITCHES, VALUES
from backends.engine.sglang_dialect import Adapter
from backends.errors import InvalidRequest
from backends.model import Capability, Endpoints, Models

_FLAGS = Flags("SGLang", VALUES, booleans=BOOLEANS, switches=SWITCHES, lists=LISTS, reserved=RESERVED)
# Kernels are compiled at its first start, and weights may have to come from a hub first.
_START_TIMEOUT_SECONDS = 1800.0

# What the gateway relies on: its parallelism, its load, and what of a prompt was cached. A model's own arguments win.
_DEFAULTS: dict[str, Any] = {"max_running_requests": 256, "enable_metrics": True, "enable_cache_report": True}
# Both names are SGLang's.
_OURS = frozenset({"model", "model_path", "port"})
_PATHS = ("model_path", "tokenizer_path", "chat_template", "config")

_GENERATE = frozenset({Capability.CHAT, Capability.COMPLETIONS})
_EMBED = frozenset({Capability.EMBEDDINGS})


def launch(config: ModelConfig, *, runtime_dir: str) -> Sequence[Command]:
    """One SGLang server an instance, on a loopback port.

    Raises `InvalidRequest` for an argument that it has not, `Unavailable` without its environment.
    """
    arguments = _arguments(config)
    if not starts_processes(config):
        return []
    arguments = with_local_paths(config, arguments, _PATHS)
    arguments.pop("port", None)
    # Without it, starting from local files still asks the hub about them.
    env = {"HF_HUB_OFFLINE": "1"} if Path(arguments["model_path"]).is_absolute() else {}
    argv = [interpreter("sglang"), "-m", "sglang.launch_server", "--host=127.0.0.1"]
    argv.append(f"--served-model-name={config.name}")
    for key, value in arguments.items():
        argv.extend(_FLAGS.render(key, value))
    length = arguments.get("context_length")
    found = instances(config, runtime_dir)
    return [
        Command(
            argv=(*argv, f"--port={port}"),
            address=f"http://127.0.0.1:{port}",
            env={key: value for key, value in env.items() if key not in os.environ} | dict(instance.env),
            metrics=METRICS_PATHS["sglang"],
            start_timeout_seconds=_START_TIMEOUT_SECONDS,
            context_length=length if isinstance(length, int) and length > 0 else None,
        )
        for instance, port in zip(found, loopback_ports(config, runtime_dir, len(found)), strict=True)
    ]


def connect(config: ModelConfig, endpoints: Endpoints, models: Models) -> EngineModel:  # noqa: ARG001  # every kind's
    """A model that SGLang serves."""
    arguments = _arguments(config)
    return EngineModel(
        config,
        endpoints,
        capabilities=_EMBED if arguments.get("is_embedding") else _GENERATE,
        parallelism=arguments["max_running_requests"] * replica_count(config, endpoints),
        adapter=Adapter(),
    )


def _arguments(config: ModelConfig) -> dict[str, Any]:
    """The model's arguments, checked by name, over our defaults; `model` is `model_path`."""
    arguments = _DEFAULTS | _FLAGS.check(config, ours=_OURS)
    if "model" in arguments:
        arguments.setdefault("model_path", arguments.pop("model"))
    if starts_processes(config) and not isinstance(arguments.get("model_path"), str):
        raise InvalidRequest(
            f"Model {config.name!r}: the engine argument 'model_path' names no weights.", param="model_path"
        )
    positive(config, "max_running_requests", arguments["max_running_requests"])
    return arguments
