"""What the supervisor starts for a tensor model: the host of its version, whatever its kind."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from backends.config import ModelConfig
from backends.engine.command import Command
from backends.engine.environment import socket_path
from backends.worker.options import environment, execution_timeout_seconds

# Weights may have to be read from a slow disk, and optimised for a device.
_START_TIMEOUT_SECONDS = 1800.0


def launch(config: ModelConfig, *, runtime_dir: str) -> Sequence[Command]:
    """One host, which starts the model's instances. Raises `InvalidRequest` for a wrong configuration."""
    execution_timeout_seconds(config)
    socket = socket_path(config, runtime_dir)
    return [
        Command(
            argv=(sys.executable, "-m", "backends.worker.host", "--uds", socket, "--model", config.name),
            address=f"unix:{socket}",
            env=environment(config),
            metrics=None,
            config="/config",
            start_timeout_seconds=_START_TIMEOUT_SECONDS,
        )
    ]
