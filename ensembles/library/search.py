"""Search in vector stores: by meaning and by words at the same time, in completed files alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from backends.errors import NotFound
from backends.model import Models
from ensembles.library.embedding import embed
from ensembles.library.fusion import Found, Ranking, fuse
from ensembles.library.opening import Opening
from ensembles.step import Passage
from ensembles.stores.filters import Filter
from ensembles.stores.store import Hit
from ensembles.together import together

_CANDIDATES = 50
_CANDIDATES_AT_MOST = 5000
_TOUCH_SECONDS = 60

Look = Callable[[int], Awaitable[list[Hit]]]
"""Asks a store for so many hits."""


@dataclass(frozen=True, slots=True)
class Results:
    """Passages, best first. `vector` is that of the only wording, empty where there are several, or none was made."""

    passages: list[Passage]
    vector: bytes = b""


class Search:
    """The search of one library."""

    def __init__(self, opening: Opening, models: Models) -> None:
        self._opening = opening
        self._models = models

    async def search(
        self,
        owner: str,
        store_ids: Sequence[str],
        queries: Sequence[str],
        condition: Filter | None,
        limit: int,
        ranking: Ranking,
    ) -> Results:
        """As `Library.search`."""
        by_embedder = await self._stores(owner, store_ids)
        stores = list(chain.from_iterable(by_embedder.values()))
        count = max(_CANDIDATES, 2 * limit)
        found: list[Found] = []
        asked_by: list[bytes] = []

        async def by_words(query: str) -> None:
            hits = await together(self.words(store, query, count, condition) for store in stores)
            found.append(Found("words", ranking.words_weight, _best(hits, count)))

        async def by_meaning() -> None:
            vectors = await together(embed(self._models, name, queries, "query") for name in by_embedder if name)
            asked_by.extend(chain.from_iterable(vectors))
            known = [by_embedder[name] for name in by_embedder if name]
            for number in range(len(queries)):
                asked = [(store, of[number]) for of, those in zip(vectors, known, strict=True) for store in those]
                hits = await together(self.dense(store, vector, count, condition) for store, vector in asked)
                found.append(Found("dense", ranking.dense_weight, _best(hits, count)))

        ways = [by_words(query) for query in queries] if ranking.words_weight else []
        await together([*ways, by_meaning()] if ranking.dense_weight else ways)
        passages = fuse(found, limit, ranking.score_threshold)
        return Results(passages, asked_by[0] if len(asked_by) == 1 else b"")

    async def dense(self, store: str, vector: bytes, limit: int, condition: Filter | None) -> list[Hit]:
        """As `Library.dense`."""
        kept = (await self._opening.shelves()).store
        return await self._visible(store, limit, lambda count: kept.dense(store, vector, count, condition))

    async def words(self, store: str, query: str, limit: int, condition: Filter | None) -> list[Hit]:
        """As `Library.words`."""
        kept = (await self._opening.shelves()).store
        return await self._visible(store, limit, lambda count: kept.words(store, query, count, condition))

    async def _stores(self, owner: str, store_ids: Sequence[str]) -> dict[str, list[str]]:
        """The stores by the embedder that their vectors are of. Raises `NotFound`."""
        from ensembles.records import vector_stores

        async with (await self._opening.shelves()).database.read() as connection:
            there = {store.id: store for store in await vector_stores.searchable(connection, owner, store_ids)}
        by_embedder: dict[str, list[str]] = defaultdict(list)
        for store_id in dict.fromkeys(store_ids):
            if store_id not in there:
                raise vector_stores.not_found(store_id)
            by_embedder[there[store_id].embedder].append(store_id)
        return by_embedder

    async def _visible(self, store: str, limit: int, look: Look) -> list[Hit]:
        """The best hits of files that are completed: while others hide them, more are asked for."""
        count = limit
        while True:
            try:
                hits = await look(count)
            except NotFound:
                hits = []  # the first file makes the collection
            completed = await self._completed(store, {hit.chunk.file_id for hit in hits})
            shown = [hit for hit in hits if hit.chunk.file_id in completed]
            if len(shown) >= limit or len(hits) < count or count >= _CANDIDATES_AT_MOST:
                return shown[:limit]
            count *= 4

    async def _completed(self, store: str, file_ids: Iterable[str]) -> set[str]:
        """Those of the files that are completed. Raises `NotFound`, `InvalidRequest` for an expired store."""
        from ensembles.records import vector_stores

        database, now = (await self._opening.shelves()).database, self._opening.now()
        async with database.read() as connection:
            last_active_at, completed = await vector_stores.completed(connection, store, list(file_ids), now)
        if now - last_active_at >= _TOUCH_SECONDS:
            async with database.write() as connection:
                await vector_stores.touch(connection, [store], now)
        return completed


def _best(hits: Iterable[list[Hit]], count: int) -> list[Hit]:
    """The hits of several stores as of one."""
    return sorted(chain.from_iterable(hits), key=lambda hit: -hit.score)[:count]
