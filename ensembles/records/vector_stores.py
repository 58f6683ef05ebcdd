"""Vector stores in the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from backends.errors import InvalidRequest, NotFound
from ensembles.records.pages import page as page_of
from ensembles.records.rows import FileCounts, Page, Range, Status, VectorStore
from ensembles.records.tables import MEMBERS, VECTOR_STORES

DAY_SECONDS = 86400
_STORES = VECTOR_STORES.c
_SHOWN = [column for column in VECTOR_STORES.columns if column.name not in {"deleted_at", "claimed_until"}]


async def add(connection: AsyncConnection, store: VectorStore) -> None:
    values = {column.name: getattr(store, column.name) for column in _SHOWN}
    await connection.execute(insert(VECTOR_STORES).values(values))


async def get(connection: AsyncConnection, owner: str, store_id: str) -> VectorStore:
    """Raises `NotFound`."""
    query = select(*_SHOWN).where(_is_owned(owner), _STORES.id == store_id)
    row = (await connection.execute(query)).first()
    if row is None:
        raise not_found(store_id)
    return (await _counted(connection, [row]))[0]


async def check(connection: AsyncConnection, owner: str, store_id: str) -> None:
    """Raises `NotFound`."""
    query = select(_STORES.id).where(_is_owned(owner), _STORES.id == store_id)
    if (await connection.execute(query)).first() is None:
        raise not_found(store_id)


async def ids(connection: AsyncConnection) -> list[str]:
    """All that are not deleted, of all owners."""
    return list(await connection.scalars(select(_STORES.id).where(_STORES.deleted_at.is_(None))))


async def find(connection: AsyncConnection, owner: str, name: str, now: float) -> VectorStore | None:
    """The one of this id, else the newest of this name that has not expired."""
    is_meant = or_(_STORES.id == name, _STORES.name == name)
    query = select(*_SHOWN).where(_is_owned(owner), is_meant, unexpired(now))
    query = query.order_by((_STORES.id == name).desc(), _STORES.id.desc()).limit(1)
    row = (await connection.execute(query)).first()
    return None if row is None else (await _counted(connection, [row]))[0]


async def searchable(connection: AsyncConnection, owner: str, store_ids: Sequence[str]) -> list[VectorStore]:
    """Those of the ids that are this owner's, without their counts."""
    query = select(*_SHOWN).where(_is_owned(owner), _STORES.id.in_(store_ids))
    return [_store(row, {}) for row in await connection.execute(query)]


async def completed(
    connection: AsyncConnection, store_id: str, file_ids: Sequence[str], now: float
) -> tuple[int, set[str]]:
    """When the store was last used, and those of the files that are completed in it.

    Raises `NotFound`, `InvalidRequest` for a store that has expired.
    """
    is_shown = (
        (MEMBERS.c.store_id == _STORES.id)
        & (MEMBERS.c.status == Status.COMPLETED)
        & MEMBERS.c.deleted_at.is_(None)
        & MEMBERS.c.file_id.in_(file_ids)
    )
    files = VECTOR_STORES.outerjoin(MEMBERS, is_shown)
    query = select(_STORES.last_active_at, _STORES.expires_at, MEMBERS.c.file_id).select_from(files)
    rows = (await connection.execute(query.where(_STORES.id == store_id, _STORES.deleted_at.is_(None)))).all()
    if not rows:
        raise not_found(store_id)
    if rows[0].expires_at is not None and rows[0].expires_at <= now:
        raise has_expired(store_id)
    return rows[0].last_active_at, {row.file_id for row in rows if row.file_id is not None}


async def page(connection: AsyncConnection, owner: str, part: Range) -> Page[VectorStore]:
    rows, has_more = await page_of(connection, select(*_SHOWN).where(_is_owned(owner)), _STORES.id, part)
    return Page(await _counted(connection, rows), has_more)


async def lock(connection: AsyncConnection, owner: str, store_id: str, now: float) -> None:
    """Have the store to oneself until the transaction ends, to change what is in it.

    Raises `NotFound`, `InvalidRequest` for one that has expired.
    """
    query = select(_STORES.expires_at).where(_is_owned(owner), _STORES.id == store_id).with_for_update()
    row = (await connection.execute(query)).first()
    if row is None:
        raise not_found(store_id)
    if row.expires_at is not None and row.expires_at <= now:
        raise has_expired(store_id)


async def change(connection: AsyncConnection, store_id: str, values: Mapping[str, Any]) -> None:
    await connection.execute(update(VECTOR_STORES).where(_STORES.id == store_id).values(values))


