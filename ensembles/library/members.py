"""Files in vector stores, one by one and in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from backends.errors import InvalidRequest, NotFound
from ensembles.library.opening import Opening
from ensembles.library.removal import remove_chunks, update_attributes
from ensembles.records.rows import Addition, Batch, Member, Page, Range, Status
from ensembles.stores.store import Attributes, Chunk

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


class Members:
    """The files in vector stores, and the batches that they came in."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening

    async def add(self, owner: str, store_id: str, addition: Addition) -> Member:
        """Have a file ingested. One that is there with the same attributes and chunking stays as it is."""
        from ensembles.records import members, vector_stores

        now = self._opening.now()
        async with (await self._opening.shelves()).database.write() as connection:
            await vector_stores.lock(connection, owner, store_id, now)
            await add(connection, owner, store_id, [addition], now)
            return await members.get(connection, store_id, addition.file_id)

    async def get(self, owner: str, store_id: str, file_id: str) -> Member:
        from ensembles.records import members, vector_stores

        async with (await self._opening.shelves()).database.read() as connection:
            await vector_stores.check(connection, owner, store_id)
            return await members.get(connection, store_id, file_id)

    async def page(
        self, owner: str, store_id: str, part: Range, *, status: Status | None = None, batch_id: str = ""
    ) -> Page[Member]:
        """The files of a store, or of one of its batches, in the order in which they were added."""
        from ensembles.records import batches, members, vector_stores

        async with (await self._opening.shelves()).database.read() as connection:
            await vector_stores.check(connection, owner, store_id)
            if batch_id:
                await batches.get(connection, store_id, batch_id)
            return await members.page(connection, store_id, part, status, batch_id)

    async def set_attributes(self, owner: str, store_id: str, file_id: str, attributes: Attributes) -> Member:
        """Replace a file's attributes, for searches that begin from now on."""
        from ensembles.records import members, vector_stores

        shelves = await self._opening.shelves()
        async with shelves.database.write() as connection:
            await vector_stores.lock(connection, owner, store_id, self._opening.now())
            await members.set_attributes(connection, store_id, file_id, attributes)
        await update_attributes(shelves, store_id, file_id)
        return await self.get(owner, store_id, file_id)

    async def delete(self, owner: str, store_id: str, file_id: str) -> None:
        """Take a file out of a store: its chunks are deleted, also while they are being made. The file stays."""
        from ensembles.records import members, vector_stores

        shelves, now = await self._opening.shelves(), self._opening.now()
        async with shelves.database.write() as connection:
            await vector_stores.check(connection, owner, store_id)
            if not await members.mark(connection, file_id, now, store_id):
                raise members.not_found(store_id, file_id)
        await remove_chunks(shelves, [(store_id, file_id)], now)

    async def content(self, owner: str, store_id: str, file_id: str) -> list[Chunk]:
        """The chunks of a file. Raises `InvalidRequest` unless it is completed."""
        member = await self.get(owner, store_id, file_id)
        if member.status is not Status.COMPLETED:
            raise InvalidRequest(
                f"The file '{file_id}' is {member.status.value}: it has no content yet.", param="file_id"
            )
        try:
            return await (await self._opening.shelves()).store.read(store_id, file_id)
        except NotFound:
            return []

    async def add_batch(self, owner: str, store_id: str, additions: Sequence[Addition]) -> Batch:
        """Have several files ingested, all of them or, where it raises, none."""
        from ensembles.records import batches, vector_stores

        now = self._opening.now()
        unique = list({addition.file_id: addition for addition in additions}.values())
        async with (await self._opening.shelves()).database.write() as connection:
            await vector_stores.lock(connection, owner, store_id, now)
            await add(connection, owner, store_id, unique, now)
            batch_id = await batches.add(connection, store_id, [each.file_id for each in unique], now)
            return await batches.get(connection, store_id, batch_id)

    async def get_batch(self, owner: str, store_id: str, batch_id: str) -> Batch:
        from ensembles.records import batches, vector_stores

        async with (await self._opening.shelves()).database.read() as connection:
            await vector_stores.check(connection, owner, store_id)
            return await batches.get(connection, store_id, batch_id)

    async def cancel_batch(self, owner: str, store_id: str, batch_id: str) -> Batch:
        """Give up what is not ingested yet."""
        from ensembles.records import batches, vector_stores

        async with (await self._opening.shelves()).database.write() as connection:
            await vector_stores.check(connection, owner, store_id)
            await batches.get(connection, store_id, batch_id)
            await batches.cancel(connection, store_id, batch_id)
            return await batches.get(connection, store_id, batch_id)


async def add(connection: AsyncConnection, owner: str, store_id: str, additions: Sequence[Addition], now: int) -> None:
    """Have files ingested into a store that the transaction holds. Raises `NotFound` for a file that is not there."""
    from ensembles.records import files, members, vector_stores

    if not additions:
        return
    ids = [addition.file_id for addition in additions]
    there = await files.existing(connection, owner, ids, now)
    for file_id in ids:
        if file_id not in there:
            raise NotFound(f"No such File object: {file_id[:64]}", param="file_id")
    await members.add(connection, store_id, additions, now)
    await vector_stores.touch(connection, [store_id], now)
