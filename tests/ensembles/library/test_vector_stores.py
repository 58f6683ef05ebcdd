"""Vector stores: their state is what their files' rows say."""

from __future__ import annotations

import pytest

from backends.errors import InvalidRequest, NotFound
from ensembles.records.rows import Addition, Range
from tests.ensembles.library.shelf import EMBEDDER, Shelf

DAY_SECONDS = 86400


async def test_a_vector_store_is_as_it_was_asked_for(shelf: Shelf):
    made = await shelf.library.vector_stores.create(
        "alice", "books", description="of all kinds", metadata={"a": "b"}, expires_after_days=2
    )
    assert await shelf.library.vector_stores.get("alice", made.id) == made
    assert (made.name, made.description, made.metadata, made.embedder) == (
        "books",
        "of all kinds",
        {"a": "b"},
        EMBEDDER,
    )
    assert made.expires_at == made.created_at + 2 * DAY_SECONDS
    assert (made.usage_bytes, made.file_counts.total) == (0, 0)


async def test_others_vector_stores_do_not_exist(shelf: Shelf):
    store, (file,) = await shelf.holding("an apple", owner="alice")
    stores, members = shelf.library.vector_stores, shelf.library.members
    asked = (
        stores.get("bob", store.id),
        stores.update("bob", store.id, name="mine"),
        stores.delete("bob", store.id),
        members.add("bob", store.id, Addition(file.id)),
        members.get("bob", store.id, file.id),
        members.page("bob", store.id, Range()),
        members.set_attributes("bob", store.id, file.id, {"a": 1.0}),
        members.delete("bob", store.id, file.id),
        members.content("bob", store.id, file.id),
        members.add_batch("bob", store.id, [Addition(file.id)]),
        shelf.library.search("bob", [store.id], ["apple"]),
    )
    for ask in asked:
        with pytest.raises(NotFound, match=store.id):
            await ask
    assert (await stores.page("bob", Range())).rows == []
    assert await stores.find("bob", store.id) is None
    assert (await stores.get("alice", store.id)).file_counts.completed == 1


async def test_nobody_puts_anothers_file_into_a_store(shelf: Shelf):
    file = await shelf.file(owner="alice")
    with pytest.raises(NotFound, match=file.id):
        await shelf.library.vector_stores.create("bob", files=[Addition(file.id)])
    assert (await shelf.library.vector_stores.page("bob", Range())).rows == []


async def test_pages_of_vector_stores_have_their_counts(shelf: Shelf):
    ids = [(await shelf.holding(f"apple {number}"))[0].id for number in range(3)]
    page = await shelf.library.vector_stores.page("", Range(2, "asc"))
    assert [(store.id, store.file_counts.completed) for store in page.rows] == [(ids[0], 1), (ids[1], 1)]
    assert page.has_more
    assert all(store.usage_bytes for store in page.rows)


async def test_only_what_is_given_is_changed(shelf: Shelf):
    made = await shelf.library.vector_stores.create("", "old", metadata={"a": "b"}, expires_after_days=1)
    renamed = await shelf.library.vector_stores.update("", made.id, name="new")
    assert (renamed.name, renamed.metadata, renamed.expires_after_days) == ("new", {"a": "b"}, 1)
    lasting = await shelf.library.vector_stores.update("", made.id, metadata={}, expires_after_days=0)
    assert (lasting.name, lasting.metadata, lasting.expires_at) == ("new", {}, None)


async def test_a_store_is_found_by_its_id_or_the_newest_of_its_name(shelf: Shelf):
    stores = shelf.library.vector_stores
    first, second = await stores.create("", "handbook"), await stores.create("", "handbook")
    assert await stores.find("", "handbook") == second
    assert await stores.find("", first.id) == first
    assert await stores.find("", "nothing") is None


async def test_a_deleted_store_is_gone_with_its_chunks_and_its_files_stay(shelf: Shelf):
    store, (file,) = await shelf.holding("an apple")
    await shelf.library.vector_stores.delete("", store.id)
    assert store.id not in shelf.store.collections
    with pytest.raises(NotFound):
        await shelf.library.vector_stores.get("", store.id)
    with pytest.raises(NotFound):
        await shelf.library.vector_stores.delete("", store.id)
    assert await shelf.library.files.get("", file.id) == file


async def test_an_expired_store_refuses_searches_files_and_changes(shelf: Shelf):
    store, (file,) = await shelf.holding("an apple", expires_after_days=1)
    shelf.clock.now += DAY_SECONDS
    assert (await shelf.library.vector_stores.get("", store.id)).is_expired(shelf.clock.now)
    for ask in (
        shelf.library.search("", [store.id], ["apple"]),
        shelf.library.words(store.id, "apple", 3, None),
        shelf.library.members.add("", store.id, Addition(file.id, {"a": "b"})),
        shelf.library.vector_stores.update("", store.id, expires_after_days=3),
    ):
        with pytest.raises(InvalidRequest, match="expired"):
            await ask
    assert await shelf.library.vector_stores.find("", store.id) is None


async def test_a_sweep_empties_an_expired_store_and_keeps_its_row(shelf: Shelf):
    store, _ = await shelf.holding("an apple", expires_after_days=1)
    shelf.clock.now += DAY_SECONDS
    await shelf.library.sweep()
    assert store.id not in shelf.store.collections
    assert (await shelf.library.vector_stores.get("", store.id)).file_counts.total == 0


async def test_a_store_that_is_searched_lives_on(shelf: Shelf):
    store, _ = await shelf.holding("an apple", expires_after_days=1)
    shelf.clock.now += DAY_SECONDS / 2
    await shelf.library.search("", [store.id], ["apple"])
    used = await shelf.library.vector_stores.get("", store.id)
    assert used.last_active_at == int(shelf.clock.now)
    assert used.expires_at == int(shelf.clock.now) + DAY_SECONDS


async def test_a_store_that_was_made_before_any_embedder_takes_its_first_files(shelf: Shelf):
    from backends.errors import ModelNotReady
    from ensembles.library.vector_stores import VectorStores

    def none_yet() -> str:
        raise ModelNotReady("No embedder is ready.")

    stores = VectorStores(shelf.library._opening, none_yet)
    file = await shelf.file("an apple")
    store = await stores.create("", files=[Addition(file.id)])
    assert store.embedder == ""
    job = await shelf.claim()
    assert job is not None
    assert await shelf.complete(job, embedder=EMBEDDER)
    assert (await stores.get("", store.id)).embedder == EMBEDDER
    assert (await shelf.library.search("", [store.id], ["apple"])).passages


async def test_who_looks_after_all_stores_is_told_those_of_every_owner(shelf):
    made = [(await shelf.library.vector_stores.create(owner)).id for owner in ("alice", "bob", "bob")]
    await shelf.library.vector_stores.delete("bob", made[2])
    assert await shelf.library.collections() == made[:2]
