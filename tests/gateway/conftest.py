"""Three servers for all tests of the gateway that change nothing in them, and a fleet for each that changes one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from backends.model import State
from tests.engines import echo_engine
from tests.faults.looking import complaints
from tests.gateway.running_fleet import Running, running_fleet
from tests.servers import Tritium, echo_repository, serving

LIMIT_BYTES = 300_000
KEYS = ("sk-one", "sk-two")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritium]:
    """Two server processes in front of `echo`, `twins` (two engines), `chatty` (remote, chat only) and `broken`."""
    models = {"echo": {}, "twins": {"config": "instance_group [{count: 2}]"}, "broken": {"speed": 3}}
    repository = echo_repository(tmp_path_factory.mktemp("models"), models)
    with echo_engine(tcp=True, model="chatty") as remote:
        parameters = {"endpoints": remote.address, "capabilities": "chat"}
        lines = [f'parameters {{key: "{key}" value {{string_value: "{value}"}}}}' for key, value in parameters.items()]
        (repository / "chatty" / "1").mkdir(parents=True)
        (repository / "chatty" / "config.pbtxt").write_text("\n".join(['backend: "openai"', *lines]))
        with serving(repository, "--workers", "2", "--max-body-bytes", str(LIMIT_BYTES)) as server:
            yield server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritium]:
    """One server process in front of `echo`, which complains of nothing that a client does."""
    repository = echo_repository(tmp_path_factory.mktemp("models"), {"echo": {}})
    with serving(repository, "--max-body-bytes", str(LIMIT_BYTES)) as server:
        yield server
        assert complaints(server) == []


@pytest.fixture(scope="session")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritium]:
    """The same, which wants one of `KEYS`."""
    folder = tmp_path_factory.mktemp("models")
    keys = folder / "keys"
    keys.write_text("\n".join(KEYS))
    with serving(echo_repository(folder / "models", {"echo": {}}), "--api-key-file", str(keys)) as server:
        yield server
        assert complaints(server) == []


@pytest.fixture(scope="session")
def http(shared: Tritium) -> Iterator[httpx.Client]:
    """A client of the shared server."""
    with httpx.Client(base_url=shared.url, timeout=30) as client:
        yield client


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """A fleet with one model `m`, ready."""
    async with running_fleet(tmp_path, {"m": {}}) as running:
        await running.becomes({"m-1-0": State.READY})
        yield running
