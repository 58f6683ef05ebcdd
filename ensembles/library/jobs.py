"""Files that wait to be ingested: claimed for a while by a worker, finished by whoever still holds the claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from backends.errors import NotFound
from ensembles.library.opening import Opening, Shelves
from ensembles.library.removal import give_up
from ensembles.records.rows import ErrorCode, Job
from ensembles.stores.store import Attributes, Chunk

_PUT_SECONDS = 120.0
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Finished:
    """A file that is ready to be put into its store. No chunks: it is completed and holds nothing.

    `embedder` is the model that made the vectors, where the job named none.
    """

    job: Job
    chunks: Sequence[Chunk]
    embedder: str = ""

    @property
    def usage_bytes(self) -> int:
        return sum(len(chunk.text.encode()) + len(chunk.vector) for chunk in self.chunks)

    def with_attributes(self, attributes: Attributes) -> list[Chunk]:
        job = self.job
        return [
            replace(chunk, file_id=job.file_id, filename=job.filename, attributes=attributes) for chunk in self.chunks
        ]


class Jobs:
    """The work of ingesters, on any number of machines. A claim that was not renewed in time is anybody's."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening

    async def claim(self, worker: str, lease_seconds: float, most: int) -> list[Job]:
        """The files that have waited longest, `most` at most. Cheap where none waits: no lock is taken."""
        from ensembles.records import jobs

        database, now = (await self._opening.shelves()).database, self._opening.clock()
        async with database.read() as connection:
            if not await jobs.is_any(connection, now):
                return []
        async with database.write() as connection:
            return await jobs.claim(connection, worker, now, lease_seconds, most)

    async def renew(self, held: Sequence[Job], lease_seconds: float) -> set[str]:
        """Keep claims. Returns the keys of those that are not lost; see `held`."""
        from ensembles.records import jobs

        async with (await self._opening.shelves()).database.write() as connection:
            return set(await jobs.renew(connection, held, self._opening.clock() + lease_seconds))

    async def held(self, claimed: Sequence[Job]) -> set[str]:
        """The keys of claims that are not lost: a file may be deleted or cancelled, or another worker may have it.

        To go on with one that is lost is of no use.
        """
        from ensembles.records import jobs

        async with (await self._opening.shelves()).database.read() as connection:
            return await jobs.held(connection, claimed)

    async def release(self, worker: str) -> int:
        """Give back all that a worker of this name had claimed, say before it was killed. Returns how many."""
        from ensembles.records import jobs

        async with (await self._opening.shelves()).database.write() as connection:
            return await jobs.release(connection, worker)

    def content(self, job: Job) -> Path:
        """Where the file's bytes are."""
        return self._opening.blobs.path(job.sha256, job.file_id)

    async def complete(self, finished: Sequence[Finished]) -> list[bool]:
        """Put the chunks of files into their one store, vectors included, and make them visible.

        Attributes and filenames are set here. The collection is made with the first vector's dimensions. False: the
        claim of a file is lost, and nothing of it is left.
        """
        from ensembles.records import jobs, vector_stores

        shelves = await self._opening.shelves()
        done: dict[str, bool] = {}
        left, wrote = finished, False
        while left:
            until = self._opening.clock() + _PUT_SECONDS
            async with shelves.database.write() as connection:
                rows = await jobs.renew(connection, [each.job for each in left], until)
                held = [(each, rows[each.job.key]) for each in left if each.job.key in rows]
                if embedder := next((each.embedder for each, _ in held if each.embedder), ""):
                    await vector_stores.adopt(connection, held[0][0].job.store_id, embedder)
            for each in left:
                if each.job.key not in rows:
                    await give_up(shelves, each.job, wrote=wrote)
                    done[each.job.key] = False
            wrote = True
            if held:
                whole = {each.job.file_id: each.with_attributes(row.attributes) for each, row in held}
                await _put(shelves, held[0][0].job.store_id, whole)
                async with shelves.database.write() as connection:
                    # Of the others the claim was lost meanwhile, or the attributes were changed: the next round tells.
                    ready = [(each.job, each.usage_bytes, row.revision) for each, row in held]
                    done |= dict.fromkeys(await jobs.complete(connection, ready), True)
            left = [each for each in left if each.job.key not in done]
        return [done[each.job.key] for each in finished]

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


async def _put(shelves: Shelves, store_id: str, files: Mapping[str, Sequence[Chunk]]) -> None:
    try:
        await shelves.store.put(store_id, files)
    except NotFound:
        first = next(chain.from_iterable(files.values()), None)
        if first is None:
            return
        await shelves.store.create(store_id, len(first.vector) // _FLOAT_BYTES)
        await shelves.store.put(store_id, files)
