"""Batches of files that were put into a vector store at once. Their state is their files'."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from backends.errors import NotFound
from ensembles.records.ids import new_id
from ensembles.records.members import LIVE
from ensembles.records.rows import Batch, FileCounts, Status
from ensembles.records.tables import BATCH_FILES, BATCHES, MEMBERS

_BATCHES = BATCHES.c


async def add(connection: AsyncConnection, store_id: str, file_ids: Sequence[str], now: int) -> str:
    batch_id = new_id("vsfb_")
    values = {"id": batch_id, "store_id": store_id, "created_at": now, "is_cancelled": False}
    await connection.execute(insert(BATCHES).values(values))
    rows = [{"batch_id": batch_id, "file_id": file_id} for file_id in file_ids]
    await connection.execute(insert(BATCH_FILES), rows)
    return batch_id


async def get(connection: AsyncConnection, store_id: str, batch_id: str) -> Batch:
    """Raises `NotFound`."""
    query = select(BATCHES).where(_BATCHES.id == batch_id, _BATCHES.store_id == store_id)
    row = (await connection.execute(query)).first()
    if row is None:
        raise NotFound(f"No file batch found with id '{batch_id[:64]}' in vector store '{store_id}'.", param="batch_id")
    files = BATCH_FILES.join(MEMBERS, (MEMBERS.c.file_id == BATCH_FILES.c.file_id) & (MEMBERS.c.store_id == store_id))
    counting = select(MEMBERS.c.status, func.count()).select_from(files).where(BATCH_FILES.c.batch_id == batch_id, LIVE)
    counts = {row[0]: row[1] for row in await connection.execute(counting.group_by(MEMBERS.c.status))}
    return Batch(row.id, row.store_id, row.created_at, row.is_cancelled, FileCounts(**counts))


async def cancel(connection: AsyncConnection, store_id: str, batch_id: str) -> None:
    """Give up the files that are not ingested yet. A batch that is done stays so."""
    files = select(BATCH_FILES.c.file_id).where(BATCH_FILES.c.batch_id == batch_id)
    waiting = update(MEMBERS).where(
        LIVE,
        MEMBERS.c.store_id == store_id,
        MEMBERS.c.file_id.in_(files),
        MEMBERS.c.status == Status.IN_PROGRESS,
    )
    given_up = await connection.execute(waiting.values(status=Status.CANCELLED, claim=""))
    if given_up.rowcount:
        await connection.execute(update(BATCHES).where(_BATCHES.id == batch_id).values(is_cancelled=True))
