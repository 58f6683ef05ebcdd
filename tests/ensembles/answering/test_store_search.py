"""Search in a vector store: the reranker's order where there is one, the fused one where it fails or is not wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from backends.errors import Unavailable
from ensembles.answering.store_search import StoreSearch
from ensembles.library import Ranking
from ensembles.library.search import Results
from ensembles.step import Passage, Turn
from tests.ensembles.house import RERANKER, FakeModel, House, chunk, reranker


class FusedLibrary:
    """Finds so many passages with falling scores."""

    def __init__(self, count: int, name: str = RERANKER) -> None:
        self.reranker = name
        self.count = count
        self.limits: list[int] = []

    async def search(
        self, _owner: str, _stores: Sequence[str], _queries: Sequence[str], *, limit: int, **_: Any
    ) -> Results:
        self.limits.append(limit)
        count = min(limit, self.count)
        return Results([Passage(chunk(n, f"text {n}"), 1 - n / 100) for n in range(count)], b"")


async def search(library: FusedLibrary, *models: FakeModel, **options: Any) -> Turn:
    house = House(*models, library=library)  # type: ignore[arg-type]
    options = {"limit": 3, "ranking": Ranking(), "is_reranked": True, **options}
    return await StoreSearch(house).search("eve", "vs_1", ["what?", "which?"], condition=None, **options)  # type: ignore[arg-type]


def order(turn: Turn) -> list[str]:
    scores = [passage.score for passage in turn.passages]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    return [passage.chunk.file_id for passage in turn.passages]


async def test_the_reranker_reads_all_candidates_however_few_are_wanted() -> None:
    library, model = FusedLibrary(5), reranker(0.1, 0.1, 9.0, 0.1, 0.1)
    turn = await search(library, model, limit=1, ranking=Ranking(score_threshold=0.4))
    assert order(turn) == ["file-2"]
    ((_, asked),) = model.asked
    assert (asked["query"], len(asked["documents"])) == ("what?\nwhich?", 5)
    assert model.requests[0].tenant == "eve"


async def test_scores_fall_also_where_the_reranker_has_read_only_the_best() -> None:
    library = FusedLibrary(60)
    found = order(await search(library, reranker(9.0, *range(19)), limit=50))
    assert found[:20] != [f"file-{n}" for n in range(20)]
    assert found[20:] == [f"file-{n}" for n in range(20, 50)]


async def test_passages_under_the_threshold_are_left_out_after_reranking() -> None:
    turn = await search(FusedLibrary(3), reranker(0.0, 0.0, 1.0), ranking=Ranking(score_threshold=0.45))
    assert order(turn) == ["file-0", "file-2"]


@pytest.mark.parametrize(("name", "is_reranked"), [("", True), (RERANKER, False)])
async def test_without_a_reranker_or_the_wish_for_it_the_fused_order_stands(name: str, is_reranked: bool) -> None:
    library, model = FusedLibrary(5, name), reranker(0.1, 9.0)
    turn = await search(library, model, limit=2, is_reranked=is_reranked, ranking=Ranking(score_threshold=0.995))
    assert (order(turn), turn.degraded, model.asked, library.limits) == (["file-0"], {}, [], [2])


async def test_a_reranker_that_fails_leaves_the_fused_order_and_that_is_told() -> None:
    model = FakeModel(RERANKER, rerank=lambda _: Unavailable("out"))
    turn = await search(FusedLibrary(5), model)
    assert order(turn) == ["file-0", "file-1", "file-2"]
    assert list(turn.degraded) == ["rerank"]
