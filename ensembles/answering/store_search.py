"""Search in vector stores as their API has it: what the library finds, in a reranker's order where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from backends.model import OpenAIRequest
from ensembles.answering import stages
from ensembles.library import Library, Ranking
from ensembles.step import Surroundings, Turn
from ensembles.stores.filters import Filter

_PATH = "/v1/vector_stores/search"
_CANDIDATES = 20


class Shelves(Surroundings, Protocol):
    """Models by name, and a whole library."""

    @property
    def library(self) -> Library: ...


class StoreSearch:
    """The search of `/v1/vector_stores`, with the reranker that the library names."""

    def __init__(self, shelves: Shelves) -> None:
        self._shelves = shelves
        self._stages: stages.Stages | None = None

    async def search(
        self,
        owner: str,
        store_id: str,
        queries: Sequence[str],
        *,
        condition: Filter | None,
        limit: int,
        ranking: Ranking,
        is_reranked: bool,
    ) -> Turn:
        """The turn with its passages. What it was done without stands in `degraded`. Raises as `Library.search`."""
        library = self._shelves.library
        if self._stages is None:
            options = {"rerank": {"model": library.reranker, "candidates": _CANDIDATES}} if library.reranker else {}
            self._stages = stages.load(options, list(options), self._shelves)
        is_reranked = is_reranked and bool(library.reranker)
        turn = Turn(OpenAIRequest(_PATH, b"", "", stream=False, tenant=owner), [], "\n".join(queries), [store_id])
        turn.limit, turn.score_threshold, turn.is_reranked = limit, ranking.score_threshold, is_reranked
        found = await library.search(
            owner,
            turn.stores,
            queries,
            condition=condition,
            limit=max(limit, _CANDIDATES) if is_reranked else limit,
            ranking=replace(ranking, score_threshold=0.0),
        )
        turn.passages, turn.vector = found.passages, found.vector
        await self._stages.order(turn)
        return turn
