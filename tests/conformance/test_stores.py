"""Every vector store keeps the same promises: whole files, exact filters, the best first, whoever else is writing."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.errors import InvalidRequest, NotFound, Unavailable
from ensembles.stores.filters import Comparison, Compound
from ensembles.stores.opening import open_store
from ensembles.stores.store import Chunk, Hit, Store
from tests.conformance.store_writer import DIMENSIONS, SIZES, vector, written
from tests.postgres_servers import postgres_server
from tests.servers import ROOT, free_ports
from tests.waiting import eventually_async

KINDS = ["lancedb", pytest.param("postgres", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with postgres_server() as server:
        yield server.url


@pytest.fixture(scope="module", params=KINDS)
def url(request, tmp_path_factory) -> str:
    if request.param == "postgres":
        return request.getfixturevalue("postgres")
    return str(tmp_path_factory.mktemp("chunks"))


@pytest.fixture
async def opening(url) -> AsyncIterator[Callable[[], Store]]:
    """Opens the store again, as another process would."""
    async with contextlib.AsyncExitStack() as stack:

        def opened() -> Store:
            store = open_store(url)
            stack.push_async_callback(store.close)
            return store

        yield opened


@pytest.fixture
async def store(opening) -> Store:
    return opening()


@pytest.fixture
async def collection(store) -> str:
    name = f"vs_{uuid4().hex}"
    await store.create(name, DIMENSIONS)
    return name


def texts(*pieces, file_id="f", **fields):
    return [
        Chunk(file_id, f"{file_id}.txt", ordinal, text, vector=vector(1, ordinal, 0, 0), **fields)
        for ordinal, text in enumerate(pieces)
    ]


def found(hits):
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    return [hit.chunk.id for hit in hits]


CALLS = {
    "put": lambda store, name: store.put(name, "f", written("f", 1)),
    "put nothing": lambda store, name: store.put(name, "f", []),
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
    await store.put(collection, "f", written("f", 1))
    await opening().drop(collection)
    with pytest.raises(NotFound, match=collection):
        await call(store, collection)


async def test_a_collection_is_made_once_however_often_and_by_whomever(store, opening, collection):
    await store.put(collection, "f", written("f", 3))
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
    await store.put(collection, "f", written("f", 3))
    await store.drop(collection)
    await store.create(collection, DIMENSIONS)
    assert await store.read(collection, "f") == []
    assert await store.dense(collection, vector(1, 0, 0, 0), 3) == []
    assert await opening().read(collection, "f") == []


async def test_what_a_search_finds_brings_its_vector(store, collection):
    chunks = texts("one word", "another word")
    await store.put(collection, "f", chunks)
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
    await store.put(collection, "fileé", [chunks[2], chunks[0], chunks[1]])
    read = await store.read(collection, "fileé")
    for chunk in chunks:
        chunk.vector = b""
    assert read == chunks
    assert {key: type(value) for key, value in read[0].attributes.items()} == {
        key: type(value) for key, value in attributes.items()
    }


async def test_putting_a_file_again_replaces_all_of_it(store, opening, collection):
    await store.put(collection, "other", written("other", 2))
    for size in (5, 2, 9):
        await store.put(collection, "f", written("f", size))
        assert [chunk.text for chunk in await opening().read(collection, "f")] == [
            f"piece {ordinal} of {size}" for ordinal in range(size)
        ]
    assert len(await store.read(collection, "other")) == 2
    await store.put(collection, "f", [])
    assert await store.read(collection, "f") == []


async def test_what_is_removed_is_found_no_more_by_anybody(store, opening, collection):
    other = opening()
    await store.put(collection, "f", texts("zebra one", "zebra two"))
    await store.put(collection, "g", texts("zebra three", file_id="g"))
    assert len(await other.words(collection, "zebra", 9)) == 3
    await store.remove(collection, "f")
    assert found(await other.words(collection, "zebra", 9)) == ["g:0"]
    assert found(await other.dense(collection, vector(1, 0, 0, 0), 9)) == ["g:0"]
    assert await other.read(collection, "f") == []
    await store.optimise(collection)
    assert found(await other.words(collection, "zebra", 9)) == ["g:0"]


async def test_attributes_are_replaced_for_all_chunks_of_a_file_alone(store, opening, collection):
    await store.put(collection, "f", texts("a", "b", attributes={"old": 1}))
    await store.put(collection, "g", texts("a", file_id="g", attributes={"old": 1}))
    await store.set_attributes(collection, "f", {"new": "it's"})
    assert [chunk.attributes for chunk in await opening().read(collection, "f")] == [{"new": "it's"}] * 2
    assert found(await store.dense(collection, vector(1, 0, 0, 0), 9, Comparison("eq", "old", 1))) == ["g:0"]
    assert found(await store.words(collection, "a", 9, Comparison("eq", "new", "it's"))) == ["f:0"]


async def test_the_nearest_by_cosine_come_first_whatever_their_length(store, collection):
    vectors = [vector(5, 0, 0, 0), vector(0.1, 0.1, 0, 0), vector(0, 3, 0, 0), vector(-1, 0, 0, 0)]
    chunks = [Chunk("f", "f", ordinal, "", vector=of) for ordinal, of in enumerate(vectors)]
    await store.put(collection, "f", chunks)
    hits = await store.dense(collection, vector(0.2, 0, 0, 0), 9)
    assert found(hits) == ["f:0", "f:1", "f:2", "f:3"]
    assert [hit.score for hit in hits] == pytest.approx([1, math.sqrt(0.5), 0, -1], abs=1e-6)


async def test_no_more_come_than_are_asked_for(store, collection):
    await store.put(collection, "f", written("f", 9))
    for limit in (0, 1, 4, 100):
        assert len(await store.dense(collection, vector(1, 0, 0, 0), limit)) == min(limit, 9)
        assert len(await store.words(collection, "piece", limit)) == min(limit, 9)


async def test_vectors_of_another_size_are_refused(store, collection):
    with pytest.raises(InvalidRequest, match=f"{DIMENSIONS} dimensions, this one has 3"):
        await store.put(collection, "f", [Chunk("f", "f", 0, "", vector=vector(1, 2, 3))])
    with pytest.raises(InvalidRequest, match="this one has 5"):
        await store.dense(collection, vector(1, 2, 3, 4, 5), 1)
    assert await store.read(collection, "f") == []


async def test_rare_words_weigh_more_than_common_ones_and_short_texts_more_than_long_ones(store, collection):
    filler = [f"the ordinary river {number}" for number in range(20)]
    long = "the ordinary river with a kingfisher " + "beside reeds and willows " * 20
    await store.put(collection, "f", texts(*filler, "the kingfisher", long))
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
    await store.put(collection, "f", texts("nothing of the kind", text, "完全不同的句子"))
    if is_optimised:
        await store.optimise(collection)
    assert found(await store.words(collection, query, 1)) == ["f:1"]


@pytest.mark.parametrize("query", ["", " ", "!?", '" OR 1=1 --', "AND", "a* (b", "\x00", "zebra" * 5000, "😀"])
async def test_a_query_of_anything_breaks_nothing(store, collection, query):
    await store.put(collection, "f", texts("nothing of the kind"))
    assert await store.words(collection, query, 5) == []


KEYS = ["a", "a.b", "it's", '"', "%", "", "$.a", "ключ", "a\\", "{}"]
STRINGS = ["", "a", "A", "b", "it's", "%", "_", "\\", '"', "1", "true", "null", "é", "zz", "😀", "\uffff"]
scalars = st.one_of(
    st.sampled_from(STRINGS),
    st.text(max_size=4).filter(lambda text: "\x00" not in text),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2, 10, 0.1, -0.0, 1e300, 5e-324]),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
)
keys = st.sampled_from(KEYS)
comparisons = st.one_of(
    st.builds(Comparison, st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte"]), keys, scalars),
    st.builds(Comparison, st.sampled_from(["in", "nin"]), keys, st.lists(scalars, max_size=4)),
)
filters = st.recursive(
    comparisons,
    lambda members: st.builds(Compound, st.sampled_from(["and", "or"]), st.lists(members, min_size=1, max_size=3)),
    max_leaves=6,
)


def holds(condition, attributes):
    """The filter in Python."""
    if isinstance(condition, Compound):
        every = all if condition.type == "and" else any
        return every(holds(member, attributes) for member in condition.filters)
    there = attributes.get(condition.key)

    def equals(value):
        return kind(there) == kind(value) and there == value

    if condition.type in {"in", "nin"}:
        return any(map(equals, condition.value)) is (condition.type == "in")
    if condition.type in {"eq", "ne"}:
        return equals(condition.value) is (condition.type == "eq")
    if kind(there) != kind(condition.value):
        return False
    return {
        "gt": there > condition.value,
        "gte": there >= condition.value,
        "lt": there < condition.value,
        "lte": there <= condition.value,
    }[condition.type]


def kind(value):
    return float if type(value) is int else type(value)


@pytest.fixture(scope="module")
def filtered(url):
    """A collection of four files, and a loop to ask it in."""
    with asyncio.Runner() as runner:
        store, name = open_store(url), f"vs_{uuid4().hex}"

        async def fill():
            await store.create(name, DIMENSIONS)
            for number in range(4):
                await store.put(name, f"f{number}", texts("same text", file_id=f"f{number}"))

        runner.run(fill())
        yield runner, store, name
        runner.run(store.close())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    attributes=st.lists(st.dictionaries(keys, scalars, max_size=4), min_size=4, max_size=4),
    asked=st.lists(filters, min_size=1, max_size=8),
)
def test_a_filter_lets_through_what_it_says_and_nothing_else(filtered, attributes, asked):
    runner, store, name = filtered

    async def ask():
        for number, of in enumerate(attributes):
            await store.set_attributes(name, f"f{number}", of)
        for condition in asked:
            expected = {f"f{number}:0" for number, of in enumerate(attributes) if holds(condition, of)}
            dense, words = await asyncio.gather(
                store.dense(name, vector(1, 0, 0, 0), 9, condition), store.words(name, "same", 9, condition)
            )
            assert set(found(dense)) == set(found(words)) == expected, condition

    runner.run(ask())


async def test_a_filter_finds_the_few_among_the_many(store, collection):
    await store.put(
        collection, "few", [Chunk("few", "few", 0, "same", vector=vector(-1, 0, 0, 0), attributes={"is": "it"})]
    )
    for number in range(5):
        await store.put(collection, f"f{number}", texts(*["same"] * 100, file_id=f"f{number}"))
    assert found(await store.dense(collection, vector(1, 0, 0, 0), 3, Comparison("eq", "is", "it"))) == ["few:0"]
    assert found(await store.words(collection, "same", 3, Comparison("eq", "is", "it"))) == ["few:0"]


async def test_a_filter_may_name_very_many_values(store, collection):
    await store.put(collection, "f", texts("same", attributes={"number": 17_499}))
    for wanted in (range(17_500), range(17_499)):
        condition = Comparison("in", "number", list(wanted))
        assert len(await store.words(collection, "same", 3, condition)) == (17_499 in wanted)
        assert len(await store.dense(collection, vector(1, 0, 0, 0), 3, condition)) == (17_499 in wanted)


async def test_writers_at_once_lose_nothing(opening, collection):
    stores = [opening() for _ in range(4)]

    async def write(store, prefix):
        for number in range(8):
            await store.put(collection, f"{prefix}{number}", written(f"{prefix}{number}", 3))
            if number % 2:
                await store.remove(collection, f"{prefix}{number}")

    await asyncio.gather(*(write(store, prefix) for store, prefix in zip(stores, "abcd", strict=True)))
    hits = await stores[0].words(collection, "piece", 1000)
    assert sorted(hit.chunk.id for hit in hits) == sorted(
        f"{prefix}{number}:{ordinal}" for prefix in "abcd" for number in (0, 2, 4, 6) for ordinal in range(3)
    )


async def test_a_file_put_by_several_at_once_is_that_of_one_of_them(opening, collection):
    stores = [opening() for _ in range(4)]
    for _ in range(3):
        await asyncio.gather(
            *(store.put(collection, "f", written("f", size)) for size, store in enumerate(stores, start=3))
        )
        assert_whole("f", await stores[0].read(collection, "f"), sizes=range(3, 7))


def assert_whole(file_id, chunks, sizes=SIZES):
    """All chunks of one writing, each once."""
    assert any([chunk.text for chunk in chunks] == [c.text for c in written(file_id, size)] for size in sizes), chunks


@pytest.mark.parametrize("turns", [1, 2, 4, 8, 16, 64, 256])
async def test_a_put_that_is_cancelled_leaves_the_old_file_or_the_new_one(store, opening, collection, turns):
    await store.put(collection, "f", written("f", 4))
    putting = asyncio.create_task(store.put(collection, "f", written("f", 7)))
    for _ in range(turns):
        await asyncio.sleep(0)
    putting.cancel()
    await asyncio.wait([putting])
    assert_whole("f", await opening().read(collection, "f"))
    await store.put(collection, "f", written("f", 4))
    assert len(await store.read(collection, "f")) == 4


async def test_a_search_that_is_cancelled_harms_no_other(store, collection):
    await store.put(collection, "f", written("f", 4))
    for _ in range(20):
        searching = asyncio.create_task(store.dense(collection, vector(1, 0, 0, 0), 3))
        await asyncio.sleep(0)
        searching.cancel()
        await asyncio.wait([searching])
    assert len(await store.words(collection, "piece", 9)) == 4


@contextlib.contextmanager
def writing(url, collection, prefix, count):
    """Another process that puts files."""
    argv = [sys.executable, "-m", "tests.conformance.store_writer", url, collection, prefix, str(count)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        os.set_blocking(process.stdout.fileno(), False)
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
async def test_readers_see_whole_files_while_other_processes_write_and_optimise(url, store, opening, collection):
    optimiser = opening()
    seen = 0
    with writing(url, collection, "a", 15) as one, writing(url, collection, "b", 15) as other:
        while one.poll() is None or other.poll() is None:
            by_file: dict[str, list[Hit]] = {}
            for hit in await store.words(collection, "piece", 1000):
                by_file.setdefault(hit.chunk.file_id, []).append(hit)
            for file_id, hits in by_file.items():
                assert_whole(file_id, sorted((hit.chunk for hit in hits), key=lambda chunk: chunk.ordinal))
            assert await store.dense(collection, vector(1, 0, 0, 0), 3) or not by_file
            seen += len(by_file)
            await optimiser.optimise(collection)
        assert (one.returncode, other.returncode) == (0, 0)
    assert seen > 0
    for file_id in (f"{prefix}{number}" for prefix in "ab" for number in range(15)):
        assert len(await store.read(collection, file_id)) == SIZES[-1]


@pytest.mark.slow
@pytest.mark.parametrize("after", range(3, 10))
async def test_files_are_whole_or_not_there_after_their_writer_was_killed(url, store, collection, after):
    acknowledged: list[str] = []
    with writing(url, collection, "f", 10_000) as process:

        async def enough():
            acknowledged.extend(iter(process.stdout.readline, ""))
            return len(acknowledged) >= after

        await eventually_async(enough, seconds=30)
        process.send_signal(signal.SIGKILL)
        process.wait()
        acknowledged.extend(process.stdout.read().splitlines(keepends=True))
    whole = {line.strip() for line in acknowledged if line.endswith("\n")}
    for file_id in whole:
        assert_whole(file_id, await store.read(collection, file_id))
    for hit in await store.words(collection, "piece", 10_000):
        assert_whole(hit.chunk.file_id, await store.read(collection, hit.chunk.file_id))
    await store.optimise(collection)
    await store.put(collection, "f0", written("f0", 7))
    assert len(await store.read(collection, "f0")) == 7


async def test_a_collection_takes_more_with_more_in_it(store, collection):
    before = await store.size_bytes(collection)
    for number in range(20):
        await store.put(collection, f"f{number}", texts(*[uuid4().hex * 20] * 10, file_id=f"f{number}"))
    assert await store.size_bytes(collection) > before + 20 * 1000


async def test_a_place_that_cannot_be_reached_is_unavailable(url, tmp_path):
    (tmp_path / "file").touch()
    lost = f"postgresql://127.0.0.1:{free_ports(1)[0]}/x" if "://" in url else str(tmp_path / "file" / "chunks")
    store = open_store(lost)
    with pytest.raises(Unavailable):
        await store.create("vs_x", DIMENSIONS)
    await store.close()
