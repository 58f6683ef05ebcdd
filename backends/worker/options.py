"""What a worker's host is told beside its model's configuration; both come in its environment."""

from __future__ import annotations

import base64
import os
import zlib

import msgspec

from backends.config import ModelConfig
from backends.errors import InvalidRequest

TIMEOUT_PARAMETER = "execution_timeout_seconds"
"""A model's parameter: how long an execution may take before its instance is killed."""

CONFIG_VARIABLE = "TRITIUM_WORKER_CONFIG"
OPTIONS_VARIABLE = "TRITIUM_WORKER_OPTIONS"

# The kernel's limit on one string of an environment (MAX_ARG_STRLEN), with the variable's name in it.
_VARIABLE_LIMIT_BYTES = 128 * 1024 - 64


class Options(msgspec.Struct, frozen=True):
    """`cache_bytes` is the size of the response cache, 0 for none; `completes`: the configuration from the model.

    `resources_path` is where hosts count what instances share, empty where the rate limiter is off; `resources` is
    what there is of it, as `--rate-limit-resource` has it. `has_quantiles`: latencies are told with their quantiles.
    """

    cache_bytes: int = 0
    completes: bool = True
    resources_path: str = ""
    resources: tuple[str, ...] = ()
    has_quantiles: bool = False


def environment(config: ModelConfig, options: Options | None = None) -> dict[str, str]:
    """The environment that tells a host. Without options it has those that the supervisor's own environment has.

    Raises `InvalidRequest` for a configuration that is too large.
    """
    packed = base64.b64encode(zlib.compress(msgspec.json.encode(config))).decode()
    if len(packed) > _VARIABLE_LIMIT_BYTES:
        raise InvalidRequest(
            f"Model {config.name!r}: its configuration is {len(packed)} bytes compressed, over the limit of"
            f" {_VARIABLE_LIMIT_BYTES}."
        )
    told = {CONFIG_VARIABLE: packed}
    if options is not None:
        told[OPTIONS_VARIABLE] = msgspec.json.encode(options).decode()
    return told


def read_environment() -> tuple[ModelConfig, Options]:
    """What this process was told; its children are not."""
    packed = os.environ.pop(CONFIG_VARIABLE)
    config = msgspec.json.decode(zlib.decompress(base64.b64decode(packed)), type=ModelConfig)
    return config, msgspec.json.decode(os.environ.pop(OPTIONS_VARIABLE, "{}"), type=Options)


def execution_timeout_seconds(config: ModelConfig) -> float | None:
    """How long an execution may take, None where there is no limit. Raises `InvalidRequest`."""
    text = config.parameters.get(TIMEOUT_PARAMETER)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        name = TIMEOUT_PARAMETER
        raise InvalidRequest(f"Model {config.name!r}: the parameter {name} is {text!r}, not seconds.", param=name)
    return seconds
