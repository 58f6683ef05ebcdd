"""What all requests of one server process share."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.auth import Keys
from gateway.cache_salt import CacheSalt
from gateway.clock import Clock
from gateway.counters import MemoryCounters
from gateway.decisions import DecisionLog
from gateway.questions import Questions, nobody
from gateway.quotas import Quotas
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
    quotas: Quotas = field(default_factory=lambda: Quotas(MemoryCounters(), fails_open=True))
    cache_salt: CacheSalt | None = None
    decisions: DecisionLog = field(default_factory=lambda: DecisionLog(0))
    questions: Questions = field(default_factory=lambda: Questions(nobody))
    clock: Clock = field(default_factory=Clock)
    draining: bool = False
