"""Search: by meaning and by words at once, over several stores, of completed files alone."""

from __future__ import annotations

import asyncio

import pytest

from backends.errors import ModelNotReady, NotFound, UpstreamError
from ensembles.library import Ranking
from ensembles.records.rows import Addition
from ensembles.stores.filters import Comparison
from tests.ensembles.library.shelf import Shelf, vector
from tests.waiting import eventually_async


def texts(passages) -> list[str]:
    return [passage.chunk.text for passage in passages]


async def test_what_both_ways_find_first_is_first_with_a_score_of_one(shelf: Shelf):
    store, _ = await shelf.holding("boat ship\napple pear\nplum plum apple")
    found = (await shelf.library.search("", [store.id], ["apple pear"], limit=2)).passages
    assert texts(found) == ["apple pear", "plum plum apple"]
    assert found[0].score == pytest.approx(1.0)
    assert found[0].scores["words"] == 2
    assert found[0].scores["dense"] == pytest.approx(1.0)
    assert found[0].score > found[1].score > 0


async def test_the_vector_of_a_single_wording_comes_with_what_was_found(shelf: Shelf):
    store, _ = await shelf.holding("apple pear")
    assert (await shelf.library.search("", [store.id], ["apple"])).vector == vector("apple")
    assert (await shelf.library.search("", [store.id], ["apple", "pear"])).vector == b""
    assert (await shelf.library.search("", [store.id], ["apple"], ranking=Ranking(dense_weight=0))).vector == b""


async def test_a_way_with_weight_zero_is_not_asked(shelf: Shelf):
    store, _ = await shelf.holding("apple\nboat")
    found = (await shelf.library.search("", [store.id], ["apple"], ranking=Ranking(dense_weight=0))).passages
    assert texts(found) == ["apple"]
    assert shelf.models.embedder.asked == []
    found = (await shelf.library.search("", [store.id], ["apple"], ranking=Ranking(words_weight=0))).passages
    assert "words" not in found[0].scores


async def test_passages_under_the_threshold_are_left_out(shelf: Shelf):
    store, _ = await shelf.holding("apple\nboat")
    found = (await shelf.library.search("", [store.id], ["apple"], ranking=Ranking(score_threshold=0.9))).passages
    assert texts(found) == ["apple"]


async def test_several_stores_and_wordings_give_one_list(shelf: Shelf):
    fruit, _ = await shelf.holding("apple\npear")
    ships, _ = await shelf.holding("boat\nship")
    found = (await shelf.library.search("", [fruit.id, ships.id, fruit.id], ["pear", "ship"], limit=2)).passages
    assert set(texts(found)) == {"pear", "ship"}
    assert [len(asked["input"]) for asked in shelf.models.embedder.asked] == [2]


async def test_filters_hold_for_both_ways(shelf: Shelf):
    store, _ = await shelf.holding("apple one")
    file = await shelf.add(store, "apple two", {"year": 2001.0})
    found = (await shelf.library.search("", [store.id], ["apple"], condition=Comparison("eq", "year", 2001))).passages
    assert [passage.chunk.file_id for passage in found] == [file.id]


async def test_chunks_of_files_that_are_not_completed_hide_none_of_the_others(shelf: Shelf):
    store, _ = await shelf.holding("apple")
    hidden = await shelf.file("apple apple\n" * 200)
    await shelf.library.members.add("", store.id, Addition(hidden.id))
    job = await shelf.claim()
    assert job is not None
    await shelf.store.put(store.id, {hidden.id: [*shelf.chunks(job)]})
    for chunk in shelf.store.collections[store.id][hidden.id]:
        chunk.file_id = hidden.id
    assert texts(await shelf.library.dense(store.id, vector("apple"), 1, None) or []) == ["apple"]
    assert texts((await shelf.library.search("", [store.id], ["apple"])).passages) == ["apple"]


async def test_a_store_without_files_holds_nothing_to_find(shelf: Shelf):
    store = await shelf.library.vector_stores.create("")
    assert (await shelf.library.search("", [store.id], ["apple"])).passages == []


async def test_a_search_is_prepared_once_there_is_a_vector_store(shelf: Shelf):
    assert not await shelf.library.warm()
    await shelf.file()
    assert not await shelf.library.warm()
    assert not shelf.store.is_open
    await shelf.library.vector_stores.create("")
    assert await shelf.library.warm()
    assert shelf.store.is_open


async def test_a_store_that_is_not_there_is_named(shelf: Shelf):
    await shelf.file()
    with pytest.raises(NotFound, match="vs_x"):
        await shelf.library.search("", ["vs_x"], ["apple"])
    with pytest.raises(NotFound, match="vs_x"):
        await shelf.library.words("vs_x", "apple", 3, None)


async def test_leaving_cancels_the_embedder(shelf: Shelf):
    store, _ = await shelf.holding("apple")
    shelf.models.embedder.hangs = True
    task = asyncio.create_task(shelf.library.search("", [store.id], ["apple"]))

    async def is_asked() -> bool:
        return bool(shelf.models.embedder.asked)

    await eventually_async(is_asked)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert shelf.models.embedder.was_cancelled


async def test_an_embedder_that_fails_fails_the_search(shelf: Shelf):
    store, _ = await shelf.holding("apple")
    shelf.models.embedder.status = 500
    with pytest.raises(UpstreamError, match="answered 500"):
        await shelf.library.search("", [store.id], ["apple"])
    assert all(answer.closed for answer in shelf.models.embedder.answers)


async def test_without_an_embedder_a_new_text_has_no_vector(shelf: Shelf):
    def none() -> str:
        raise ModelNotReady("No embedder is ready.")

    shelf.library._embedder = none
    with pytest.raises(ModelNotReady):
        await shelf.library.embed(["apple"])
