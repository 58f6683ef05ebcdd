"""A gRPC server in the test's own loop."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.gateway.kserve.grpc_server import Served, grpc_served


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with grpc_served() as server:
        yield server
