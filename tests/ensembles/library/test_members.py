"""Files in vector stores, and the batches that they come in."""

from __future__ import annotations

import pytest

from backends.errors import InvalidRequest, NotFound
from ensembles.records.rows import Addition, Chunking, ErrorCode, Range, Status
from ensembles.stores.filters import Comparison
from tests.ensembles.library.shelf import Shelf

SMALL = Chunking(200, 50, is_auto=False)


async def test_a_file_waits_until_it_is_ingested(shelf: Shelf):
    file = await shelf.file("an apple")
    store = await shelf.library.vector_stores.create("")
    member = await shelf.library.members.add("", store.id, Addition(file.id, {"kind": "fruit"}, SMALL))
    assert (member.status, member.usage_bytes, member.attributes, member.chunking) == (
        Status.IN_PROGRESS,
        0,
        {"kind": "fruit"},
        SMALL,
    )
    assert (await shelf.library.vector_stores.get("", store.id)).file_counts.in_progress == 1
    await shelf.ingest()
    member = await shelf.library.members.get("", store.id, file.id)
    assert member.status is Status.COMPLETED
    assert member.usage_bytes == len("an apple") + 5 * 4
    assert (await shelf.library.vector_stores.get("", store.id)).usage_bytes == member.usage_bytes


async def test_a_file_that_is_there_as_it_is_asked_for_is_not_ingested_again(shelf: Shelf):
    store, (file,) = await shelf.holding("an apple")
    member = await shelf.library.members.add("", store.id, Addition(file.id))
    assert member.status is Status.COMPLETED
    assert await shelf.claim() is None


async def test_a_file_that_is_asked_for_otherwise_is_ingested_again(shelf: Shelf):
    store, (file,) = await shelf.holding("an apple")
    member = await shelf.library.members.add("", store.id, Addition(file.id, {"a": "b"}, SMALL))
    assert (member.status, member.chunking) == (Status.IN_PROGRESS, SMALL)
    assert (await shelf.library.search("", [store.id], ["apple"])).passages == []
    await shelf.ingest()
    (passage,) = (await shelf.library.search("", [store.id], ["apple"])).passages
    assert passage.chunk.attributes == {"a": "b"}


async def test_files_are_listed_in_the_order_in_which_they_were_added(shelf: Shelf):
    files = [await shelf.file(f"file {number}") for number in range(5)]
    store = await shelf.library.vector_stores.create("")
    for file in reversed(files):
        await shelf.library.members.add("", store.id, Addition(file.id))
    page = await shelf.library.members.page("", store.id, Range(3, "asc"))
    assert [member.file_id for member in page.rows] == [file.id for file in files[:1:-1]]
    rest = await shelf.library.members.page("", store.id, Range(3, "asc", after=page.rows[-1].file_id))
    assert ([member.file_id for member in rest.rows], rest.has_more) == ([files[1].id, files[0].id], False)


async def test_a_page_goes_on_after_a_file_that_was_deleted(shelf: Shelf):
    store, files = await shelf.holding("a", "b", "c")
    await shelf.library.members.delete("", store.id, files[0].id)
    page = await shelf.library.members.page("", store.id, Range(order="asc", after=files[0].id))
    assert [member.file_id for member in page.rows] == [files[1].id, files[2].id]


async def test_a_cursor_that_is_no_file_of_the_store_is_refused(shelf: Shelf):
    store, _ = await shelf.holding("a")
    with pytest.raises(InvalidRequest, match="'after'") as caught:
        await shelf.library.members.page("", store.id, Range(after="file-nothing"))
    assert caught.value.param == "after"


async def test_files_are_listed_by_status(shelf: Shelf):
    store, (done,) = await shelf.holding("a")
    waiting = await shelf.file("b")
    await shelf.library.members.add("", store.id, Addition(waiting.id))
    for status, expected in ((Status.COMPLETED, [done.id]), (Status.IN_PROGRESS, [waiting.id]), (Status.FAILED, [])):
        page = await shelf.library.members.page("", store.id, Range(), status=status)
        assert [member.file_id for member in page.rows] == expected


async def test_attributes_are_changed_in_the_chunks_too(shelf: Shelf):
    store, (file,) = await shelf.holding("an apple")
    member = await shelf.library.members.set_attributes("", store.id, file.id, {"year": 1999.0, "is_ripe": True})
    assert member.attributes == {"year": 1999.0, "is_ripe": True}
    found = (await shelf.library.search("", [store.id], ["apple"], condition=Comparison("gte", "year", 1999))).passages
    assert [passage.chunk.file_id for passage in found] == [file.id]


async def test_an_interrupted_change_of_attributes_is_finished_by_a_sweep(shelf: Shelf):
    store, (file,) = await shelf.holding("an apple")
    await shelf.library.members.set_attributes("", store.id, file.id, {"a": "old"})
    from ensembles.records import members

    async with (await shelf.library._opening.shelves()).database.write() as connection:
        await members.set_attributes(connection, store.id, file.id, {"a": "new"})
    await shelf.library.sweep()
    (chunk,) = await shelf.library.members.content("", store.id, file.id)
    assert chunk.attributes == {"a": "new"}


