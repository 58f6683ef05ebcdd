"""A scripted server and the pool of connections to it; echo engines that several modules share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from backends.engine.upstream import Pool
from tests.backends.engine.among import engines
from tests.backends.engine.scripted import Scripted, scripted
from tests.engines import EchoEngine
from tests.processes import holds


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    async with scripted() as server:
        yield server


@pytest.fixture
async def pool(server: Scripted) -> AsyncIterator[Pool]:
    made = Pool(server.address, "The toy")
    yield made
    made.close()
    await holds(lambda: made.open_count == 0)


@pytest.fixture(scope="session")
def echoes() -> Iterator[list[EchoEngine]]:
    with engines(3) as three:
        yield three


@pytest.fixture
def three(echoes: list[EchoEngine]) -> Iterator[list[EchoEngine]]:
    """Three engines. Of those that take turns the second is the first to be asked."""
    yield echoes
    for engine in echoes:
        engine.configure(fault="none", after=-1, times=0, itl_ms=0, ttft_ms=0, retry_after=1, prefix_cache_tokens=0)
        engine.reset()


@pytest.fixture
def two(three: list[EchoEngine]) -> list[EchoEngine]:
    return three[:2]
