"""What a kind asks the supervisor to start: one process that serves one endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Command:
    """An engine process. It must listen at `address`, answer `health` with 200 when it can serve, and exit on SIGTERM.

    A stale socket file at a `unix:` address is removed before each start. `env` is laid over the supervisor's
    own environment. `metrics` is its Prometheus route, None without one. `context_length` is in tokens, None
    when the engine's `/v1/models` tells it (`max_model_len`). `config` is the route of a worker that tells its
    model's configuration, completed, None without one. A worker whose health is 500 with a JSON object that has an
    `error` has failed for good, for that reason.
    """

    argv: tuple[str, ...]
    address: str
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    health: str = "/health"
    metrics: str | None = "/metrics"
    start_timeout_seconds: float = 600.0
    context_length: int | None = None
    config: str | None = None
