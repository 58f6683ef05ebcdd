"""The work of an ingester: every file seen to its end, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.config import ModelConfig
from backends.errors import ModelNotFound, Unavailable
from ensembles.ingest.jobs import Ingester, Pace
from ensembles.ingest.messages import Limits
from ensembles.ingest.parsers import Parsers
from ensembles.records.rows import Addition, ErrorCode, File, LastError, Member, Status, VectorStore
from tests.ensembles.ingest.test_parsers import FAULTY
from tests.ensembles.library.shelf import EMBEDDER, Embedder, Shelf, opened, vector
from tests.processes import holds
from tests.waiting import eventually_async

PACE = Pace(files=4, look_seconds=0.01, check_seconds=0.02, longest_delay_seconds=0.02, sweep_seconds=0.05)


class Models:
    """The shelf's embedder under its configuration, once `is_there`."""

    control = None

    def __init__(self, embedder: Embedder) -> None:
        self.is_there = True
        self.embedder: Any = embedder
        self.embedder.config = ModelConfig(EMBEDDER, "python")

    def openai(self, name: str) -> Any:
        if not self.is_there:
            raise ModelNotFound(f"The model '{name}' does not exist.")
        return self.embedder


class Bench:
    """An ingester on a shelf. Its parsers take a file's first line, or do what it says."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.models = Models(shelf.models.embedder)
        self.library = shelf.library

    def ingester(self, **options: Any) -> Ingester:
        parsers = Parsers(2, Limits(wall_seconds=20), FAULTY)
        given = {"worker": "one", "pace": PACE, **options}
        return Ingester(self.library, self.models, lambda: EMBEDDER, parsers, **given)

    @asynccontextmanager
    async def working(self, **options: Any) -> AsyncIterator[None]:
        running = asyncio.create_task(self.ingester(**options).run())
        try:
            yield
            assert not running.done(), running
        finally:
            running.cancel()
            await asyncio.wait((running,))

    async def put(self, *texts: str, **options: Any) -> tuple[VectorStore, list[File]]:
        files = [await self.shelf.file(text, **options) for text in texts]
        return await self.library.vector_stores.create("", files=[Addition(file.id) for file in files]), files

    async def member(self, store: VectorStore, file: File) -> Member:
        return await self.library.members.get("", store.id, file.id)

    async def ended(self, store: VectorStore) -> VectorStore:
        async def probe() -> VectorStore | None:
            now = await self.library.vector_stores.get("", store.id)
            return None if now.file_counts.in_progress else now

        found = await eventually_async(probe, what="the end of the ingestion")
        assert found is not None
        return found


class Seen:
    """What an ingester's watch is told."""

    def __init__(self) -> None:
        self.stages: set[str] = set()
        self.outcomes: list[tuple[str, int]] = []

    def took(self, stage: str, seconds: float) -> None:
        assert seconds >= 0
        self.stages.add(stage)

    def ended(self, outcome: str, chunks: int = 0) -> None:
        self.outcomes.append((outcome, chunks))

    async def has_some(self) -> bool:
        return bool(self.outcomes)

    async def is_whole(self) -> bool:
        return len(self.outcomes) == 2


@pytest.fixture
def bench(shelf: Shelf) -> Bench:
    return Bench(shelf)


async def test_files_become_chunks_that_can_be_found(bench):
    store, files = await bench.put("an apple", "a boat")
    async with bench.working():
        assert (await bench.ended(store)).file_counts.completed == 2
    (chunk,) = bench.shelf.store.collections[store.id][files[0].id]
    assert (chunk.text, chunk.filename, chunk.ordinal, chunk.vector) == ("an apple", "a.txt", 0, vector("a.txt"))
    assert [each.chunk.file_id for each in await bench.library.words(store.id, "boat", 9, None)] == [files[1].id]


async def test_what_was_done_is_told(bench):
    seen = Seen()
    store, (_, _, gone) = await bench.put("an apple", "refuse", "a boat")
    bench.models.is_there = False
    async with bench.working(watch=seen):
        await bench.library.files.delete("", gone.id)
        bench.models.is_there = True
        await bench.ended(store)
        await eventually_async(seen.is_whole)
    assert sorted(seen.outcomes) == [("completed", 1), ("unsupported_file", 0)]
    assert seen.stages == {"parse", "embed", "index"}


