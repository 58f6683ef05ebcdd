"""TensorRT-LLM: `trtllm-serve` in its own environment, or one by URL. Needs an NVIDIA GPU."""

from __future__ import annotations

import json
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
from backends.engine.tensorrtllm_dialect import Adapter
from backends.errors import InvalidRequest, Unavailable
from backends.model import Capability, Endpoints, Models

# An engine may be built at its start, and weights may have to come from a hub first.
_START_TIMEOUT_SECONDS = 3600.0

# The options of `trtllm-serve` 1.2, as its command line lists them; the short names are its own.
_FLAGS = Flags(
    "TensorRT-LLM",
    values=frozenset(
        {
            *("tokenizer", "custom_tokenizer", "backend", "log_level", "revision", "chat_template", "media_io_kwargs"),
            *("max_beam_width", "max_batch_size", "max_num_tokens", "max_seq_len", "num_postprocess_workers"),
            *("tensor_parallel_size", "tp_size", "pipeline_parallel_size", "pp_size"),
            *("context_parallel_size", "cp_size", "moe_expert_parallel_size", "ep_size"),
            *("moe_cluster_parallel_size", "cluster_size", "gpus_per_node"),
            *("free_gpu_memory_fraction", "kv_cache_free_gpu_memory_fraction"),
            *("config", "extra_llm_api_options", "reasoning_parser", "tool_parser", "otlp_traces_endpoint"),
            *("metadata_server_config_file", "server_role", "disagg_cluster_uri"),
        }
    ),
    switches=frozenset({"trust_remote_code", "fail_fast_on_attention_window_too_large", "enable_chunked_prefill"}),
    repeated=frozenset({"custom_module_dirs"}),
    reserved=frozenset({"host"}),
    separator="_",
)
_OURS = frozenset({"model", "port"})
_PATHS = ("model", "tokenizer", "chat_template", "config", "extra_llm_api_options", "metadata_server_config_file")

# What the gateway relies on; a model's own arguments win.
_DEFAULTS: dict[str, Any] = {"max_batch_size": 256}

# It has `/v1/responses` too, with streams of its own making; and no route that counts tokens.
_CAPABILITIES = frozenset({Capability.CHAT, Capability.COMPLETIONS})


def launch(config: ModelConfig, *, runtime_dir: str) -> Sequence[Command]:
    """One `trtllm-serve` an instance, on a loopback port.

    Its Prometheus metrics, by which it is routed, come with `return_perf_metrics: true` in the file of `config`. Raises
    `InvalidRequest` for an argument that it has not, `Unavailable` without its environment.
    """
    arguments = _arguments(config)
    if not starts_processes(config):
        return []
    arguments = with_local_paths(config, arguments, _PATHS)
    program = Path(interpreter("tensorrtllm")).with_name("trtllm-serve")
    if not program.exists():
        raise Unavailable(
            f"There is no {program}: make it with deploy/engines/tensorrtllm.sh.", code="engine_not_installed"
        )
    model = arguments.pop("model")
    arguments.pop("port", None)
    argv = [str(program), model, "--host=127.0.0.1"]
    for key, value in arguments.items():
        argv.extend(_FLAGS.render(key, value))
    # Without it, starting from local files still asks the hub about them.
    env = {"HF_HUB_OFFLINE": "1"} if Path(model).is_absolute() else {}
    found = instances(config, runtime_dir)
    return [
        Command(
            argv=(*argv, f"--port={port}"),
            address=f"http://127.0.0.1:{port}",
            env={key: value for key, value in env.items() if key not in os.environ} | dict(instance.env),
            metrics=METRICS_PATHS["tensorrtllm"],
            start_timeout_seconds=_START_TIMEOUT_SECONDS,
            context_length=_context_length(config, arguments, model),
        )
        for instance, port in zip(found, loopback_ports(config, runtime_dir, len(found)), strict=True)
    ]


def connect(config: ModelConfig, endpoints: Endpoints, models: Models) -> EngineModel:  # noqa: ARG001  # every kind's
    """A model that TensorRT-LLM serves. `max_seq_len` and `max_batch_size` hold for endpoints by URL as well."""
    arguments = _arguments(config)
    return EngineModel(
        config,
        endpoints,
        capabilities=_CAPABILITIES,
        parallelism=arguments["max_batch_size"] * replica_count(config, endpoints),
        adapter=Adapter(context_length=_context_length(config, arguments, str(arguments.get("model", "")))),
    )


def _arguments(config: ModelConfig) -> dict[str, Any]:
    """The model's arguments, checked by name, over our defaults."""
    arguments = _DEFAULTS | _FLAGS.check(config, ours=_OURS)
    if starts_processes(config) and not isinstance(arguments.get("model"), str):
        raise InvalidRequest(f"Model {config.name!r}: the engine argument 'model' names no weights.", param="model")
    positive(config, "max_batch_size", arguments["max_batch_size"])
    if "max_seq_len" in arguments:
        positive(config, "max_seq_len", arguments["max_seq_len"])
    return arguments


def _context_length(config: ModelConfig, arguments: dict[str, Any], model: str) -> int | None:
    """`max_seq_len`, otherwise what the configuration of local weights says; the engine does not tell."""
    length = arguments.get("max_seq_len")
    if length is None and model:
        try:
            length = json.loads((Path(config.path) / model / "config.json").read_bytes())["max_position_embeddings"]
        except (OSError, ValueError, LookupError, TypeError):
            return None
    return length if isinstance(length, int) else None
