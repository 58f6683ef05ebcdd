"""The vector stores that a question may be asked of: by id or name, the tenant's own or nobody's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from backends.errors import InvalidRequest, ModelNotReady, NotFound
from ensembles.records.rows import VectorStore
from ensembles.step import Searchable

NOBODY = ""
"""The owner of what is there for every tenant who may use a pipeline."""


_OWN_SECONDS = 2.0


class Stores(Protocol):
    async def get(self, owner: str, store_id: str) -> VectorStore: ...
    async def find(self, owner: str, name: str) -> VectorStore | None: ...


class Shelf(Searchable, Protocol):
    """A library, as far as pipelines look at it."""

    @property
    def reranker(self) -> str: ...

    @property
    def vector_stores(self) -> Stores: ...


async def asked_for(shelf: Shelf, owner: str, ids: Sequence[str]) -> list[VectorStore]:
    """The stores that a request names, the tenant's own alone. Raises `NotFound`, `InvalidRequest`."""
    return _of_one_embedder([await shelf.vector_stores.get(owner, store_id) for store_id in dict.fromkeys(ids)])


async def configured(shelf: Shelf, owner: str, names: Sequence[str], own: str = "") -> list[VectorStore]:
    """The stores that a pipeline names: nobody's, else the tenant's own of that name.

    `own` is the one of the pipeline's documents. Raises `ModelNotReady` while it is not there, `NotFound` for another
    one, `InvalidRequest`.
    """
    found = []
    for name in names:
        store = await shelf.vector_stores.find(NOBODY, name)
        if store is None and owner != NOBODY:
            store = await shelf.vector_stores.find(owner, name)
        if store is None and name == own:
            raise ModelNotReady(f"The documents of '{name}' are not read yet.", retry_after_seconds=_OWN_SECONDS)
        if store is None:
            raise NotFound(f"There is no vector store '{name}', of which the pipeline answers.", param="model")
        found.append(store)
    return _of_one_embedder(found)


def _of_one_embedder(stores: list[VectorStore]) -> list[VectorStore]:
    embedders = {store.embedder for store in stores if store.embedder}
    if len(embedders) > 1:
        raise InvalidRequest(
            f"The vector stores are of several embedders ({', '.join(sorted(embedders))}): ask them one by one.",
            param="vector_store_ids",
        )
    return stores
