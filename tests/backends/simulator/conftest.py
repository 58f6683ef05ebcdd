"""One engine a module, as new for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import msgspec
import pytest

from backends.simulator.options import Options
from tests.engines import EchoEngine, echo_engine


@pytest.fixture(scope="module")
def running() -> Iterator[EchoEngine]:
    with echo_engine() as engine:
        yield engine


@pytest.fixture
async def engine(running: EchoEngine) -> EchoEngine:
    running.configure(**msgspec.structs.asdict(Options()))
    await running.idle()
    running.reset()
    return running


@pytest.fixture
async def client(engine: EchoEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with engine.client() as client:
        yield client
