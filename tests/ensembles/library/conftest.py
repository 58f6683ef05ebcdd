"""A library of each test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.ensembles.library.shelf import Clock, Embedders, Shelf, opened
from tests.ensembles.memory_store import MemoryStore


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Shelf]:
    folder, store, models, clock = tmp_path / "data", MemoryStore(), Embedders(), Clock()
    library = opened(folder, store, models, clock)
    yield Shelf(folder, store, models, clock, library)
    await library.close()
