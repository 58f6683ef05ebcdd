"""A scripted server, and the pool of connections to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from backends.engine.upstream import Pool
from tests.backends.engine.scripted import Scripted, scripted
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
