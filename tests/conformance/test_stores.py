"""Every vector store keeps the same promises: whole files, exact filters, the best first, whoever else is writing."""

from __future__ import annotations

import asyncio
import math
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from backends.errors import InvalidRequest, NotFound, Unavailable
from ensembles.stores.filters import Comparison
from ensembles.stores.opening import open_store
from ensembles.stores.store import Chunk
from tests.conformance.store_chunks import DIMENSIONS, found, texts, vector, written
from tests.servers import free_ports

CALLS = {
    "put": lambda store, name: store.put(name, {"f": written("f", 1)}),
    "put nothing": lambda store, name: store.put(name, {"f": []}),
    "remove": lambda store, name: store.remove(name, "f"),
    "set_attributes": lambda store, name: store.set_attributes(name, "f", {}),
    "read": lambda store, name: store.read(name, "f"),
    "dense": lambda store, name: store.dense(name, vector(1, 0, 0, 0), 1),
    "words": lambda store, name: store.words(name, "piece", 1),
    "size_bytes": lambda store, name: store.size_bytes(name),
    "optimise": lambda store, name: store.optimise(name),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_a_collection_that_is_not_there_is_not_found(store, call):
    with pytest.raises(NotFound, match="vs_none"):
        await call(store, "vs_none")


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_a_collection_that_another_process_dropped_is_not_found(store, opening, collection, call):
    await store.put(collection, {"f": written("f", 1)})
    await opening().drop(collection)
    with pytest.raises(NotFound, match=collection):
        await call(store, collection)


async def test_a_collection_is_made_once_however_often_and_by_whomever(store, opening, collection):
    await store.put(collection, {"f": written("f", 3)})
    await asyncio.gather(*(opening().create(collection, DIMENSIONS) for _ in range(4)))
    assert len(await store.read(collection, "f")) == 3


async def test_several_make_the_same_collection_at_once(opening):
    name = f"vs_{uuid4().hex}"
    stores = [opening() for _ in range(4)]
    await asyncio.gather(*(store.create(name, DIMENSIONS) for store in stores))
    assert await stores[0].read(name, "f") == []


async def test_dropping_what_is_not_there_does_nothing(store):
    await store.drop(f"vs_{uuid4().hex}")


async def test_a_collection_made_again_is_empty(store, opening, collection):
    await store.put(collection, {"f": written("f", 3)})
    await store.drop(collection)
    await store.create(collection, DIMENSIONS)
    assert await store.read(collection, "f") == []
    assert await store.dense(collection, vector(1, 0, 0, 0), 3) == []
    assert await opening().read(collection, "f") == []


async def test_what_a_search_finds_brings_its_vector(store, collection):
    chunks = texts("one word", "another word")
    await store.put(collection, {"f": chunks})
    kept = {chunk.ordinal: chunk.vector for chunk in chunks}
    for hits in (await store.dense(collection, vector(1, 0, 0, 0), 2), await store.words(collection, "word", 2)):
        assert {hit.chunk.ordinal: hit.chunk.vector for hit in hits} == kept


async def test_an_empty_collection_has_nothing_to_find(store, collection):
    assert await store.dense(collection, vector(1, 0, 0, 0), 5) == []
    assert await store.words(collection, "anything", 5) == []
    assert await store.read(collection, "f") == []
    await store.remove(collection, "f")
    await store.set_attributes(collection, "f", {"a": 1})
    await store.optimise(collection)
    assert await store.dense(collection, vector(1, 0, 0, 0), 5, Comparison("ne", "a", 1)) == []


async def test_chunks_come_back_as_they_were_put_in_their_order(store, collection):
    attributes = {
        "it's": 'a "quote" \\ %_',
        "n": 3,
        "x": -0.5,
        "yes": True,
        "no": False,
        "ключ": "Übung 量子 😀",
        "": "",
    }
    chunks = [
        Chunk("fileé", "Bericht (1).pdf", 0, "one\n\ttwo 'three'; DROP TABLE x; --", 1, "A > B", attributes),
        Chunk("fileé", "Bericht (1).pdf", 1, "量子计算 😀 \u202e نص", None, "", attributes),
        Chunk("fileé", "Bericht (1).pdf", 2, "", 12, "第一章", attributes),
    ]
    for chunk in chunks:
        chunk.vector = vector(1, 2, 3, chunk.ordinal)
    await store.put(collection, {"fileé": [chunks[2], chunks[0], chunks[1]]})
    read = await store.read(collection, "fileé")
    for chunk in chunks:
        chunk.vector = b""
    assert read == chunks
    assert {key: type(value) for key, value in read[0].attributes.items()} == {
        key: type(value) for key, value in attributes.items()
    }


async def test_putting_a_file_again_replaces_all_of_it(store, opening, collection):
    await store.put(collection, {"other": written("other", 2)})
    for size in (5, 2, 9):
        await store.put(collection, {"f": written("f", size)})
        assert [chunk.text for chunk in await opening().read(collection, "f")] == [
            f"piece {ordinal} of {size}" for ordinal in range(size)
        ]
    assert len(await store.read(collection, "other")) == 2
    await store.put(collection, {"f": []})
    assert await store.read(collection, "f") == []


async def test_several_files_are_put_at_once_new_ones_and_others_and_empty_ones(store, opening, collection):
    await store.put(collection, {"old": written("old", 3), "gone": written("gone", 2), "left": written("left", 1)})
    await store.put(
        collection, {"new": written("new", 4), "old": written("old", 5), "gone": [], "it's": written("it's", 1)}
    )
    reader = opening()
    sizes = {name: len(await reader.read(collection, name)) for name in ("new", "old", "gone", "left", "it's")}
    assert sizes == {"new": 4, "old": 5, "gone": 0, "left": 1, "it's": 1}
    assert [chunk.text for chunk in await reader.read(collection, "old")] == [f"piece {n} of 5" for n in range(5)]
    assert len(await reader.words(collection, "piece", 100)) == 11


async def test_of_files_put_at_once_none_is_there_where_one_does_not_fit(store, collection):
    misfit = [Chunk("g", "g", 0, "piece", vector=vector(1, 2, 3))]
    with pytest.raises(InvalidRequest, match="dimensions"):
        await store.put(collection, {"f": written("f", 2), "g": misfit})
    assert await store.words(collection, "piece", 9) == []


async def test_what_is_removed_is_found_no_more_by_anybody(store, opening, collection):
    other = opening()
    await store.put(collection, {"f": texts("zebra one", "zebra two")})
    await store.put(collection, {"g": texts("zebra three", file_id="g")})
    assert len(await other.words(collection, "zebra", 9)) == 3
    await store.remove(collection, "f")
    assert found(await other.words(collection, "zebra", 9)) == ["g:0"]
    assert found(await other.dense(collection, vector(1, 0, 0, 0), 9)) == ["g:0"]
    assert await other.read(collection, "f") == []
    await store.optimise(collection)
    assert found(await other.words(collection, "zebra", 9)) == ["g:0"]


async def test_attributes_are_replaced_for_all_chunks_of_a_file_alone(store, opening, collection):
    await store.put(collection, {"f": texts("a", "b", attributes={"old": 1})})
    await store.put(collection, {"g": texts("a", file_id="g", attributes={"old": 1})})
    await store.set_attributes(collection, "f", {"new": "it's"})
    assert [chunk.attributes for chunk in await opening().read(collection, "f")] == [{"new": "it's"}] * 2
    assert found(await store.dense(collection, vector(1, 0, 0, 0), 9, Comparison("eq", "old", 1))) == ["g:0"]
    assert found(await store.words(collection, "a", 9, Comparison("eq", "new", "it's"))) == ["f:0"]


async def test_the_nearest_by_cosine_come_first_whatever_their_length(store, collection):
    vectors = [vector(5, 0, 0, 0), vector(0.1, 0.1, 0, 0), vector(0, 3, 0, 0), vector(-1, 0, 0, 0)]
    chunks = [Chunk("f", "f", ordinal, "", vector=of) for ordinal, of in enumerate(vectors)]
    await store.put(collection, {"f": chunks})
    hits = await store.dense(collection, vector(0.2, 0, 0, 0), 9)
    assert found(hits) == ["f:0", "f:1", "f:2", "f:3"]
    assert [hit.score for hit in hits] == pytest.approx([1, math.sqrt(0.5), 0, -1], abs=1e-6)


async def test_no_more_come_than_are_asked_for(store, collection):
    await store.put(collection, {"f": written("f", 9)})
    for limit in (0, 1, 4, 100):
        assert len(await store.dense(collection, vector(1, 0, 0, 0), limit)) == min(limit, 9)
        assert len(await store.words(collection, "piece", limit)) == min(limit, 9)


async def test_vectors_of_another_size_are_refused(store, collection):
    with pytest.raises(InvalidRequest, match=f"{DIMENSIONS} dimensions, this one has 3"):
        await store.put(collection, {"f": [Chunk("f", "f", 0, "", vector=vector(1, 2, 3))]})
    with pytest.raises(InvalidRequest, match="this one has 5"):
        await store.dense(collection, vector(1, 2, 3, 4, 5), 1)
    assert await store.read(collection, "f") == []


async def test_rare_words_weigh_more_than_common_ones_and_short_texts_more_than_long_ones(store, collection):
    filler = [f"the ordinary river {number}" for number in range(20)]
    long = "the ordinary river with a kingfisher " + "beside reeds and willows " * 20
    await store.put(collection, {"f": texts(*filler, "the kingfisher", long)})
    assert set(found(await store.words(collection, "ordinary kingfisher river", 2))) == {"f:20", "f:21"}
    assert found(await store.words(collection, "kingfisher", 5)) == ["f:20", "f:21"]


@pytest.mark.parametrize("is_optimised", [False, True])
@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("量子", "量子计算是一种遵循量子力学规律的计算模式"),
        ("機械学習", "機械学習はデータから学ぶ"),
        ("ÉLÉPHANT", "un éléphant gris"),
        ("мышь", "Мышь живёт в поле"),
        ("runs", "they were running fast"),
        ("who", "Who knows"),
        ("x-42", "part X-42 of it"),
        ("0xdeadbeef" * 8, "the digest " + "0xdeadbeef" * 8),
    ],
)
async def test_words_of_any_language_are_found(store, collection, query, text, is_optimised):
    await store.put(collection, {"f": texts("nothing of the kind", text, "完全不同的句子")})
    if is_optimised:
        await store.optimise(collection)
    assert found(await store.words(collection, query, 1)) == ["f:1"]


@pytest.mark.parametrize("query", ["", " ", "!?", '" OR 1=1 --', "AND", "a* (b", "\x00", "zebra" * 5000, "😀"])
async def test_a_query_of_anything_breaks_nothing(store, collection, query):
    await store.put(collection, {"f": texts("nothing of the kind")})
    assert await store.words(collection, query, 5) == []


async def test_a_collection_takes_more_with_more_in_it(store, collection):
    before = await store.size_bytes(collection)
    for number in range(20):
        await store.put(collection, {f"f{number}": texts(*[uuid4().hex * 20] * 10, file_id=f"f{number}")})
    assert await store.size_bytes(collection) > before + 20 * 1000


async def test_a_place_that_cannot_be_reached_is_unavailable(store_url, tmp_path):
    (tmp_path / "file").touch()
    store = open_store(
        {
            "postgresql": f"postgresql://127.0.0.1:{free_ports(1)[0]}/x",
            "s3": "s3://nowhere/chunks",
            "": str(tmp_path / "file" / "chunks"),
        }[urlsplit(store_url).scheme]
    )
    with pytest.raises(Unavailable):
        await store.create("vs_x", DIMENSIONS)
    await store.close()
