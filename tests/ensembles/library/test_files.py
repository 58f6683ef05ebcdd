"""Files of tenants: kept whole, listed in order, deleted everywhere."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from backends.errors import BodyTooLarge, NotFound
from ensembles.records.rows import Range
from tests.ensembles.library.shelf import Shelf, pieces


async def test_a_file_is_kept_as_it_came(shelf: Shelf):
    data = [b"\x00\xff" * 700_000, b"", b"end"]
    file = await shelf.library.files.create("alice", "ä/../b.bin", "user_data", pieces(*data))
    assert (file.bytes, file.filename, file.purpose) == (1_400_003, "ä/../b.bin", "user_data")
    assert await shelf.library.files.get("alice", file.id) == file
    assert (await shelf.library.files.content("alice", file.id)).read_bytes() == b"".join(data)


async def test_a_library_that_is_never_asked_makes_nothing(shelf: Shelf, tmp_path: Path):
    folder = tmp_path / "untouched"
    library = replace(shelf, folder=folder).another()
    assert library.is_begun() is bool(shelf.database_url)  # a database that is named may hold something
    assert not folder.exists()
    await library.files.create("", "a.txt", "assistants", pieces(b"an apple"))
    assert library.is_begun()
    await library.close()


async def test_others_files_do_not_exist(shelf: Shelf):
    file = await shelf.file(owner="alice")
    for ask in (shelf.library.files.get, shelf.library.files.content, shelf.library.files.delete):
        with pytest.raises(NotFound, match=file.id):
            await ask("bob", file.id)
    assert (await shelf.library.files.page("bob", Range())).rows == []
    assert await shelf.library.files.get("alice", file.id) == file


async def test_pages_run_through_all_files_in_both_orders(shelf: Shelf):
    ids = [(await shelf.file(f"file {number}")).id for number in range(7)]
    for order, expected in (("asc", ids), ("desc", ids[::-1])):
        seen, after = [], ""
        while True:
            page = await shelf.library.files.page("", Range(3, order, after))
            seen += [file.id for file in page.rows]
            if not page.has_more:
                break
            after = seen[-1]
        assert seen == expected


async def test_a_page_before_a_file_ends_with_its_neighbour(shelf: Shelf):
    ids = [(await shelf.file(f"file {number}")).id for number in range(5)]
    page = await shelf.library.files.page("", Range(2, "asc", before=ids[3]))
    assert ([file.id for file in page.rows], page.has_more) == (ids[1:3], True)
    page = await shelf.library.files.page("", Range(3, "asc", before=ids[3]))
    assert ([file.id for file in page.rows], page.has_more) == (ids[:3], False)


async def test_a_page_between_two_files_has_what_is_between_them(shelf: Shelf):
    ids = [(await shelf.file(f"file {number}")).id for number in range(5)]
    for order, after, before, expected in (("asc", ids[0], ids[4], ids[1:4]), ("desc", ids[4], ids[0], ids[3:0:-1])):
        page = await shelf.library.files.page("", Range(5, order, after, before))
        assert ([file.id for file in page.rows], page.has_more) == (expected, False)


async def test_a_page_goes_on_after_a_file_that_was_deleted(shelf: Shelf):
    ids = [(await shelf.file(f"file {number}")).id for number in range(4)]
    await shelf.library.files.delete("", ids[1])
    page = await shelf.library.files.page("", Range(2, "asc", after=ids[1]))
    assert [file.id for file in page.rows] == ids[2:]


async def test_files_are_listed_by_purpose(shelf: Shelf):
    await shelf.file()
    other = await shelf.library.files.create("", "b.txt", "batch", pieces(b"b"))
    assert [file.id for file in (await shelf.library.files.page("", Range(), "batch")).rows] == [other.id]


async def test_a_file_over_the_limit_is_refused_and_nothing_is_left_of_it(shelf: Shelf):
    with pytest.raises(BodyTooLarge, match="10 bytes"):
        await shelf.library.files.create("", "a", "user_data", pieces(b"12345678", b"901"), limit_bytes=10)
    assert [path for path in shelf.folder.rglob("*") if path.is_file() and "records" not in path.name] == []


async def test_an_upload_that_breaks_off_leaves_nothing(shelf: Shelf):
    async def broken():
        yield b"beginning"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await shelf.library.files.create("", "a", "user_data", broken())
    assert [path for path in shelf.folder.rglob("*") if path.is_file() and "records" not in path.name] == []


async def test_files_of_the_same_contents_share_the_disk_until_the_last_is_deleted(shelf: Shelf):
    first, second = await shelf.file("the same"), await shelf.file("the same")
    one = await shelf.library.files.content("", first.id)
    assert one.samefile(await shelf.library.files.content("", second.id))
    await shelf.library.files.delete("", first.id)
    assert (await shelf.library.files.content("", second.id)).read_text() == "the same"
    await shelf.library.files.delete("", second.id)
    assert not one.parent.exists()


async def test_a_deleted_file_is_gone_from_every_vector_store(shelf: Shelf):
    store, (file, other) = await shelf.holding("an apple", "a pear")
    await shelf.library.files.delete("", file.id)
    assert set(shelf.store.collections[store.id]) == {other.id}
    assert (await shelf.library.vector_stores.get("", store.id)).file_counts.total == 1
    with pytest.raises(NotFound):
        await shelf.library.members.get("", store.id, file.id)


async def test_a_file_whose_time_is_up_is_not_there_and_is_swept(shelf: Shelf):
    file = await shelf.library.files.create("", "a", "batch", pieces(b"a"), expires_after_seconds=3600)
    path = await shelf.library.files.content("", file.id)
    shelf.clock.now += 3600
    with pytest.raises(NotFound):
        await shelf.library.files.get("", file.id)
    await shelf.library.sweep()
    assert not path.exists()


async def test_writers_that_are_cancelled_at_any_moment_leave_the_library_usable(shelf: Shelf):
    await shelf.file()
    for steps in range(40):
        task = asyncio.create_task(shelf.file(f"file {steps}"))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await asyncio.wait_for(shelf.file("last"), 5)
    page = await shelf.library.files.page("", Range(100))
    for file in page.rows:
        assert (await shelf.library.files.content("", file.id)).exists()
