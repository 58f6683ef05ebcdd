"""Files in the records. One whose time is up is as one that is not there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from backends.errors import NotFound
from ensembles.records.pages import page as page_of
from ensembles.records.rows import File, Page, Range
from ensembles.records.tables import FILES


async def add(connection: AsyncConnection, file: File) -> None:
    values = {column.name: getattr(file, column.name) for column in FILES.columns}
    await connection.execute(insert(FILES).values(values))


async def get(connection: AsyncConnection, owner: str, file_id: str, now: float) -> File:
    """Raises `NotFound`."""
    query = select(FILES).where(FILES.c.id == file_id, FILES.c.owner == owner, unexpired(now))
    row = (await connection.execute(query)).first()
    if row is None:
        raise not_found(file_id)
    return _file(row)


async def existing(connection: AsyncConnection, owner: str, file_ids: Sequence[str], now: float) -> set[str]:
    """Those of the ids that are files of this owner; nobody can delete them before the transaction ends."""
    query = select(FILES.c.id).where(FILES.c.id.in_(file_ids), FILES.c.owner == owner, unexpired(now))
    return set((await connection.execute(query.with_for_update(read=True))).scalars())


async def page(connection: AsyncConnection, owner: str, part: Range, purpose: str, now: float) -> Page[File]:
    query = select(FILES).where(FILES.c.owner == owner, unexpired(now))
    if purpose:
        query = query.where(FILES.c.purpose == purpose)
    rows, has_more = await page_of(connection, query, FILES.c.id, part)
    return Page([_file(row) for row in rows], has_more)


async def remove(connection: AsyncConnection, owner: str, file_id: str) -> File:
    """Raises `NotFound`."""
    query = delete(FILES).where(FILES.c.id == file_id, FILES.c.owner == owner).returning(*FILES.columns)
    row = (await connection.execute(query)).first()
    if row is None:
        raise not_found(file_id)
    return _file(row)


async def expired(connection: AsyncConnection, now: float, limit: int) -> list[File]:
    query = select(FILES).where(FILES.c.expires_at <= now).limit(limit)
    return [_file(row) for row in await connection.execute(query)]


async def known(connection: AsyncConnection, file_ids: Sequence[str]) -> set[str]:
    """Those of the ids that are files of anybody."""
    return set((await connection.execute(select(FILES.c.id).where(FILES.c.id.in_(file_ids)))).scalars())


def unexpired(now: float) -> ColumnElement[bool]:
    return or_(FILES.c.expires_at.is_(None), FILES.c.expires_at > now)


def not_found(file_id: str) -> NotFound:
    return NotFound(f"No such File object: {file_id[:64]}", param="id")


def _file(row: Row[Any]) -> File:
    return File(**row._asdict())
