"""Files that wait to be ingested: claimed for a while by a worker, finished by whoever still holds the claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from backends.errors import NotFound
from ensembles.library.opening import Opening, Shelves
from ensembles.library.removal import give_up
from ensembles.records.rows import ErrorCode, Job
from ensembles.stores.store import Attributes, Chunk

_PUT_SECONDS = 120.0
_FLOAT_BYTES = 4


class Jobs:
    """The work of ingesters, on any number of machines. A claim that was not renewed in time is anybody's."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening

    async def claim(self, worker: str, lease_seconds: float) -> Job | None:
        """The file that has waited longest, None where none waits. Cheap then: no lock is taken."""
        from ensembles.records import jobs

        database, now = (await self._opening.shelves()).database, self._opening.clock()
        async with database.read() as connection:
            if not await jobs.is_any(connection, now):
                return None
        async with database.write() as connection:
            return await jobs.claim(connection, worker, now, lease_seconds)

    async def renew(self, job: Job, lease_seconds: float) -> bool:
        """Keep a claim. False: it is lost, since the file was deleted or cancelled or another worker has it."""
        from ensembles.records import jobs

        async with (await self._opening.shelves()).database.write() as connection:
            return await jobs.renew(connection, job, self._opening.clock() + lease_seconds) is not None

    async def release(self, worker: str) -> int:
        """Give back all that a worker of this name had claimed, say before it was killed. Returns how many."""
        from ensembles.records import jobs

        async with (await self._opening.shelves()).database.write() as connection:
            return await jobs.release(connection, worker)

    async def cancelled(self, job: Job) -> bool:
        """Whether the claim is lost, so that going on is of no use."""
        from ensembles.records import jobs

        async with (await self._opening.shelves()).database.read() as connection:
            return not await jobs.is_held(connection, job)

    def content(self, job: Job) -> Path:
        """Where the file's bytes are."""
        return self._opening.blobs.path(job.sha256, job.file_id)

    async def complete(self, job: Job, chunks: Sequence[Chunk], embedder: str = "") -> bool:
        """Put the file's chunks into the store, vectors included, and make them visible.

        Attributes and filename are set here. The collection is made with the first vector's dimensions; `embedder` is
        the model that made them, where the job named none. False: the claim is lost, and nothing of it is left. No
        chunks: the file is completed and holds nothing.
        """
        from ensembles.records import jobs, vector_stores

        shelves = await self._opening.shelves()
        usage_bytes = sum(len(chunk.text.encode()) + len(chunk.vector) for chunk in chunks)
        wrote = False
        while True:
            async with shelves.database.write() as connection:
                row = await jobs.renew(connection, job, self._opening.clock() + _PUT_SECONDS)
                if row is not None and embedder:
                    await vector_stores.adopt(connection, job.store_id, embedder)
            if row is None:
                await give_up(shelves, job, wrote=wrote)
                return False
            wrote = True
            await _put(shelves, job, chunks, row.attributes)
            async with shelves.database.write() as connection:
                if await jobs.complete(connection, job, usage_bytes, row.revision):
                    return True
            # The claim was lost meanwhile, or the attributes were changed: the next round tells which.

    async def fail(self, job: Job, code: ErrorCode, message: str) -> bool:
        """Say for good why it could not be ingested. False: the claim is lost."""
        from ensembles.records import jobs

        shelves = await self._opening.shelves()
        async with shelves.database.write() as connection:
            is_told = await jobs.fail(connection, job, code, message)
        if not is_told:
            await give_up(shelves, job, wrote=False)
        return is_told

    async def waiting(self) -> int:
        """How many files are in progress, claimed or not."""
        from ensembles.records import jobs

        async with (await self._opening.shelves()).database.read() as connection:
            return await jobs.waiting(connection)


async def _put(shelves: Shelves, job: Job, chunks: Sequence[Chunk], attributes: Attributes) -> None:
    store = shelves.store
    whole = [replace(chunk, file_id=job.file_id, filename=job.filename, attributes=attributes) for chunk in chunks]
    try:
        await store.put(job.store_id, job.file_id, whole)
    except NotFound:
        if not whole:
            return
        await store.create(job.store_id, len(whole[0].vector) // _FLOAT_BYTES)
        await store.put(job.store_id, job.file_id, whole)
