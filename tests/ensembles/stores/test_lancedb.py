"""What only LanceDB's store promises: deleted rows leave the disk, graphs are made for large tables alone."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from ensembles.stores.lancedb import LanceStore
from ensembles.stores.store import Chunk

NAME = "vs_1"
FILES = 12  # one of them is less than the tenth of deleted rows from which LanceDB itself rewrites a part


@pytest.fixture
async def opened(tmp_path) -> AsyncIterator[LanceStore]:
    """A store whose old versions are no longer kept at once."""
    store = LanceStore(str(tmp_path), retention=timedelta(0))
    await store.create(NAME, 2)
    yield store
    await store.close()


async def put(store: LanceStore, *names: str) -> None:
    for name in names:
        chunks = [
            Chunk(name, name, ordinal, f"piece {ordinal}", vector=struct.pack("<2f", 1, ordinal))
            for ordinal in range(5)
        ]
        await store.put(NAME, {name: chunks})


async def kept(store: LanceStore) -> int:
    """How many rows the latest version's files hold, deleted ones included. Exact for up to two files."""
    table = await store._table(NAME)
    fragments = (await table.stats())["fragment_stats"]
    lengths = fragments["lengths"]
    assert fragments["num_fragments"] <= 2
    return lengths["min"] + lengths["max"] if fragments["num_fragments"] == 2 else lengths["max"]


def files(path: Path) -> int:
    return len(list((path / f"{NAME}.lance" / "data").iterdir()))


@pytest.mark.filterwarnings("ignore:optimize")
@pytest.mark.parametrize("changed_before", [False, True])
async def test_a_deleted_file_is_not_in_the_data_after_optimising(opened, tmp_path, changed_before):
    names = [f"f{number}" for number in range(FILES)]
    await put(opened, *names)
    await opened.optimise(NAME)
    if changed_before:
        # Its rows move, and what they were stays behind.
        await opened.set_attributes(NAME, "f3", {"a": "b"})
    await opened.remove(NAME, "f3")
    assert await kept(opened) > 5 * FILES - 5
    await opened.optimise(NAME)
    assert await kept(opened) == 5 * FILES - 5
    assert files(tmp_path) <= 2
    assert len({hit.chunk.file_id for hit in await opened.words(NAME, "piece", 1000)}) == FILES - 1


@pytest.mark.filterwarnings("ignore:optimize")
async def test_a_replaced_file_is_not_in_the_data_after_optimising(opened):
    await put(opened, *(f"f{number}" for number in range(FILES)))
    await opened.optimise(NAME)
    await put(opened, "f3")
    await opened.optimise(NAME)
    assert await kept(opened) == 5 * FILES


async def test_what_was_deleted_lately_is_left_to_those_who_still_read_it(tmp_path):
    store = LanceStore(str(tmp_path), retention=timedelta(hours=1))
    await store.create(NAME, 2)
    await put(store, *(f"f{number}" for number in range(FILES)))
    await store.optimise(NAME)
    await store.remove(NAME, "f3")
    await store.optimise(NAME)
    assert await kept(store) == 5 * FILES
    assert files(tmp_path) > 2
    await store.close()


@pytest.mark.filterwarnings("ignore:optimize")
async def test_deleting_while_others_optimise_leaves_nothing_either(opened, tmp_path):
    other = LanceStore(str(tmp_path), retention=timedelta(hours=1))
    await put(opened, *(f"f{number}" for number in range(24)))

    async def remove() -> None:
        for number in range(12):
            await opened.remove(NAME, f"f{number}")

    async def optimise() -> None:
        for _ in range(6):
            await other.optimise(NAME)

    await asyncio.gather(remove(), optimise())
    await opened.optimise(NAME)
    assert await kept(opened) == 60
    await other.close()


@pytest.mark.filterwarnings("ignore:optimize")
@pytest.mark.slow
async def test_a_large_table_gets_a_graph_that_finds_the_nearest_old_and_new(opened):
    vectors = np.random.default_rng(7).normal(size=(20_000, 32)).astype("<f4")
    await opened.create("large", 32)
    for first in range(0, len(vectors), 5_000):
        part = vectors[first : first + 5_000]
        chunks = [Chunk(f"f{first}", "f", ordinal, "x", vector=of.tobytes()) for ordinal, of in enumerate(part, first)]
        await opened.put("large", {f"f{first}": chunks})
    table = await opened._table("large")
    assert [index.columns for index in await table.list_indices()] == [["text"]]
    await opened.optimise("large")
    assert {index.columns[0] for index in await table.list_indices()} == {"text", "vector"}
    new = Chunk("new", "f", 0, "x", vector=(-vectors[0]).tobytes())
    await opened.put("large", {"new": [new]})
    assert (await opened.dense("large", new.vector, 1))[0].chunk.id == "new:0"
    lengths = np.linalg.norm(vectors, axis=1)
    right = 0
    for asked in vectors[:20] + np.float32(0.5):
        nearest = set(np.argsort(-(vectors @ asked) / lengths)[:10])
        right += len(nearest & {hit.chunk.ordinal for hit in await opened.dense("large", asked.tobytes(), 10)})
    assert right >= 0.95 * 200
