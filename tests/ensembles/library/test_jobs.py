"""Claims on files: one worker at a time, none for ever, and whoever lost one leaves nothing behind."""

from __future__ import annotations

import asyncio

import pytest

from backends.errors import NotFound
from ensembles.library.jobs import Finished
from ensembles.records.rows import Addition, ErrorCode, Job, Status
from tests.ensembles.library.shelf import Shelf


async def claimed(shelf: Shelf, text: str = "an apple") -> Job:
    file = await shelf.file(text)
    await shelf.library.vector_stores.create("", files=[Addition(file.id, {"a": "b"})])
    job = await shelf.claim("first")
    assert job is not None
    return job


async def test_jobs_are_claimed_in_the_order_in_which_files_were_added(shelf: Shelf):
    files = [await shelf.file(f"file {number}") for number in range(3)]
    await shelf.library.vector_stores.create("", files=[Addition(file.id) for file in files])
    rounds = [await shelf.library.jobs.claim("tests", 60, 2) for _ in range(3)]
    assert [[job.file_id for job in jobs] for jobs in rounds] == [[files[0].id, files[1].id], [files[2].id], []]
    assert await shelf.library.jobs.waiting() == 3


async def test_a_job_says_all_that_a_worker_needs(shelf: Shelf):
    job = await claimed(shelf)
    assert (job.filename, job.bytes, job.attributes, job.attempt) == ("a.txt", 8, {"a": "b"}, 1)
    assert shelf.library.jobs.content(job).read_text() == "an apple"


async def test_every_file_is_claimed_once_by_workers_of_several_processes(shelf: Shelf):
    files = [await shelf.file(f"file {number}") for number in range(12)]
    await shelf.library.vector_stores.create("", files=[Addition(file.id) for file in files])
    libraries = [shelf.another() for _ in range(3)]

    async def work(number: int) -> list[str]:
        done = []
        while jobs := await libraries[number].jobs.claim(f"worker {number}", 60, 2):
            for job in jobs:
                assert await shelf.complete(job, libraries[number])
                done.append(job.file_id)
        return done

    done = await asyncio.gather(*(work(number) for number in range(3)))
    for library in libraries:
        await library.close()
    assert sorted(file_id for each in done for file_id in each) == sorted(file.id for file in files)


async def test_a_claim_that_was_not_renewed_is_anybodys(shelf: Shelf):
    job = await claimed(shelf)
    shelf.clock.now += 59
    assert await shelf.claim("second") is None
    assert await shelf.library.jobs.renew([job], 60) == {job.key}
    shelf.clock.now += 59
    assert await shelf.claim("second") is None
    shelf.clock.now += 1
    taken = await shelf.claim("second")
    assert taken is not None
    assert (taken.file_id, taken.attempt) == (job.file_id, 2)
    assert await shelf.library.jobs.held([job, taken]) == {taken.key}
    assert await shelf.library.jobs.renew([job], 60) == set()
    assert not await shelf.complete(job)
    assert not await shelf.library.jobs.fail(job, ErrorCode.SERVER_ERROR, "too late")
    assert await shelf.complete(taken)


async def test_files_that_are_completed_together_are_each_there_or_given_up(shelf: Shelf):
    files = [await shelf.file(text) for text in ("an apple", "a boat", "")]
    store = await shelf.library.vector_stores.create("", files=[Addition(file.id) for file in files])
    jobs = await shelf.library.jobs.claim("first", 60, 3)
    chunks = {job.file_id: shelf.chunks(job) for job in jobs}
    await shelf.library.members.set_attributes("", store.id, jobs[0].file_id, {"a": "changed"})
    await shelf.library.files.delete("", jobs[1].file_id)
    finished = [Finished(job, chunks[job.file_id]) for job in jobs]
    assert await shelf.library.jobs.complete(finished) == [True, False, True]
    (chunk,) = await shelf.library.members.content("", store.id, jobs[0].file_id)
    assert (chunk.text, chunk.attributes) == ("an apple", {"a": "changed"})
    assert shelf.store.collections[store.id].keys() == {jobs[0].file_id, jobs[2].file_id}
    counts = (await shelf.library.vector_stores.get("", store.id)).file_counts
    assert (counts.completed, counts.in_progress, counts.total) == (2, 0, 2)


async def test_a_worker_that_comes_back_has_its_claims_released(shelf: Shelf):
    job = await claimed(shelf)
    assert await shelf.library.jobs.release("second") == 0
    assert await shelf.library.jobs.release("first") == 1
    again = await shelf.claim("first")
    assert again is not None
    assert (again.file_id, again.attempt) == (job.file_id, 2)
    assert not await shelf.complete(job)


async def test_chunks_have_the_filename_and_the_attributes_of_their_file(shelf: Shelf):
    job = await claimed(shelf)
    await shelf.library.members.set_attributes("", job.store_id, job.file_id, {"a": "changed"})
    assert await shelf.complete(job)
    (chunk,) = await shelf.library.members.content("", job.store_id, job.file_id)
    assert (chunk.file_id, chunk.filename, chunk.attributes) == (job.file_id, "a.txt", {"a": "changed"})


async def test_a_failure_is_told_in_the_files_last_error(shelf: Shelf):
    job = await claimed(shelf)
    assert await shelf.library.jobs.fail(job, ErrorCode.UNSUPPORTED_FILE, "It is a picture.")
    member = await shelf.library.members.get("", job.store_id, job.file_id)
    assert member.status is Status.FAILED
    assert member.last_error is not None
    assert (member.last_error.code, member.last_error.message) == ("unsupported_file", "It is a picture.")
    assert await shelf.claim("first") is None