async def test_a_store_gets_the_embedder_that_made_its_vectors(bench):
    store, _ = await bench.put("an apple")
    async with bench.working():
        assert (await bench.ended(store)).embedder == EMBEDDER


async def test_questions_go_before_documents_at_the_embedder(bench):
    store, _ = await bench.put("an apple")
    async with bench.working():
        await bench.ended(store)
    await bench.library.search("", [store.id], ["apple"])
    documents, question = bench.models.embedder.priorities
    assert (documents, question) == (2, 0)


async def test_files_that_come_later_are_noticed(bench):
    async with bench.working():
        await asyncio.sleep(0)
        store, _ = await bench.put("an apple")
        assert (await bench.ended(store)).file_counts.completed == 1


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("refuse", ErrorCode.UNSUPPORTED_FILE, "not this"),
        ("crash", ErrorCode.INVALID_FILE, "crashes what reads it"),
        ("die", ErrorCode.SERVER_ERROR, "was killed 3 times"),
    ],
)
async def test_a_file_that_cannot_be_read_fails_with_its_reason_and_no_other(bench, text, code, message):
    store, (bad, good) = await bench.put(text, "an apple")
    async with bench.working():
        await bench.ended(store)
    error = (await bench.member(store, bad)).last_error
    assert error is not None
    assert error.code == code
    assert message in error.message
    assert (await bench.member(store, good)).status is Status.COMPLETED


async def test_texts_that_the_embedder_refuses_fail_their_file(bench):
    bench.models.embedder.status = 400
    bench.models.embedder.body = b"too long"
    store, (file,) = await bench.put("an apple")
    async with bench.working():
        await bench.ended(store)
    error = (await bench.member(store, file)).last_error
    assert error == LastError(ErrorCode.SERVER_ERROR, "The embedder 'fruit' answered 400: too long")


async def test_a_fault_of_ours_fails_the_file_and_not_the_ingester(bench):
    bench.models.embedder.config = None
    store, (file,) = await bench.put("an apple")
    async with bench.working():
        await bench.ended(store)
    error = (await bench.member(store, file)).last_error
    assert error == LastError(ErrorCode.SERVER_ERROR, "The server failed to ingest this file.")


async def test_an_embedder_that_is_not_there_yet_is_waited_for(bench):
    bench.models.is_there = False
    store, (file,) = await bench.put("an apple")
    async with bench.working():
        await claimed(bench)
        assert (await bench.member(store, file)).status is Status.IN_PROGRESS
        bench.models.is_there = True
        assert (await bench.ended(store)).file_counts.completed == 1