async def touch(connection: AsyncConnection, store_ids: Sequence[str], now: int) -> None:
    """Put off the end of stores that are used. One whose time is up stays so."""
    ends = now + _STORES.expires_after_days * DAY_SECONDS
    query = update(VECTOR_STORES).where(_STORES.id.in_(store_ids), unexpired(now), _STORES.last_active_at < now)
    await connection.execute(query.values(last_active_at=now, expires_at=ends))


async def adopt(connection: AsyncConnection, store_id: str, embedder: str) -> None:
    """Note whose vectors the store holds, where nobody knew when it was made."""
    query = update(VECTOR_STORES).where(_STORES.id == store_id, _STORES.embedder == "")
    await connection.execute(query.values(embedder=embedder))


async def mark(connection: AsyncConnection, store_id: str, now: int) -> None:
    """Delete it for everybody; the row stays until `forget`. Claims on its files are lost, and noted."""
    claims = select(func.max(MEMBERS.c.claimed_until)).where(MEMBERS.c.store_id == store_id)
    query = update(VECTOR_STORES).where(_STORES.id == store_id)
    await connection.execute(query.values(deleted_at=now, claimed_until=claims.scalar_subquery()))
    await connection.execute(delete(MEMBERS).where(MEMBERS.c.store_id == store_id))


async def marked(connection: AsyncConnection) -> list[str]:
    return list((await connection.execute(select(_STORES.id).where(_STORES.deleted_at.is_not(None)))).scalars())


async def forget(connection: AsyncConnection, store_id: str, now: float) -> None:
    """Delete the row of a store that is marked, once no claim of old can bring chunks back."""
    is_quiet = or_(_STORES.claimed_until.is_(None), _STORES.claimed_until <= now)
    query = delete(VECTOR_STORES).where(_STORES.id == store_id, _STORES.deleted_at.is_not(None), is_quiet)
    await connection.execute(query)


async def is_live(connection: AsyncConnection, store_id: str) -> bool:
    query = select(_STORES.id).where(_STORES.id == store_id, _STORES.deleted_at.is_(None))
    return (await connection.execute(query)).first() is not None


async def expired(connection: AsyncConnection, now: float) -> list[str]:
    """Stores whose time is up and that still hold files."""
    query = select(_STORES.id).where(_STORES.expires_at <= now, _STORES.deleted_at.is_(None))
    holds = select(MEMBERS.c.key).where(MEMBERS.c.store_id == _STORES.id).exists()
    return list((await connection.execute(query.where(holds))).scalars())


def unexpired(now: float) -> ColumnElement[bool]:
    return or_(_STORES.expires_at.is_(None), _STORES.expires_at > now)


def not_found(store_id: str) -> NotFound:
    return NotFound(f"Vector store with id '{store_id[:64]}' not found.", param="vector_store_id")


def has_expired(store_id: str) -> InvalidRequest:
    return InvalidRequest(
        f"Vector store '{store_id}' has expired: make a new one of the same files.",
        param="vector_store_id",
        code="vector_store_expired",
    )


def _is_owned(owner: str) -> ColumnElement[bool]:
    return (_STORES.owner == owner) & _STORES.deleted_at.is_(None)


async def _counted(connection: AsyncConnection, rows: Sequence[Row[Any]]) -> list[VectorStore]:
    query = (
        select(
            MEMBERS.c.store_id,
            MEMBERS.c.status,
            func.count().label("files"),
            func.sum(MEMBERS.c.usage_bytes).label("bytes"),
        )
        .where(MEMBERS.c.store_id.in_([row.id for row in rows]), MEMBERS.c.deleted_at.is_(None))
        .group_by(MEMBERS.c.store_id, MEMBERS.c.status)
    )
    counts: dict[str, dict[str, int]] = {}
    for store_id, status, files, size in await connection.execute(query):
        of_store = counts.setdefault(store_id, {"usage_bytes": 0})
        of_store[status] = files
        of_store["usage_bytes"] += int(size)
    return [_store(row, counts.get(row.id, {})) for row in rows]


def _store(row: Row[Any], counts: Mapping[str, int]) -> VectorStore:
    by_status = {name: count for name, count in counts.items() if name != "usage_bytes"}
    return VectorStore(
        **row._asdict(),
        usage_bytes=counts.get("usage_bytes", 0),
        file_counts=FileCounts(**by_status),
    )
