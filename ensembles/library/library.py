"""The library of one process: opened when it is first asked for, so that whoever never asks pays nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from backends.model import Models
from ensembles.library.embedding import embed
from ensembles.library.files import Files
from ensembles.library.fusion import Ranking
from ensembles.library.jobs import Jobs
from ensembles.library.members import Members
from ensembles.library.opening import Opening, OpenStore, Place
from ensembles.library.removal import sweep
from ensembles.library.search import Results, Search
from ensembles.library.vector_stores import VectorStores
from ensembles.stores.filters import Filter
from ensembles.stores.opening import open_store
from ensembles.stores.store import Hit


class Library:
    """What server processes, the ingester and steps hold. Several processes use the same place at once.

    `embedder` names the model for new vector stores; it raises `ServingError` while there is none. `reranker` is the
    model that puts what is found in order, for whoever searches it without a pipeline. Every method raises
    `Unavailable` where database or store cannot be reached, `NotFound` for what is not there or another owner's.
    """

    def __init__(
        self,
        place: Place,
        models: Models,
        embedder: Callable[[], str],
        *,
        reranker: str = "",
        clock: Callable[[], float] = time.time,
        open_store: OpenStore = open_store,
    ) -> None:
        self._opening = Opening(place, clock, open_store)
        self._models = models
        self._embedder = embedder
        self.reranker = reranker
        self._search = Search(self._opening, models)
        self.files = Files(self._opening)
        self.vector_stores = VectorStores(self._opening, embedder)
        self.members = Members(self._opening)
        self.jobs = Jobs(self._opening)

    def is_begun(self) -> bool:
        """Whether there may be anything in it: cheap, opens and makes nothing."""
        return self._opening.place.is_begun()

    async def warm(self) -> bool:
        """Load what the first search would wait for, once there is a vector store; whether there is one."""
        if not self.is_begun() or not await self.collections():
            return False
        await (await self._opening.shelves()).store.open()
        return True

    async def search(
        self,
        owner: str,
        stores: Sequence[str],
        queries: Sequence[str],
        *,
        condition: Filter | None = None,
        limit: int = 10,
        ranking: Ranking | None = None,
    ) -> Results:
        """The best passages of several stores for several wordings of a question, by meaning and by words, fused.

        Cancelling it stops embedder and store. Raises `NotFound`, `InvalidRequest` for an expired store,
        `ModelNotReady` and the like of the embedder.
        """
        return await self._search.search(owner, stores, queries, condition, limit, ranking or Ranking())

    async def dense(self, store: str, vector: bytes, limit: int, condition: Filter | None) -> list[Hit]:
        """The nearest chunks of files that are completed. Whether the caller may ask is the caller's to know."""
        return await self._search.dense(store, vector, limit, condition)

    async def words(self, store: str, query: str, limit: int, condition: Filter | None) -> list[Hit]:
        """The chunks of completed files that match the words best."""
        return await self._search.words(store, query, limit, condition)

    async def embed(self, texts: Sequence[str], embedder: str = "", *, priority: int = 0) -> list[bytes]:
        """A vector (little-endian float32) of each text, by one request to the embedder. Cancelling it cancels that."""
        return await embed(self._models, embedder or self._embedder(), texts, priority=priority)

    async def optimise(self, store: str) -> None:
        """Make searches in a vector store fast after many changes. Raises `NotFound` while it holds nothing."""
        await (await self._opening.shelves()).store.optimise(store)

    async def collections(self) -> list[str]:
        """The ids of all owners' vector stores."""
        return await self.vector_stores.ids()

    async def sweep(self) -> None:
        """Finish what was interrupted and delete what has expired. The ingester does it now and then."""
        await sweep(self._opening)

    async def close(self) -> None:
        """Close connections. Nothing may be asked after it."""
        await self._opening.close()
