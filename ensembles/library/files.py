"""Files as tenants upload them: contents in blobs, the rest in records; acknowledged once both are on the disk."""

from __future__ import annotations

from collections.abc import AsyncIterable
from pathlib import Path

from ensembles.records.rows import File, Page, Range


class Files:
    """The files of all owners; others' do not exist for an owner."""

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
        """Keep a file, in constant memory. On the disk when this returns; nothing is left where it raises.

        Raises `BodyTooLarge`.
        """
        raise NotImplementedError

    async def get(self, owner: str, file_id: str) -> File:
        raise NotImplementedError

    async def page(self, owner: str, part: Range, purpose: str = "") -> Page[File]:
        raise NotImplementedError

    async def delete(self, owner: str, file_id: str) -> None:
        """Delete it for good, from every vector store too."""
        raise NotImplementedError

    async def content(self, owner: str, file_id: str) -> Path:
        """Where its bytes are."""
        raise NotImplementedError
