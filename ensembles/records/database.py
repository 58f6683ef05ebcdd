"""The database: opened and brought up to date once, read and written by transactions, its errors in our words."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TextIO

from sqlalchemy import Connection, event, inspect, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, InterfaceError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from backends.errors import InvalidRequest, Unavailable
from ensembles.records.migrations import HEAD

_BUSY_SECONDS = 30.0
_CONNECTIONS = 5
_MIGRATION_LOCK = 0x747269  # PostgreSQL's advisory locks are numbers that applications agree on
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
_RETRY_SECONDS = 1.0


class Database:
    """Opened by `open`; whoever opened it closes it."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(writes=True)

    @classmethod
    async def open(cls, url: str) -> Database:
        """Connect, and make or change the tables where that is due: one process does it, the others wait.

        Raises `InvalidRequest` for a URL that is none, `Unavailable` where the database cannot be reached or was made
        by a later version.
        """
        address = _address(url)
        is_sqlite = address.drivername.startswith("sqlite")
        options: dict[str, Any] = {"connect_args": {"timeout": _BUSY_SECONDS}} if is_sqlite else {"pool_pre_ping": True}
        engine = create_async_engine(address, pool_size=_CONNECTIONS, max_overflow=0, **options)
        if is_sqlite:
            event.listen(engine.sync_engine, "connect", _set_up_sqlite)
            event.listen(engine.sync_engine, "begin", _begin_sqlite)
        database = cls(engine)
        try:
            if is_sqlite:
                with _translated():
                    lock = await asyncio.to_thread(_locked, Path(address.database or "").with_suffix(".lock"))
                with lock:
                    await database._migrate()  # a journal's kind can only be changed while nobody else opens the file
            else:
                await database._migrate()
        except BaseException:
            await engine.dispose()
            raise
        return database

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection for statements that change nothing; each sees what is committed when it runs."""
        with _translated():
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction: committed, on the disk, at the end of the block; rolled back where the block raises."""
        with _translated():
            async with self._writer.connect() as connection, connection.begin():
                yield connection

    async def close(self) -> None:
        await self._engine.dispose()

    async def _migrate(self) -> None:
        async with self.read() as connection:
            version = await connection.run_sync(_version)
        if version != HEAD:
            async with self.write() as connection:
                if connection.dialect.name == "postgresql":
                    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                await connection.run_sync(_upgrade)


def _address(url: str) -> URL:
    try:
        address = make_url(url)
    except ArgumentError as error:
        raise InvalidRequest("The database's URL is none: say sqlite:///PATH or postgresql://HOST/NAME.") from error
    driver = _DRIVERS.get(address.drivername.partition("+")[0])
    if driver is None:
        raise InvalidRequest(f"No database of kind '{address.drivername}': there are sqlite and postgresql.")
    return address.set(drivername=driver)


def _locked(path: Path) -> TextIO:
    """A file that this process alone has open until it closes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by us
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """What writes takes the lock at once: one that read first and then wrote would be refused beside another."""
    if connection.get_execution_options().get("writes"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _version(connection: Connection) -> str | None:
    """The change that the tables are at, None where there are none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def _upgrade(connection: Connection) -> None:
    from alembic import command  # only who changes the tables pays for it
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    version = _version(connection)
    if version is not None and version not in {
        script.revision for script in ScriptDirectory.from_config(config).walk_revisions()
    }:
        raise Unavailable(f"The database was made by a later version of this server (its tables are at {version}).")
    command.upgrade(config, "head")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise  # of our own statements: a fault of ours, or what the caller awaits
    except (DBAPIError, InterfaceError, OSError, TimeoutError, SQLAlchemyError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise Unavailable(
            f"The database of files and vector stores cannot be used: {reason}", retry_after_seconds=_RETRY_SECONDS
        ) from error
