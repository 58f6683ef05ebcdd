"""Files in vector stores, one by one and in batches."""

from __future__ import annotations

from collections.abc import Sequence

from ensembles.records.rows import Addition, Batch, Member, Page, Range, Status
from ensembles.stores.store import Attributes, Chunk


class Members:
    """The files in vector stores, and the batches that they came in."""

    async def add(self, owner: str, store_id: str, addition: Addition) -> Member:
        """Have a file ingested. One that is there with the same attributes and chunking stays as it is."""
        raise NotImplementedError

    async def get(self, owner: str, store_id: str, file_id: str) -> Member:
        raise NotImplementedError

    async def page(
        self, owner: str, store_id: str, part: Range, *, status: Status | None = None, batch_id: str = ""
    ) -> Page[Member]:
        """The files of a store, or of one of its batches."""
        raise NotImplementedError

    async def set_attributes(self, owner: str, store_id: str, file_id: str, attributes: Attributes) -> Member:
        raise NotImplementedError

    async def delete(self, owner: str, store_id: str, file_id: str) -> None:
        """Take a file out of a store: its chunks are deleted, also while they are being made. The file stays."""
        raise NotImplementedError

    async def content(self, owner: str, store_id: str, file_id: str) -> list[Chunk]:
        """The chunks of a file. Raises `InvalidRequest` unless it is completed."""
        raise NotImplementedError

    async def add_batch(self, owner: str, store_id: str, additions: Sequence[Addition]) -> Batch:
        raise NotImplementedError

    async def get_batch(self, owner: str, store_id: str, batch_id: str) -> Batch:
        raise NotImplementedError

    async def cancel_batch(self, owner: str, store_id: str, batch_id: str) -> Batch:
        """Give up what is not ingested yet."""
        raise NotImplementedError