async def test_a_file_that_is_not_there_has_no_attributes_to_change(shelf: Shelf):
    store, _ = await shelf.holding()
    with pytest.raises(NotFound, match="file-x"):
        await shelf.library.members.set_attributes("", store.id, "file-x", {})


async def test_a_file_that_is_taken_out_stays_a_file(shelf: Shelf):
    store, (file,) = await shelf.holding("an apple")
    await shelf.library.members.delete("", store.id, file.id)
    assert shelf.store.collections[store.id] == {}
    assert (await shelf.library.search("", [store.id], ["apple"])).passages == []
    with pytest.raises(NotFound):
        await shelf.library.members.delete("", store.id, file.id)
    assert await shelf.library.files.get("", file.id) == file


async def test_an_interrupted_deletion_is_finished_by_a_sweep(shelf: Shelf):
    store, (file, other) = await shelf.holding("an apple", "a pear")
    gone, _ = await shelf.holding("a plum")
    from ensembles.records import members, vector_stores

    async with (await shelf.library._opening.shelves()).database.write() as connection:
        await members.mark(connection, file.id, 1, store.id)
        await vector_stores.mark(connection, gone.id, 1)
    await shelf.library.sweep()
    assert set(shelf.store.collections[store.id]) == {other.id}
    assert gone.id not in shelf.store.collections


async def test_content_is_what_was_ingested(shelf: Shelf):
    store, (file,) = await shelf.holding("an apple\na pear")
    assert [chunk.text for chunk in await shelf.library.members.content("", store.id, file.id)] == [
        "an apple",
        "a pear",
    ]


async def test_a_file_that_waits_has_no_content(shelf: Shelf):
    file = await shelf.file()
    store = await shelf.library.vector_stores.create("", files=[Addition(file.id)])
    with pytest.raises(InvalidRequest, match="in_progress"):
        await shelf.library.members.content("", store.id, file.id)


async def test_a_file_without_chunks_is_completed_and_holds_nothing(shelf: Shelf):
    store, (file,) = await shelf.holding("")
    assert (await shelf.library.members.get("", store.id, file.id)).status is Status.COMPLETED
    assert await shelf.library.members.content("", store.id, file.id) == []
    assert (await shelf.library.search("", [store.id], ["apple"])).passages == []


async def test_a_batch_counts_its_own_files(shelf: Shelf):
    store, _ = await shelf.holding("an apple")
    files = [await shelf.file(f"pear {number}") for number in range(3)]
    batch = await shelf.library.members.add_batch("", store.id, [Addition(file.id) for file in (*files, files[0])])
    assert (batch.status, batch.file_counts.in_progress, batch.file_counts.total) == (Status.IN_PROGRESS, 3, 3)
    await shelf.ingest()
    batch = await shelf.library.members.get_batch("", store.id, batch.id)
    assert (batch.status, batch.file_counts.completed) == (Status.COMPLETED, 3)
    page = await shelf.library.members.page("", store.id, Range(order="asc"), batch_id=batch.id)
    assert [member.file_id for member in page.rows] == [file.id for file in files]


async def test_a_batch_with_a_file_that_is_not_there_adds_none(shelf: Shelf):
    store, _ = await shelf.holding()
    file = await shelf.file()
    with pytest.raises(NotFound, match="file-x"):
        await shelf.library.members.add_batch("", store.id, [Addition(file.id), Addition("file-x")])
    assert (await shelf.library.vector_stores.get("", store.id)).file_counts.total == 0


async def test_a_batch_of_which_all_failed_has_failed(shelf: Shelf):
    store, _ = await shelf.holding()
    batch = await shelf.library.members.add_batch("", store.id, [Addition((await shelf.file()).id)])
    job = await shelf.claim()
    assert job is not None
    assert await shelf.library.jobs.fail(job, ErrorCode.INVALID_FILE, "It is broken.")
    assert (await shelf.library.members.get_batch("", store.id, batch.id)).status is Status.FAILED


async def test_a_cancelled_batch_keeps_what_was_ingested(shelf: Shelf):
    store, _ = await shelf.holding()
    files = [await shelf.file(f"pear {number}") for number in range(2)]
    batch = await shelf.library.members.add_batch("", store.id, [Addition(file.id) for file in files])
    job = await shelf.claim()
    assert job is not None
    assert await shelf.complete(job)
    batch = await shelf.library.members.cancel_batch("", store.id, batch.id)
    assert (batch.status, batch.file_counts.completed, batch.file_counts.cancelled) == (Status.CANCELLED, 1, 1)
    assert await shelf.claim() is None


async def test_a_batch_that_is_done_cannot_be_cancelled_any_more(shelf: Shelf):
    store, _ = await shelf.holding()
    batch = await shelf.library.members.add_batch("", store.id, [Addition((await shelf.file()).id)])
    await shelf.ingest()
    assert (await shelf.library.members.cancel_batch("", store.id, batch.id)).status is Status.COMPLETED


async def test_a_batch_of_another_store_is_not_found(shelf: Shelf):
    store, _ = await shelf.holding()
    other, _ = await shelf.holding()
    batch = await shelf.library.members.add_batch("", store.id, [Addition((await shelf.file()).id)])
    for ask in (shelf.library.members.get_batch, shelf.library.members.cancel_batch):
        with pytest.raises(NotFound, match=batch.id):
            await ask("", other.id, batch.id)
