"""Vector stores: made, listed, changed, deleted with all that is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ensembles.records.rows import Addition, Page, Range, VectorStore


class VectorStores:
    """The vector stores of all owners; others' do not exist for an owner."""

    async def create(
        self,
        owner: str,
        name: str = "",
        *,
        description: str = "",
        metadata: Mapping[str, str] | None = None,
        expires_after_days: int | None = None,
        files: Sequence[Addition] = (),
    ) -> VectorStore:
        """Make one, and have `files` ingested into it."""
        raise NotImplementedError

    async def get(self, owner: str, store_id: str) -> VectorStore:
        raise NotImplementedError

    async def find(self, owner: str, name: str) -> VectorStore | None:
        """The one of this id, else the newest of this name that has not expired."""
        raise NotImplementedError

    async def page(self, owner: str, part: Range) -> Page[VectorStore]:
        raise NotImplementedError

    async def update(
        self,
        owner: str,
        store_id: str,
        *,
        name: str | None = None,
        description: str | None = None,
        metadata: Mapping[str, str] | None = None,
        expires_after_days: int | None = None,
    ) -> VectorStore:
        """Change what is not None; `expires_after_days` 0: it shall never expire."""
        raise NotImplementedError

    async def delete(self, owner: str, store_id: str) -> None:
        """Delete it with its chunks; its files stay."""
        raise NotImplementedError
