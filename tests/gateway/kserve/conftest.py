"""A gRPC server in the test's own loop; shared memory that clients may register."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.gateway.kserve.grpc_server import Served, grpc_served


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with grpc_served() as server:
        yield server


@pytest.fixture
def key() -> Iterator[str]:
    """What 8 KiB of shared memory are called."""
    file = Path(f"/dev/shm/tritium-{uuid4().hex}")
    file.write_bytes(bytes(range(256)) * 32)
    yield f"/{file.name}"
    file.unlink(missing_ok=True)
