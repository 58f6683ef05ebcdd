"""Fixtures of several test modules, and the rules of the slow suite."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer

from backends.weights import missing
from tests.distribution import ByFixtures
from tests.postgres_servers import postgres_server
from tests.servers import ROOT, Tritium, echo_repository, serving, unavailable

DEMO_MODEL = "smollm2-135m-instruct"
ENGINE_TIMEOUT_SECONDS = 600
FAULTS = Path(__file__).with_name("faults")

# How long an example takes depends on what else the machine does; each test has its timeout.
settings.register_profile("tests", max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFixtures:
    return ByFixtures(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is collected stays: the collector, which looked for garbage in it, took half of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fault tests are slow ones; tests with real engines may wait for one to load."""
    for item in items:
        if FAULTS in item.path.parents:
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("engine") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(ENGINE_TIMEOUT_SECONDS))


@pytest.fixture(scope="session")
def tritium_server() -> Iterator[Tritium]:
    """The demo model served by llamacpp through the gateway, for the whole session."""
    repository = ROOT / "model_repository"
    if lacking := missing(repository / DEMO_MODEL):
        unavailable(f"{lacking[0]} of {DEMO_MODEL} is not fetched: run `tritium models pull {DEMO_MODEL}`")
    with serving(repository) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL of our own for the whole session: tests make databases of theirs in it."""
    with postgres_server() as server:
        yield server.url


@pytest.fixture
def echo_server(tmp_path: Path) -> Iterator[Callable[..., Tritium]]:
    """Starts `tritium serve` on echo models: `echo_server("--workers", "2", models={"name": {…model.json…}})`.

    Other keywords are those of `tests.servers.serving`. Each server is stopped at the end of the test.
    """
    with ExitStack() as stack:
        started = 0

        def start(*flags: str, models: Mapping[str, Mapping[str, Any]] | None = None, **options: Any) -> Tritium:
            nonlocal started
            started += 1
            repository = echo_repository(tmp_path / f"models-{started}", models or {"echo": {}})
            return stack.enter_context(serving(repository, *flags, **options))

        yield start
