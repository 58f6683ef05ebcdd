"""Deletion that really deletes: records first, then chunks and bytes; what is interrupted is finished by a sweep."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from backends.errors import NotFound
from ensembles.library.opening import Opening, Shelves
from ensembles.records.rows import File, Job

_ORPHAN_SECONDS = 3600.0
_MARK_SECONDS = 3600.0
_BATCH = 500


async def remove_file(shelves: Shelves, file: File, now: int) -> None:
    """Delete a file of its owner from everywhere. Raises `NotFound` where another was faster."""
    from ensembles.records import files, members

    async with shelves.database.write() as connection:
        await files.remove(connection, file.owner, file.id)
        stores = await members.mark(connection, file.id, now)
    await shelves.blobs.remove(file.sha256, file.id)
    await remove_chunks(shelves, [(store, file.id) for store in stores], now)


async def remove_chunks(shelves: Shelves, marks: Iterable[tuple[str, str]], now: float | None) -> None:
    """Delete the chunks of (store, file) that are marked. A mark stays while a claim may bring them back.

    Without `now` none can: who had the claim says so.
    """
    from ensembles.records import members

    for store_id, file_id in marks:
        with suppress(NotFound):
            await shelves.store.remove(store_id, file_id)
        async with shelves.database.write() as connection:
            await members.removed(connection, store_id, file_id, now)


async def remove_store(shelves: Shelves, store_id: str, now: float) -> None:
    """Drop the collection of a store that is marked."""
    from ensembles.records import vector_stores

    await shelves.store.drop(store_id)
    async with shelves.database.write() as connection:
        await vector_stores.forget(connection, store_id, now)


async def give_up(shelves: Shelves, job: Job, *, wrote: bool) -> None:
    """Leave nothing of a job whose claim was lost: its file or store was deleted, it was cancelled, or done again.

    Where it `wrote` and another claim has the file, that one's chunks may have been replaced: it is ingested again.
    """
    from ensembles.records import jobs, members, vector_stores

    async with shelves.database.write() as connection:
        has_store = await vector_stores.is_live(connection, job.store_id)
        is_wanted = has_store and wrote and await jobs.again(connection, job)
        is_marked = (job.store_id, job.file_id) in await members.marked(connection, job.file_id)
    if not has_store:
        await shelves.store.drop(job.store_id)
    elif is_marked:
        await remove_chunks(shelves, [(job.store_id, job.file_id)], None)
    elif wrote and not is_wanted:
        with suppress(NotFound):
            await shelves.store.remove(job.store_id, job.file_id)


async def sweep(opening: Opening) -> None:
    """Finish what was interrupted, delete what has expired. Several processes may do it at once."""
    from ensembles.records import files, members, vector_stores

    shelves, now = await opening.shelves(), opening.now()
    async with shelves.database.read() as connection:
        expired_files = await files.expired(connection, now, _BATCH)
        expired_stores = await vector_stores.expired(connection, now)
        marked = await members.marked(connection)
        stores = await vector_stores.marked(connection)
    for file in expired_files:
        with suppress(NotFound):
            await remove_file(shelves, file, now)
    for store_id in expired_stores:
        await shelves.store.drop(store_id)
        async with shelves.database.write() as connection:
            await members.clear(connection, store_id)
    await remove_chunks(shelves, marked, now)
    for store_id in stores:
        await remove_store(shelves, store_id, now)
    async with shelves.database.write() as connection:
        await members.forget(connection, now - _MARK_SECONDS)
    await update_attributes(shelves)
    await _remove_orphans(shelves, _ORPHAN_SECONDS)


async def update_attributes(shelves: Shelves, store_id: str = "", file_id: str = "") -> None:
    """Give chunks the attributes that their files have: where that was interrupted, or of one file."""
    from ensembles.records import members

    while True:
        async with shelves.database.read() as connection:
            behind = await members.behind(connection, store_id, file_id)
        for row in behind:
            with suppress(NotFound):
                await shelves.store.set_attributes(row.store_id, row.file_id, row.attributes)
            async with shelves.database.write() as connection:
                await members.caught_up(connection, row.key, row.revision)
        if not behind:
            return


async def _remove_orphans(shelves: Shelves, seconds: float) -> None:
    """Delete bytes whose upload was never acknowledged, or whose deletion was interrupted."""
    from ensembles.records import files

    placed = await shelves.blobs.older_than(seconds)
    for start in range(0, len(placed), _BATCH):
        part = placed[start : start + _BATCH]
        async with shelves.database.read() as connection:
            known = await files.known(connection, [file_id for _, file_id in part])
        for sha256, file_id in part:
            if file_id not in known:
                await shelves.blobs.remove(sha256, file_id)
