"""Files in vector stores in the records, and the batches that they came in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from backends.errors import InvalidRequest, NotFound
from ensembles.records.ids import new_id
from ensembles.records.pages import page as page_of
from ensembles.records.rows import (
    Addition,
    Chunking,
    ErrorCode,
    LastError,
    Member,
    Page,
    Range,
    Status,
)
from ensembles.records.tables import BATCH_FILES, MEMBERS

_MEMBERS = MEMBERS.c
LIVE = _MEMBERS.deleted_at.is_(None)


async def add(connection: AsyncConnection, store_id: str, additions: Sequence[Addition], now: int) -> None:
    """Have files ingested, under the store's lock; those that are there and would not change stay as they are."""
    query = select(MEMBERS).where(_is_in(store_id), _MEMBERS.file_id.in_([each.file_id for each in additions]))
    there = {row.file_id: row for row in await connection.execute(query)}
    new = []
    for offset, addition in enumerate(additions):
        row = there.get(addition.file_id)
        if row is None:
            new.append(_values(store_id, addition, offset, now))
        elif not _is_same(row, addition):
            again = _asked(addition) | {"revision": row.revision + 1}
            await connection.execute(update(MEMBERS).where(_MEMBERS.key == row.key).values(again))
    if new:
        await connection.execute(insert(MEMBERS), new)


async def get(connection: AsyncConnection, store_id: str, file_id: str) -> Member:
    """Raises `NotFound`."""
    query = select(MEMBERS).where(_is_in(store_id), _MEMBERS.file_id == file_id)
    row = (await connection.execute(query)).first()
    if row is None:
        raise not_found(store_id, file_id)
    return _member(row)


async def page(
    connection: AsyncConnection, store_id: str, part: Range, status: Status | None, batch_id: str
) -> Page[Member]:
    """Raises `InvalidRequest` for a cursor that is no file of the store."""
    part = replace(
        part,
        after=await _key(connection, store_id, part.after, "after"),
        before=await _key(connection, store_id, part.before, "before"),
    )
    query = select(MEMBERS).where(_is_in(store_id))
    if status is not None:
        query = query.where(_MEMBERS.status == status)
    if batch_id:
        query = query.where(_is_of(batch_id))
    rows, has_more = await page_of(connection, query, _MEMBERS.key, part)
    return Page([_member(row) for row in rows], has_more)


async def set_attributes(
    connection: AsyncConnection, store_id: str, file_id: str, attributes: Mapping[str, Any]
) -> None:
    """Raises `NotFound`."""
    query = update(MEMBERS).where(_is_in(store_id), _MEMBERS.file_id == file_id)
    changed = await connection.execute(query.values(attributes=attributes, revision=_MEMBERS.revision + 1))
    if not changed.rowcount:
        raise not_found(store_id, file_id)


async def behind(connection: AsyncConnection, store_id: str = "", file_id: str = "") -> list[Row[Any]]:
    """Rows of completed files whose chunks have attributes of old: all of them, or the one of a file."""
    query = select(_MEMBERS.key, _MEMBERS.store_id, _MEMBERS.file_id, _MEMBERS.attributes, _MEMBERS.revision).where(
        LIVE, _MEMBERS.status == Status.COMPLETED, _MEMBERS.indexed_revision < _MEMBERS.revision
    )
    if file_id:
        query = query.where(_MEMBERS.store_id == store_id, _MEMBERS.file_id == file_id)
    return list(await connection.execute(query))


async def caught_up(connection: AsyncConnection, key: str, revision: int) -> None:
    """Note which attributes the chunks have."""
    await connection.execute(update(MEMBERS).where(_MEMBERS.key == key).values(indexed_revision=revision))


async def mark(connection: AsyncConnection, file_id: str, now: int, store_id: str = "") -> list[str]:
    """Delete a file from every store, or from one; marks stay until `forget`. Returns the ids of those stores."""
    query = update(MEMBERS).where(LIVE, _MEMBERS.file_id == file_id)
    if store_id:
        query = query.where(_MEMBERS.store_id == store_id)
    found = await connection.execute(query.values(deleted_at=now, is_removed=False).returning(_MEMBERS.store_id))
    return list(found.scalars())


