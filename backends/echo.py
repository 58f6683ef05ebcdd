"""The `echo` kind: our deterministic engine, for tests and for trying a set-up out without a model."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec

from backends.config import ModelConfig
from backends.engine.command import Command
from backends.engine.environment import socket_path
from backends.engine.replicas import EngineModel
from backends.errors import InvalidRequest
from backends.model import Capability, Endpoints, Models
from backends.simulator.options import Options, flags, read

_START_SECONDS = 30.0


def launch(config: ModelConfig, *, runtime_dir: str) -> Sequence[Command]:
    """One process for each instance of `instance_group`, on a Unix socket; `model.json` has the options.

    Raises `InvalidRequest` naming the key that is not an option or has a wrong value.
    """
    options = _options(config)
    commands = []
    for number in range(_instances(config)):
        own = config if number == 0 else msgspec.structs.replace(config, name=f"{config.name}.{number}")
        path = socket_path(own, runtime_dir)
        argv = (sys.executable, "-m", "backends.echo", "--uds", path, "--model", config.name, *flags(options))
        start_timeout = _START_SECONDS + options.start_delay_ms / 1000
        commands.append(Command(argv, f"unix:{path}", start_timeout_seconds=start_timeout))
    return commands


def connect(config: ModelConfig, endpoints: Endpoints, models: Models) -> EngineModel:  # noqa: ARG001  # every kind's
    """The model in front of its processes; it offers every operation."""
    parallelism = _options(config).slots * _instances(config)
    return EngineModel(config, endpoints, capabilities=frozenset(Capability), parallelism=parallelism, adapter=None)


def _instances(config: ModelConfig) -> int:
    return sum(group.count for group in config.instance_group) or 1


def _options(config: ModelConfig) -> Options:
    for key in config.arguments:
        if key not in Options.__struct_fields__:
            known = ", ".join(Options.__struct_fields__)
            raise InvalidRequest(f"Model {config.name!r}: model.json has no option {key!r}; it has {known}.", param=key)
    try:
        return read(config.arguments)
    except ValueError as error:
        raise InvalidRequest(f"Model {config.name!r}: model.json: {error}") from error


if __name__ == "__main__":
    from backends.simulator.app import main

    sys.exit(main())
