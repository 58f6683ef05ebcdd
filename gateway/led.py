"""What each process that the supervisor leads begins with: its settings, its channel, its signals, its limits."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from collections.abc import Callable

from gateway.channel import Channel
from gateway.settings import Settings

SETTINGS_VARIABLE = "TRITIUM_SERVER_SETTINGS"


async def begin(control_fd: int) -> tuple[Settings, Channel]:
    """The settings and the channel that the supervisor gave; its own children get neither."""
    settings = Settings.model_validate_json(os.environ.pop(SETTINGS_VARIABLE))
    return settings, await Channel.open(socket.socket(fileno=control_fd))


def heed_signals(leave: Callable[[], None]) -> None:
    """SIGTERM has it leave; those of the terminal are the supervisor's to act on, which has them too."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, leave)
    for number in (signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, lambda: None)


def open_many_files() -> None:
    """Each client and each engine is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
