"""Claims on files that wait to be ingested: every change of one is conditional on its being held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Row, Select, case, func, literal, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ensembles.records.ids import new_id
from ensembles.records.members import LIVE
from ensembles.records.rows import Chunking, ErrorCode, Job, Status
from ensembles.records.tables import FILES, MEMBERS, VECTOR_STORES

_MEMBERS = MEMBERS.c
_MARKS = MEMBERS.alias("marks")


async def claim(connection: AsyncConnection, worker: str, now: float, lease_seconds: float, most: int) -> list[Job]:
    """The files that have waited longest become this worker's, in the order in which they were added."""
    waiting = _waiting(now, most).with_for_update(skip_locked=True, of=MEMBERS)  # of PostgreSQL: SQLite has one writer
    rows = (await connection.execute(waiting)).all()
    name = new_id("")
    values = {"worker": worker, "claim": name, "claimed_until": now + lease_seconds, "attempt": _MEMBERS.attempt + 1}
    await connection.execute(update(MEMBERS).where(_MEMBERS.key.in_([row.key for row in rows])).values(values))
    return [_job(row, name) for row in rows]


async def is_any(connection: AsyncConnection, now: float) -> bool:
    """Whether a file waits that can be claimed."""
    return (await connection.execute(_waiting(now, 1))).first() is not None


async def renew(connection: AsyncConnection, jobs: Sequence[Job], until: float) -> dict[str, Row[Any]]:
    """Hold the claims until then. Returns the rows' `attributes` and `revision` by key, none where a claim is lost."""
    query = update(MEMBERS).where(_are_held(jobs)).values(claimed_until=until)
    rows = await connection.execute(query.returning(_MEMBERS.key, _MEMBERS.attributes, _MEMBERS.revision))
    return {row.key: row for row in rows}


async def release(connection: AsyncConnection, worker: str) -> int:
    query = update(MEMBERS).where(LIVE, _MEMBERS.worker == worker, _MEMBERS.status == Status.IN_PROGRESS)
    freed = await connection.execute(query.where(_MEMBERS.claim != "").values(claim="", claimed_until=None))
    return int(freed.rowcount)


async def held(connection: AsyncConnection, jobs: Sequence[Job]) -> set[str]:
    """The keys of those whose claims are not lost."""
    return set((await connection.execute(select(_MEMBERS.key).where(_are_held(jobs)))).scalars())


async def complete(connection: AsyncConnection, done: Sequence[tuple[Job, int, int]]) -> set[str]:
    """Files, each with the bytes that it takes and the revision of its attributes that is indexed: they are there.

    Returns the keys of those that are. Of the others the claim is lost, or the attributes are not of this revision.
    """
    sizes = {job.key: literal(usage_bytes, BigInteger) for job, usage_bytes, _ in done}
    revisions = case({job.key: revision for job, _, revision in done}, value=_MEMBERS.key)
    query = update(MEMBERS).where(_are_held([job for job, _, _ in done]), _MEMBERS.revision == revisions)
    values = {
        "status": Status.COMPLETED,
        "usage_bytes": case(sizes, value=_MEMBERS.key),
        "indexed_revision": _MEMBERS.revision,
    }
    return set((await connection.execute(query.values(values | _ENDED).returning(_MEMBERS.key))).scalars())


async def fail(connection: AsyncConnection, job: Job, code: ErrorCode, message: str) -> bool:
    """False: the claim is lost."""
    values = {"status": Status.FAILED, "error_code": code, "error_message": message}
    return bool((await connection.execute(update(MEMBERS).where(_are_held([job])).values(values | _ENDED))).rowcount)


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


def _waiting(now: float, most: int) -> Select[Any]:
    """The first files that nobody has. One whose chunks are still to be removed, from before, waits for that."""
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
        .limit(most)
    )


def _are_held(jobs: Sequence[Job]) -> ColumnElement[bool]:
    claims = tuple_(_MEMBERS.key, _MEMBERS.claim).in_([(job.key, job.claim) for job in jobs])
    return LIVE & (_MEMBERS.status == Status.IN_PROGRESS) & claims


def _job(row: Row[Any], claim: str) -> Job:
    """Of a row that was read before it was claimed."""
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
        claim,
        row.attempt + 1,
    )
