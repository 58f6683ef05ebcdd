"""Claims on files that wait to be ingested: every change of one is conditional on its being held."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Row, Select, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ensembles.records.ids import new_id
from ensembles.records.members import LIVE
from ensembles.records.rows import Chunking, ErrorCode, Job, Status
from ensembles.records.tables import FILES, MEMBERS, VECTOR_STORES

_MEMBERS = MEMBERS.c
_MARKS = MEMBERS.alias("marks")


async def claim(connection: AsyncConnection, worker: str, now: float, lease_seconds: float) -> Job | None:
    """The file that has waited longest becomes this worker's."""
    waiting = _waiting(now).with_for_update(skip_locked=True, of=MEMBERS)  # of PostgreSQL: SQLite has one writer
    row = (await connection.execute(waiting)).first()
    if row is None:
        return None
    name = new_id("")
    values = {"worker": worker, "claim": name, "claimed_until": now + lease_seconds, "attempt": row.attempt + 1}
    await connection.execute(update(MEMBERS).where(_MEMBERS.key == row.key).values(values))
    chunking = Chunking(row.max_chunk_size_tokens, row.chunk_overlap_tokens, row.is_auto)
    return Job(
        row.key,
        row.owner,
        row.store_id,
        row.file_id,
        row.filename,
        row.bytes,
        row.sha256,
        row.attributes,
        chunking,
        row.embedder,
        name,
        row.attempt + 1,
    )


async def is_any(connection: AsyncConnection, now: float) -> bool:
    """Whether a file waits that can be claimed."""
    return (await connection.execute(_waiting(now))).first() is not None


async def renew(connection: AsyncConnection, job: Job, until: float) -> Row[Any] | None:
    """Hold the claim until then. Returns the row's `attributes` and `revision`, None where the claim is lost."""
    query = update(MEMBERS).where(_is_held(job)).values(claimed_until=until)
    return (await connection.execute(query.returning(_MEMBERS.attributes, _MEMBERS.revision))).first()


async def release(connection: AsyncConnection, worker: str) -> int:
    query = update(MEMBERS).where(LIVE, _MEMBERS.worker == worker, _MEMBERS.status == Status.IN_PROGRESS)
    freed = await connection.execute(query.where(_MEMBERS.claim != "").values(claim="", claimed_until=None))
    return int(freed.rowcount)


async def is_held(connection: AsyncConnection, job: Job) -> bool:
    return (await connection.execute(select(_MEMBERS.key).where(_is_held(job)))).first() is not None


async def complete(connection: AsyncConnection, job: Job, usage_bytes: int, revision: int) -> bool:
    """False: the claim is lost, or the attributes are not of this revision any more."""
    values = {"status": Status.COMPLETED, "usage_bytes": usage_bytes, "indexed_revision": revision}
    query = update(MEMBERS).where(_is_held(job), _MEMBERS.revision == revision)
    return bool((await connection.execute(query.values(values | _ENDED))).rowcount)


async def fail(connection: AsyncConnection, job: Job, code: ErrorCode, message: str) -> bool:
    """False: the claim is lost."""
    values = {"status": Status.FAILED, "error_code": code, "error_message": message}
    return bool((await connection.execute(update(MEMBERS).where(_is_held(job)).values(values | _ENDED))).rowcount)


async def again(connection: AsyncConnection, job: Job) -> bool:
    """Have the file ingested once more, where it is there with another claim. Returns whether it is there."""
    found = await connection.execute(select(_MEMBERS.status).where(_MEMBERS.key == job.key, LIVE))
    row = found.first()
    if row is not None and row.status == Status.COMPLETED:
        await connection.execute(
            update(MEMBERS).where(_MEMBERS.key == job.key, LIVE).values(_ENDED | {"status": Status.IN_PROGRESS})
        )
    return row is not None and row.status in {Status.COMPLETED, Status.IN_PROGRESS}


async def waiting(connection: AsyncConnection) -> int:
    query = select(func.count()).select_from(MEMBERS).where(LIVE, _MEMBERS.status == Status.IN_PROGRESS)
    return int((await connection.execute(query)).scalar_one())


_ENDED = {"worker": "", "claim": "", "claimed_until": None}


def _waiting(now: float) -> Select[Any]:
    """The first file that nobody has. One whose chunks are still to be removed, from before, waits for that."""
    stores = VECTOR_STORES.c
    is_free = or_(_MEMBERS.claimed_until.is_(None), _MEMBERS.claimed_until <= now)
    marks = select(_MARKS.c.key).where(
        _MARKS.c.store_id == _MEMBERS.store_id,
        _MARKS.c.file_id == _MEMBERS.file_id,
        _MARKS.c.deleted_at.is_not(None),
        _MARKS.c.is_removed.is_(False),
    )
    return (
        select(MEMBERS, FILES.c.filename, FILES.c.bytes, FILES.c.sha256, stores.owner, stores.embedder)
        .join(FILES, FILES.c.id == _MEMBERS.file_id)
        .join(VECTOR_STORES, stores.id == _MEMBERS.store_id)
        .where(LIVE, _MEMBERS.status == Status.IN_PROGRESS, is_free)
        .where(stores.deleted_at.is_(None), or_(stores.expires_at.is_(None), stores.expires_at > now), ~marks.exists())
        .order_by(_MEMBERS.key)
        .limit(1)
    )


def _is_held(job: Job) -> ColumnElement[bool]:
    return (_MEMBERS.key == job.key) & LIVE & (_MEMBERS.status == Status.IN_PROGRESS) & (_MEMBERS.claim == job.claim)
