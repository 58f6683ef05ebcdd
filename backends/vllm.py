"""vLLM: `vllm serve` in its own environment, with engine arguments in the form of Triton's vLLM backend."""

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
from backends.engine.replicas import EngineModel
from backends.engine.vllm_arguments import BOOLEANS, LISTS, REPEATED, RESERVED, SWITCHES, VALUES
from backends.engine.vllm_dialect import Adapter
from backends.errors import InvalidRequest
from backends.model import Capability, Endpoints, Models

_FLAGS = Flags("vLLM", VALUES, booleans=BOOLEANS, switches=SWITCHES, lists=LISTS, repeated=REPEATED, reserved=RESERVED)

# Compiled mode takes five minutes on a cold CPU, and weights may have to come from a hub first.
_START_TIMEOUT_SECONDS = 1800.0

# What the gateway relies on (parallelism, capabilities) or wants by default; a model's own arguments win.
_DEFAULTS: dict[str, Any] = {
    "max_num_seqs": 256,
    "enable_prompt_tokens_details": True,
    # One line a request is written by the gateway already.
    "disable_uvicorn_access_log": True,
}
# Triton's own examples carry it; vLLM 0.32 logs requests only when asked to.
_OUT_OF_USE = frozenset({"disable_log_requests"})
_PATHS = ("model", "tokenizer", "chat_template")

_TOKENS = {Capability.TOKENIZE, Capability.DETOKENIZE}
_GENERATE = frozenset(
    {
        Capability.CHAT,
        Capability.COMPLETIONS,
        Capability.RESPONSES,
        Capability.MESSAGES,
        Capability.COUNT_TOKENS,
        *_TOKENS,
    }
)
_CLASSIFY = frozenset({Capability.RERANK, Capability.SCORE, *_TOKENS})
_EMBED = frozenset({Capability.EMBEDDINGS, *_CLASSIFY})


def launch(config: ModelConfig, *, runtime_dir: str) -> Sequence[Command]:
    """One `vllm serve` an instance.

    Raises `InvalidRequest` for an argument that vLLM has not, `Unavailable` without vLLM.
    """
    arguments = _arguments(config)
    if not starts_processes(config):
        return []
    arguments = with_local_paths(config, arguments, _PATHS)
    env = {"VLLM_NO_USAGE_STATS": "1"}
    if Path(arguments["model"]).is_absolute():
        # Without it, starting from local files still asks the hub about them.
        env["HF_HUB_OFFLINE"] = "1"
    argv = [interpreter("vllm"), "-m", "vllm.entrypoints.openai.api_server", f"--served-model-name={config.name}"]
    for key, value in arguments.items():
        argv.extend(_FLAGS.render(key, value))
    length = arguments.get("max_model_len")
    return [
        Command(
            argv=(*argv, f"--uds={instance.socket}"),
            address=f"unix:{instance.socket}",
            env={key: value for key, value in env.items() if key not in os.environ} | dict(instance.env),
            start_timeout_seconds=_START_TIMEOUT_SECONDS,
            context_length=length if isinstance(length, int) and length > 0 else None,
        )
        for instance in instances(config, runtime_dir)
    ]


def connect(config: ModelConfig, endpoints: Endpoints, models: Models) -> EngineModel:  # noqa: ARG001  # every kind's
    """A model that vLLM serves; its runner decides what it offers."""
    arguments = _arguments(config)
    if arguments["runner"] != "pooling":
        capabilities = _GENERATE
    else:
        capabilities = _CLASSIFY if arguments.get("convert") == "classify" else _EMBED
    parallelism = arguments["max_num_seqs"] * replica_count(config, endpoints)
    return EngineModel(config, endpoints, capabilities=capabilities, parallelism=parallelism, adapter=Adapter())


def _arguments(config: ModelConfig) -> dict[str, Any]:
    """The model's arguments, checked by name, over our defaults; None means vLLM's own default."""
    given = _FLAGS.check(config, ours=_OUT_OF_USE)
    arguments = _DEFAULTS | {key: value for key, value in given.items() if key not in _OUT_OF_USE}
    if starts_processes(config) and not isinstance(arguments.get("model"), str):
        raise InvalidRequest(f"Model {config.name!r}: the engine argument 'model' names no weights.", param="model")
    positive(config, "max_num_seqs", arguments["max_num_seqs"])
    if arguments.get("runner", "auto") == "auto":
        # Told rather than guessed by vLLM: the gateway must know what the model offers before it is loaded.
        arguments["runner"] = "pooling" if arguments.get("convert") in {"embed", "classify"} else "generate"
    return arguments
