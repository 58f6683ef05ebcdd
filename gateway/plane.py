"""What all requests of one server process share."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.auth import Keys
from gateway.clock import Clock
from gateway.registry import Registry
from gateway.settings import Settings
from gateway.telemetry import Telemetry


@dataclass(slots=True)
class Plane:
    """The data plane. `draining`: no new work is taken; the exchanges under way are the members of `clock`."""

    settings: Settings
    registry: Registry
    keys: Keys | None
    telemetry: Telemetry
    clock: Clock = field(default_factory=Clock)
    draining: bool = False
