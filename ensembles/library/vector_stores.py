"""Vector stores: made, listed, changed, deleted with all that is in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backends.errors import ServingError
from ensembles.library.opening import Opening
from ensembles.library.removal import remove_store
from ensembles.records.ids import new_id
from ensembles.records.rows import Addition, Page, Range, VectorStore

_DAY_SECONDS = 86400


class VectorStores:
    """The vector stores of all owners; others' do not exist for an owner."""

    def __init__(self, opening: Opening, embedder: Callable[[], str]) -> None:
        self._opening = opening
        self._embedder = embedder

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
        """Make one, and have `files` ingested into it. Raises `NotFound` where there is one of them not."""
        from ensembles.library.members import add
        from ensembles.records import vector_stores

        now = self._opening.now()
        store = VectorStore(
            new_id("vs_"),
            owner,
            name,
            description,
            dict(metadata or {}),
            self._known_embedder(),
            now,
            now,
            expires_after_days,
            _end(now, expires_after_days),
        )
        async with (await self._opening.shelves()).database.write() as connection:
            await vector_stores.add(connection, store)
            await add(connection, owner, store.id, files, now)
            return await vector_stores.get(connection, owner, store.id)

    async def get(self, owner: str, store_id: str) -> VectorStore:
        from ensembles.records import vector_stores

        async with (await self._opening.shelves()).database.read() as connection:
            return await vector_stores.get(connection, owner, store_id)

    async def find(self, owner: str, name: str) -> VectorStore | None:
        """The one of this id, else the newest of this name; None where there is none that has not expired."""
        from ensembles.records import vector_stores

        async with (await self._opening.shelves()).database.read() as connection:
            return await vector_stores.find(connection, owner, name, self._opening.now())

    async def ids(self) -> list[str]:
        """Those of all owners, for who looks after them all."""
        from ensembles.records import vector_stores

        async with (await self._opening.shelves()).database.read() as connection:
            return await vector_stores.ids(connection)

    async def page(self, owner: str, part: Range) -> Page[VectorStore]:
        """The owner's vector stores in the order of their making."""
        from ensembles.records import vector_stores

        async with (await self._opening.shelves()).database.read() as connection:
            return await vector_stores.page(connection, owner, part)

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
        """Change what is not None; `expires_after_days` 0: it shall never expire.

        Raises `InvalidRequest` for one that has expired: nothing brings it back.
        """
        from ensembles.records import vector_stores

        now = self._opening.now()
        values: dict[str, Any] = {"name": name, "description": description, "metadata": metadata}
        values = {field: value for field, value in values.items() if value is not None} | {"last_active_at": now}
        if expires_after_days is not None:
            values["expires_after_days"] = expires_after_days or None
            values["expires_at"] = _end(now, expires_after_days or None)
        async with (await self._opening.shelves()).database.write() as connection:
            await vector_stores.lock(connection, owner, store_id, now)
            await vector_stores.touch(connection, [store_id], now)
            await vector_stores.change(connection, store_id, values)
            return await vector_stores.get(connection, owner, store_id)

    async def delete(self, owner: str, store_id: str) -> None:
        """Delete it with its chunks, also while files are being ingested; its files stay."""
        from ensembles.records import vector_stores

        shelves, now = await self._opening.shelves(), self._opening.now()
        async with shelves.database.write() as connection:
            await vector_stores.get(connection, owner, store_id)
            await vector_stores.mark(connection, store_id, now)
        await remove_store(shelves, store_id, now)

    def _known_embedder(self) -> str:
        """The model of its vectors to be; models that are not loaded yet may be known at the first ingestion."""
        try:
            return self._embedder()
        except ServingError:
            return ""


def _end(now: int, days: int | None) -> int | None:
    return None if days is None else now + days * _DAY_SECONDS