async def test_a_file_that_failed_is_ingested_once_it_is_added_again(shelf: Shelf):
    job = await claimed(shelf)
    assert await shelf.library.jobs.fail(job, ErrorCode.SERVER_ERROR, "Not now.")
    await shelf.library.members.add("", job.store_id, Addition(job.file_id, {"a": "b"}))
    await shelf.ingest()
    member = await shelf.library.members.get("", job.store_id, job.file_id)
    assert (member.status, member.last_error) == (Status.COMPLETED, None)


class Race:
    """A store in which something else happens right after the chunks were put, before the file is completed."""

    def __init__(self, shelf: Shelf, happens):
        self._put, self._happens = shelf.store.put, happens
        shelf.store.put = self.put  # type: ignore[method-assign]
        self._shelf = shelf

    async def put(self, collection, files):
        await self._put(collection, files)
        self._shelf.store.put = self._put  # type: ignore[method-assign]
        await self._happens()


async def test_a_file_that_is_deleted_while_it_is_ingested_leaves_no_chunk(shelf: Shelf):
    job = await claimed(shelf)
    Race(shelf, lambda: shelf.library.files.delete("", job.file_id))
    assert not await shelf.complete(job)
    assert shelf.store.collections[job.store_id] == {}


async def test_a_file_that_is_deleted_before_its_chunks_are_put_leaves_none(shelf: Shelf):
    job = await claimed(shelf)
    await shelf.library.members.delete("", job.store_id, job.file_id)
    assert not await shelf.complete(job)
    assert shelf.store.collections.get(job.store_id, {}) == {}


async def test_a_store_that_is_deleted_while_a_file_is_ingested_leaves_nothing(shelf: Shelf):
    job = await claimed(shelf)
    Race(shelf, lambda: shelf.library.vector_stores.delete("", job.store_id))
    assert not await shelf.complete(job)
    assert job.store_id not in shelf.store.collections


async def test_a_file_that_is_cancelled_while_it_is_ingested_leaves_no_chunk(shelf: Shelf):
    file = await shelf.file("an apple")
    store = await shelf.library.vector_stores.create("")
    batch = await shelf.library.members.add_batch("", store.id, [Addition(file.id)])
    job = await shelf.claim("first")
    assert job is not None
    Race(shelf, lambda: shelf.library.members.cancel_batch("", store.id, batch.id))
    assert not await shelf.complete(job)
    assert shelf.store.collections[store.id] == {}
    assert (await shelf.library.members.get("", store.id, file.id)).status is Status.CANCELLED


async def test_attributes_that_change_while_a_file_is_ingested_are_not_lost(shelf: Shelf):
    job = await claimed(shelf)
    Race(shelf, lambda: shelf.library.members.set_attributes("", job.store_id, job.file_id, {"a": "late"}))
    assert await shelf.complete(job)
    (chunk,) = await shelf.library.members.content("", job.store_id, job.file_id)
    assert chunk.attributes == {"a": "late"}


async def test_chunks_of_a_lost_claim_that_came_last_are_made_anew(shelf: Shelf):
    job = await claimed(shelf)

    async def another_completes_it() -> None:
        shelf.clock.now += 1000
        other = await shelf.claim("second")
        assert other is not None
        assert await shelf.complete(other)

    Race(shelf, another_completes_it)
    assert not await shelf.complete(job)
    assert await shelf.library.jobs.waiting() == 1
    await shelf.ingest()
    assert (await shelf.library.members.get("", job.store_id, job.file_id)).status is Status.COMPLETED


async def test_a_file_that_is_added_again_waits_for_the_end_of_a_worker_that_may_still_write(shelf: Shelf):
    job = await claimed(shelf)
    await shelf.library.members.delete("", job.store_id, job.file_id)
    await shelf.library.members.add("", job.store_id, Addition(job.file_id))
    assert await shelf.claim("second") is None
    assert not await shelf.complete(job)
    again = await shelf.claim("second")
    assert again is not None
    assert again.file_id == job.file_id


async def test_a_sweep_ends_the_wait_for_a_worker_that_is_dead(shelf: Shelf):
    job = await claimed(shelf)
    await shelf.library.members.delete("", job.store_id, job.file_id)
    await shelf.library.members.add("", job.store_id, Addition(job.file_id))
    await shelf.library.sweep()
    assert await shelf.claim("second") is None
    shelf.clock.now += 60
    await shelf.library.sweep()
    assert await shelf.claim("second") is not None


async def test_files_of_an_expired_store_are_not_claimed(shelf: Shelf):
    file = await shelf.file()
    await shelf.library.vector_stores.create("", files=[Addition(file.id)], expires_after_days=1)
    shelf.clock.now += 86400
    assert await shelf.claim() is None


async def test_bytes_that_belong_to_no_file_are_swept(shelf: Shelf):
    file = await shelf.file()
    kept = await shelf.library.files.content("", file.id)
    orphan = kept.with_name("file-orphan")
    orphan.write_bytes(b"never acknowledged")
    from ensembles.library import removal

    await removal._remove_orphans(await shelf.library._opening.shelves(), 0.0)
    assert kept.exists()
    assert not orphan.exists()


async def test_what_is_deleted_cannot_be_completed_by_a_job_without_chunks(shelf: Shelf):
    job = await claimed(shelf, "")
    await shelf.library.files.delete("", job.file_id)
    assert await shelf.library.jobs.complete([Finished(job, [])]) == [False]
    with pytest.raises(NotFound):
        await shelf.library.members.get("", job.store_id, job.file_id)
