"""Readiness: what it takes, by the states of the models."""

from __future__ import annotations

from typing import NoReturn

import pytest

from backends.config import ModelConfig
from backends.model import State
from gateway.access_log import NoLog
from gateway.health import readiness
from gateway.plane import Plane
from gateway.registry import Registry
from gateway.settings import Settings
from gateway.snapshot import ModelStatus, Snapshot
from gateway.telemetry import Telemetry

READY, STARTING, FAILED = State.READY, State.STARTING, State.FAILED


def connect(backend: str) -> NoReturn:
    raise AssertionError(f"{backend} was connected")


def plane(*states: State, settled: bool = True, strict: bool = False) -> Plane:
    registry = Registry(connect, share=1, max_queue_size=1)
    made = Plane(Settings(strict_readiness=strict), registry, None, Telemetry(registry.connections, NoLog()))
    models = tuple(ModelStatus(ModelConfig(f"m{number}", ""), state) for number, state in enumerate(states))
    registry.apply(Snapshot(models, settled))
    return made


@pytest.mark.parametrize(
    ("states", "settled", "strict", "is_ready"),
    [
        ((READY,), True, False, True),
        ((READY, FAILED), True, False, True),
        ((READY, STARTING), True, False, True),
        ((FAILED, FAILED), True, False, False),
        ((State.UNHEALTHY,), True, False, False),
        ((State.RESTARTING,), True, False, False),
        ((READY, STARTING), False, False, False),  # not everything was tried yet
        ((READY, FAILED), True, True, False),
        ((READY, READY), True, True, True),
        ((), True, False, True),
        ((), True, True, True),
        ((), False, False, False),
    ],
)
def test_ready_is_who_can_serve_something_and_has_tried_everything(
    states: tuple[State, ...], settled: bool, strict: bool, is_ready: bool
) -> None:
    ok, body = readiness(plane(*states, settled=settled, strict=strict))
    assert ok is is_ready
    assert body == {
        "status": "ready" if is_ready else "not ready",
        "models": {f"m{number}": state.value for number, state in enumerate(states)},
    }


def test_who_drains_is_not_ready_whatever_its_models_are() -> None:
    draining = plane(READY)
    draining.draining = True
    assert readiness(draining) == (False, {"status": "draining", "models": {"m0": "READY"}})


def test_before_the_first_snapshot_nothing_is_ready() -> None:
    registry = Registry(connect, share=1, max_queue_size=1)
    fresh = Plane(Settings(), registry, None, Telemetry(registry.connections, NoLog()))
    assert not readiness(fresh)[0]
