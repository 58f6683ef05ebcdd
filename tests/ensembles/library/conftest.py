"""A library of each test's own, its records in SQLite; in the slow suite in PostgreSQL too."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from ensembles.library import Place
from ensembles.records.database import Database
from tests.ensembles.library.shelf import Clock, Embedders, Shelf, opened
from tests.ensembles.memory_store import MemoryStore


async def new_database(url: str) -> str:
    name = f"records_{uuid4().hex}"
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return f"{url.rpartition('/')[0]}/{name}"


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with nothing in its tables: to make them takes longer than most tests."""
    file = tmp_path_factory.mktemp("records") / "records"

    async def make() -> None:
        database = await Database.open(f"sqlite:///{file}")
        await database.close()

    asyncio.run(make())
    return file


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
async def shelf(tmp_path: Path, tables: Path, request: pytest.FixtureRequest) -> AsyncIterator[Shelf]:
    url = "" if request.param == "sqlite" else await new_database(request.getfixturevalue("postgres_url"))
    folder, store, models, clock = tmp_path / "data", MemoryStore(), Embedders(), Clock()
    folder.mkdir()
    shutil.copyfile(tables, Place(folder).database_file)
    library = opened(folder, store, models, clock, url)
    yield Shelf(folder, store, models, clock, library, url)
    await library.close()
