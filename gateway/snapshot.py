"""Messages between the supervisor and its server processes: msgpack over a socket pair."""

from __future__ import annotations

import msgspec

from backends.config import ModelConfig
from backends.model import Endpoint, State


class ModelStatus(msgspec.Struct, frozen=True):
    """One model as the supervisor sees it. `reason` says why it is not ready, for people."""

    config: ModelConfig
    state: State
    reason: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    context_length: int | None = None
    created: int = 0


class Snapshot(msgspec.Struct, frozen=True, tag="snapshot"):
    """Supervisor → server process: every model with its endpoints; replaces the snapshot before."""

    models: tuple[ModelStatus, ...]
    settled: bool
    """Whether every model has been loaded or has failed once since the start."""


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Supervisor → server process: take no new work, finish what is under way within `seconds`, exit 0."""

    seconds: float


class Scrape(msgspec.Struct, frozen=True, tag="scrape"):
    """Supervisor → server process: send your counters."""

    id: int


class Counters(msgspec.Struct, frozen=True, tag="counters"):
    """Server process → supervisor: the answer to a scrape; `payload` is telemetry's own encoding."""

    id: int
    payload: bytes


class Serving(msgspec.Struct, frozen=True, tag="serving"):
    """Server process → supervisor: the socket is being accepted from and the first snapshot is in."""

    pid: int


ToServer = Snapshot | Drain | Scrape
ToSupervisor = Counters | Serving
