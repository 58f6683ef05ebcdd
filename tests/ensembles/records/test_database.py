"""The database: made once whoever comes first, written by one at a time, its errors in our words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import insert, select, text

from backends.errors import InvalidRequest, Unavailable
from ensembles.records.database import Database
from ensembles.records.migrations import HEAD
from ensembles.records.tables import FILES, METADATA
from tests.servers import ROOT


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/new/records.db"


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    opened = await Database.open(url)
    yield opened
    await opened.close()


def file(name: str) -> dict[str, object]:
    return {
        "id": name,
        "owner": "",
        "filename": "a",
        "purpose": "batch",
        "bytes": 1,
        "sha256": "",
        "created_at": 1,
        "expires_at": None,
    }


async def ids(database: Database) -> list[str]:
    async with database.read() as connection:
        return list((await connection.execute(select(FILES.c.id).order_by(FILES.c.id))).scalars())


def script() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "ensembles" / "records" / "migrations"))
    return ScriptDirectory.from_config(config)


async def test_the_migrations_make_the_tables_that_the_code_knows(database: Database):
    async with database.read() as connection:
        found = await connection.run_sync(lambda sync: compare_metadata(MigrationContext.configure(sync), METADATA))
    assert found == []


def test_the_last_migration_is_the_head():
    assert script().get_heads() == [HEAD]


async def test_whoever_opens_it_at_once_makes_it_once(url: str):
    opened = await asyncio.gather(*(Database.open(url) for _ in range(5)))
    async with opened[0].write() as connection:
        await connection.execute(insert(FILES), file("a"))
    for database in opened:
        assert await ids(database) == ["a"]
        await database.close()


async def test_what_is_there_stays_when_it_is_opened_again(url: str):
    database = await Database.open(url)
    async with database.write() as connection:
        await connection.execute(insert(FILES), file("a"))
    await database.close()
    again = await Database.open(url)
    assert await ids(again) == ["a"]
    await again.close()


async def test_tables_of_a_later_version_are_refused(url: str, database: Database):
    async with database.write() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Unavailable, match="9999"):
        await Database.open(url)


async def test_a_block_that_raises_changes_nothing(database: Database):
    async def broken() -> None:
        async with database.write() as connection:
            await connection.execute(insert(FILES), file("a"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await broken()
    assert await ids(database) == []


async def test_writers_of_several_connections_take_turns(url: str, database: Database):
    other = await Database.open(url)

    async def count(which: Database, name: str) -> None:
        async with which.write() as connection:
            number = len((await connection.execute(select(FILES.c.id))).all())
            await connection.execute(insert(FILES), file(f"{number:03}-{name}"))

    await asyncio.gather(*(count(which, str(number)) for number in range(10) for which in (database, other)))
    assert [name.split("-")[0] for name in await ids(database)] == [f"{number:03}" for number in range(20)]
    await other.close()


async def test_readers_go_on_while_somebody_writes(url: str, database: Database):
    other = await Database.open(url)
    async with database.write() as connection:
        await connection.execute(insert(FILES), file("a"))
        assert await asyncio.wait_for(ids(other), 5) == []
    assert await ids(other) == ["a"]
    await other.close()


async def test_references_are_held(database: Database):
    async with database.read() as connection:
        assert (await connection.execute(text("PRAGMA foreign_keys"))).scalar() == 1
        assert (await connection.execute(text("PRAGMA journal_mode"))).scalar() == "wal"
        assert (await connection.execute(text("PRAGMA synchronous"))).scalar() == 2


async def test_an_error_of_the_database_is_told_in_our_words(database: Database):
    with pytest.raises(Unavailable, match="no such table: absent"):
        async with database.read() as connection:
            await connection.execute(text("SELECT * FROM absent"))


@pytest.mark.parametrize("url", ["mysql://host/name", "nothing"])
async def test_a_url_of_no_database_is_refused(url: str):
    with pytest.raises(InvalidRequest):
        await Database.open(url)


async def test_a_database_that_cannot_be_reached_is_not_available(tmp_path: Path):
    with pytest.raises(Unavailable):
        await Database.open("postgresql://nobody@127.0.0.1:1/nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable):
        await Database.open(f"sqlite:///{tmp_path}/file/records.db")
