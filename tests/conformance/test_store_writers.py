"""Every vector store keeps files whole, whoever else writes, leaves or is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys

import pytest

from ensembles.stores.store import Hit
from tests.conformance.store_chunks import SIZES, assert_whole, vector, written
from tests.servers import ROOT
from tests.waiting import eventually_async


async def test_writers_at_once_lose_nothing(opening, collection):
    stores = [opening() for _ in range(4)]

    async def write(store, prefix):
        for number in range(8):
            await store.put(collection, {f"{prefix}{number}": written(f"{prefix}{number}", 3)})
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
            *(store.put(collection, {"f": written("f", size)}) for size, store in enumerate(stores, start=3))
        )
        assert_whole("f", await stores[0].read(collection, "f"), sizes=range(3, 7))


async def test_files_put_together_by_several_at_once_are_each_that_of_one_of_them(opening, collection):
    stores = [opening() for _ in range(3)]
    names = ("a", "b", "c")
    for _ in range(3):
        groups = [{name: written(name, size) for name in names} for size in range(3, 6)]
        await asyncio.gather(*(store.put(collection, group) for store, group in zip(stores, groups, strict=True)))
        for name in names:
            assert_whole(name, await stores[0].read(collection, name), sizes=range(3, 6))


@pytest.mark.parametrize("turns", [1, 2, 4, 8, 16, 64, 256])
async def test_a_put_that_is_cancelled_leaves_the_old_file_or_the_new_one(store, opening, collection, turns):
    await store.put(collection, {"f": written("f", 4)})
    putting = asyncio.create_task(store.put(collection, {"f": written("f", 7)}))
    for _ in range(turns):
        await asyncio.sleep(0)
    putting.cancel()
    await asyncio.wait([putting])
    assert_whole("f", await opening().read(collection, "f"))
    await store.put(collection, {"f": written("f", 4)})
    assert len(await store.read(collection, "f")) == 4


async def test_a_search_that_is_cancelled_harms_no_other(store, collection):
    await store.put(collection, {"f": written("f", 4)})
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
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as process:
        os.set_blocking(process.stdout.fileno(), False)
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
async def test_readers_see_whole_files_while_other_processes_write_and_optimise(store_url, store, opening, collection):
    optimiser = opening()
    seen = 0
    with writing(store_url, collection, "a", 15) as one, writing(store_url, collection, "b", 15) as other:
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
async def test_files_are_whole_or_not_there_after_their_writer_was_killed(store_url, store, collection, after):
    said = b""
    with writing(store_url, collection, "f", 10_000) as process:

        async def enough():
            nonlocal said
            said += process.stdout.read() or b""
            return said.count(b"\n") >= after

        await eventually_async(enough, seconds=30)
        process.send_signal(signal.SIGKILL)
        process.wait()
        said += process.stdout.read()
    *acknowledged, _ = said.decode().split("\n")  # the last may have been killed in the middle of its name
    for file_id in set(acknowledged):
        assert_whole(file_id, await store.read(collection, file_id))
    for hit in await store.words(collection, "piece", 10_000):
        assert_whole(hit.chunk.file_id, await store.read(collection, hit.chunk.file_id))
    await store.optimise(collection)
    await store.put(collection, {"f0": written("f0", 7)})
    assert len(await store.read(collection, "f0")) == 7
