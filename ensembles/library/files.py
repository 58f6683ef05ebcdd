"""Files as tenants upload them: contents in blobs, the rest in records; acknowledged once both are on the disk."""

from __future__ import annotations

from collections.abc import AsyncIterable
from pathlib import Path

from ensembles.blobs import Draft
from ensembles.library.opening import Opening
from ensembles.library.removal import remove_file
from ensembles.records.ids import new_id
from ensembles.records.rows import File, Page, Range


class Files:
    """The files of all owners; others' do not exist for an owner, nor do those whose time is up."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening

    async def create(
        self,
        owner: str,
        filename: str,
        purpose: str,
        content: AsyncIterable[bytes],
        *,
        limit_bytes: int | None = None,
        expires_after_seconds: int | None = None,
    ) -> File:
        """Keep a file, in constant memory. On the disk when this returns.

        Raises `BodyTooLarge`, and whatever `content` raises; then nothing is left of it.
        """
        draft = await self.receive(content, limit_bytes)
        return await self.keep(owner, filename, purpose, draft, expires_after_seconds)

    async def receive(self, content: AsyncIterable[bytes], limit_bytes: int | None = None) -> Draft:
        """The first half of `create`, for contents that come before all is known of them: to be kept or discarded."""
        return await self._opening.blobs.receive(content, limit_bytes)

    async def discard(self, draft: Draft) -> None:
        await self._opening.blobs.discard(draft)

    async def keep(
        self, owner: str, filename: str, purpose: str, draft: Draft, expires_after_seconds: int | None = None
    ) -> File:
        """The second half of `create`."""
        from ensembles.records import files

        shelves = await self._opening.shelves()
        now = self._opening.now()
        expires_at = None if expires_after_seconds is None else now + expires_after_seconds
        file = File(new_id("file-"), owner, filename, purpose, draft.bytes, draft.sha256, now, expires_at)
        await shelves.blobs.place(draft, file.id)
        async with shelves.database.write() as connection:
            await files.add(connection, file)
        return file

    async def get(self, owner: str, file_id: str) -> File:
        from ensembles.records import files

        async with (await self._opening.shelves()).database.read() as connection:
            return await files.get(connection, owner, file_id, self._opening.now())

    async def page(self, owner: str, part: Range, purpose: str = "") -> Page[File]:
        """The owner's files in the order of their making."""
        from ensembles.records import files

        async with (await self._opening.shelves()).database.read() as connection:
            return await files.page(connection, owner, part, purpose, self._opening.now())

    async def delete(self, owner: str, file_id: str) -> None:
        """Delete it for good, from every vector store too, also while it is being ingested."""
        file = await self.get(owner, file_id)
        await remove_file(await self._opening.shelves(), file, self._opening.now())

    async def content(self, owner: str, file_id: str) -> Path:
        """Where its bytes are."""
        file = await self.get(owner, file_id)
        return self._opening.blobs.path(file.sha256, file.id)