async def test_a_store_that_is_out_is_waited_for(bench):
    put, failures = bench.shelf.store.put, [Unavailable("out"), Unavailable("still")]

    async def failing(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        await put(*arguments)

    bench.shelf.store.put = failing
    store, _ = await bench.put("an apple")
    async with bench.working():
        assert (await bench.ended(store)).file_counts.completed == 1


async def test_no_more_files_are_under_way_than_allowed(bench):
    bench.models.embedder.hangs = True
    await bench.put(*("an apple",) * 4)
    async with bench.working(pace=replace(PACE, files=2)):
        await holds(lambda: sum(len(request["input"]) for request in bench.models.embedder.asked) == 2)
        assert [await bench.shelf.claim("another") is None for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    "cancel",
    [
        lambda bench, store, file: bench.library.members.delete("", store.id, file.id),
        lambda bench, store, file: bench.library.files.delete("", file.id),  # noqa: ARG005
        lambda bench, store, file: bench.library.vector_stores.delete("", store.id),  # noqa: ARG005
    ],
    ids=["from the store", "the file", "the store"],
)
async def test_deleting_stops_what_is_under_way(bench, cancel):
    bench.models.embedder.hangs = True
    store, (file,) = await bench.put("an apple")
    async with bench.working():
        await holds(lambda: len(bench.models.embedder.asked) == 1)
        await cancel(bench, store, file)
        bench.models.embedder.hangs = False
        other, _ = await bench.put("a pear")
        assert (await bench.ended(other)).file_counts.completed == 1
    assert bench.shelf.store.collections.get(store.id, {}) == {}


async def test_cancelling_a_batch_stops_what_is_under_way(bench):
    bench.models.embedder.hangs = True
    store, _ = await bench.put()
    file = await bench.shelf.file()
    batch = await bench.library.members.add_batch("", store.id, [Addition(file.id)])
    async with bench.working():
        await holds(lambda: len(bench.models.embedder.asked) == 1)
        await bench.library.members.cancel_batch("", store.id, batch.id)
    assert (await bench.member(store, file)).status is Status.CANCELLED
    assert bench.shelf.store.collections == {}


async def test_a_file_deleted_while_its_chunks_are_put_is_seen_to_its_end(bench):
    seen, put = Seen(), bench.shelf.store.put
    is_begun, may_go_on = asyncio.Event(), asyncio.Event()

    async def held_up(*arguments: Any) -> None:
        is_begun.set()
        await may_go_on.wait()
        await put(*arguments)

    bench.shelf.store.put = held_up
    store, (file,) = await bench.put("an apple")
    async with bench.working(watch=seen):
        await is_begun.wait()
        await bench.library.files.delete("", file.id)
        await asyncio.sleep(3 * PACE.check_seconds)
        may_go_on.set()
        await eventually_async(seen.has_some)
        assert seen.outcomes == [("cancelled", 0)]
        assert bench.shelf.store.collections[store.id] == {}


async def test_what_a_killed_predecessor_had_is_done_at_once(bench):
    store, _ = await bench.put("an apple")
    assert await bench.shelf.claim("one", 3600)
    async with bench.working(worker="one"):
        assert (await bench.ended(store)).file_counts.completed == 1


async def test_what_another_machine_has_is_left_to_it_until_its_time_is_up(bench):
    store, (file,) = await bench.put("an apple")
    assert await bench.shelf.claim("two", 3600)
    async with bench.working(worker="one"):
        other, _ = await bench.put("a pear")
        await bench.ended(other)
        assert (await bench.member(store, file)).status is Status.IN_PROGRESS
        bench.shelf.clock.now += 3601
        assert (await bench.ended(store)).file_counts.completed == 1


async def test_an_ingester_that_leaves_gives_back_what_it_has(bench):
    bench.models.embedder.hangs = True
    await bench.put("an apple")
    async with bench.working():
        await holds(lambda: len(bench.models.embedder.asked) == 1)
    assert bench.models.embedder.was_cancelled
    assert await bench.shelf.claim("two") is not None


async def test_a_claim_is_renewed_while_the_work_goes_on(bench):
    bench.models.embedder.hangs = True
    await bench.put("an apple")
    async with bench.working(pace=Pace(look_seconds=0.01, check_seconds=0.01, lease_seconds=0.09)):
        await holds(lambda: len(bench.models.embedder.asked) == 1)
        for _ in range(5):
            bench.shelf.clock.now += 0.05
            await asyncio.sleep(0.1)
            assert await bench.shelf.claim("two") is None


async def test_a_file_that_was_begun_too_often_is_given_up(bench):
    store, (file,) = await bench.put("an apple")
    for _ in range(50):
        assert await bench.shelf.claim("one")
        await bench.library.jobs.release("one")
    async with bench.working():
        await bench.ended(store)
    error = (await bench.member(store, file)).last_error
    assert error == LastError(ErrorCode.SERVER_ERROR, "Given up after 50 attempts.")


async def test_what_was_interrupted_is_swept_up(bench):
    store, _ = await bench.put("an apple")
    bench.shelf.store.collections["orphan"] = {}
    async with bench.working():
        await bench.ended(store)
        await bench.library.vector_stores.update("", store.id, expires_after_days=1)
        bench.shelf.clock.now += 3 * 86400
        await holds(lambda: store.id not in bench.shelf.store.collections)


async def test_nothing_is_opened_before_there_is_a_file(bench, tmp_path: Path):
    shelf = bench.shelf
    bench.library = opened(tmp_path / "new", shelf.store, shelf.models, shelf.clock)
    async with bench.working():
        await asyncio.sleep(0.05)
    assert not (tmp_path / "new").exists()


async def claimed(bench: Bench) -> None:
    """Wait until the ingester has taken every file."""

    async def probe() -> bool:
        job = await bench.shelf.claim("probe")
        await bench.library.jobs.release("probe")
        return job is None

    await eventually_async(probe)