async def marked(connection: AsyncConnection, file_id: str = "") -> list[tuple[str, str]]:
    """(store, file) of those that are deleted while their chunks may still be there: all of them, or one file's."""
    query = select(_MEMBERS.store_id, _MEMBERS.file_id).where(~LIVE, _MEMBERS.is_removed.is_(False))
    if file_id:
        query = query.where(_MEMBERS.file_id == file_id)
    return [(row.store_id, row.file_id) for row in await connection.execute(query)]


async def removed(connection: AsyncConnection, store_id: str, file_id: str, now: float | None) -> None:
    """Note that the chunks of deleted rows are gone: once no claim can bring them back, or at once without `now`."""
    query = update(MEMBERS).where(~LIVE, _MEMBERS.store_id == store_id, _MEMBERS.file_id == file_id)
    if now is not None:
        query = query.where(or_(_MEMBERS.claimed_until.is_(None), _MEMBERS.claimed_until <= now))
    await connection.execute(query.values(is_removed=True))


async def forget(connection: AsyncConnection, before: float) -> None:
    """Delete the marks that have done their work and were made before this time."""
    await connection.execute(delete(MEMBERS).where(_MEMBERS.deleted_at < before, _MEMBERS.is_removed.is_(True)))


async def clear(connection: AsyncConnection, store_id: str) -> None:
    """Forget all files of a store."""
    await connection.execute(delete(MEMBERS).where(_MEMBERS.store_id == store_id))


def not_found(store_id: str, file_id: str) -> NotFound:
    return NotFound(f"No file found with id '{file_id[:64]}' in vector store '{store_id[:64]}'.", param="file_id")


async def _key(connection: AsyncConnection, store_id: str, file_id: str, param: str) -> str:
    """The place of a file in the store's order, also of one that was deleted while its pages are read."""
    if not file_id:
        return ""
    query = select(_MEMBERS.key).where(_MEMBERS.store_id == store_id, _MEMBERS.file_id == file_id)
    key: str | None = (await connection.execute(query.order_by(_MEMBERS.key.desc()).limit(1))).scalar()
    if key is None:
        raise InvalidRequest(f"'{param}' names no file of the vector store: '{file_id[:64]}'.", param=param)
    return key


def _is_in(store_id: str) -> ColumnElement[bool]:
    return (_MEMBERS.store_id == store_id) & LIVE


def _is_of(batch_id: str) -> ColumnElement[bool]:
    return _MEMBERS.file_id.in_(select(BATCH_FILES.c.file_id).where(BATCH_FILES.c.batch_id == batch_id))


def _values(store_id: str, addition: Addition, offset: int, now: int) -> dict[str, Any]:
    fixed = {"key": new_id("", offset), "store_id": store_id, "file_id": addition.file_id, "created_at": now}
    return fixed | _asked(addition) | {"revision": 0, "indexed_revision": 0, "is_removed": False}


def _asked(addition: Addition) -> dict[str, Any]:
    """What a row has while its file waits to be ingested as it was asked to be."""
    return {
        "status": Status.IN_PROGRESS,
        "error_code": None,
        "error_message": None,
        "attributes": addition.attributes,
        "max_chunk_size_tokens": addition.chunking.max_chunk_size_tokens,
        "chunk_overlap_tokens": addition.chunking.chunk_overlap_tokens,
        "is_auto": addition.chunking.is_auto,
        "usage_bytes": 0,
        "worker": "",
        "claim": "",
        "claimed_until": None,
        "attempt": 0,
    }


def _is_same(row: Row[Any], addition: Addition) -> bool:
    """Whether a file is there, or on its way, as it is asked for."""
    is_wanted = row.status in {Status.IN_PROGRESS, Status.COMPLETED}
    return is_wanted and row.attributes == addition.attributes and _chunking(row) == addition.chunking


def _chunking(row: Row[Any]) -> Chunking:
    return Chunking(row.max_chunk_size_tokens, row.chunk_overlap_tokens, row.is_auto)


def _member(row: Row[Any]) -> Member:
    error = None if row.error_code is None else LastError(ErrorCode(row.error_code), row.error_message)
    return Member(
        row.store_id,
        row.file_id,
        Status(row.status),
        row.created_at,
        row.usage_bytes,
        row.attributes,
        _chunking(row),
        error,
    )
