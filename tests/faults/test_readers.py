"""Two server processes search what a third process is ingesting: nothing fails, and nothing that was there is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backends.weights import missing
from tests.readers import ReadStore
from tests.servers import ROOT, Tritium, serving, unavailable

EMBEDDER = "all-minilm-l6-v2"
READERS = 16
FILES = 120


@pytest.fixture(params=["LanceDB", "PostgreSQL"])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Tritium]:
    if missing(ROOT / "model_repository" / EMBEDDER):
        unavailable(f"{EMBEDDER} is not fetched: run `tritium models pull {EMBEDDER}`")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / EMBEDDER).symlink_to(ROOT / "model_repository" / EMBEDDER)
    url = request.getfixturevalue("postgres_url") if request.param == "PostgreSQL" else str(tmp_path / "vectors")
    with serving(tmp_path / "models", "--workers", "2", "--vector-store-url", url) as server:
        yield server


@pytest.mark.timeout(300)
async def test_readers_meet_no_error_and_find_what_is_there_while_files_are_ingested(server):
    store = ReadStore(server.url, sections=3)
    await store.fill(range(5))
    async with asyncio.TaskGroup() as group:
        filling = group.create_task(store.fill(range(5, FILES)))
        await store.read(READERS, filling)
    assert len(store.known) == FILES
    middle, high = np.percentile(store.took, [50, 99]) * 1e3
    print(f"{len(store.took)} searches by {READERS} readers: p50 {middle:.0f} ms, p99 {high:.0f} ms")
    assert len(store.took) > READERS
