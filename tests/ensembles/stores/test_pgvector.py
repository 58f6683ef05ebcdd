"""What only PostgreSQL's store promises: a graph that hides nothing, connections that come back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import asyncpg
import numpy as np
import pytest

from backends.errors import Unavailable
from ensembles.stores.filters import Comparison
from ensembles.stores.pgvector import PostgresStore
from ensembles.stores.store import Chunk
from tests.postgres_servers import postgres_server
from tests.waiting import eventually_async

pytestmark = pytest.mark.slow
NAME = "vs_1"
GRAPH = 'tritium_chunks."vs_1:g"'


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with postgres_server() as server:
        yield server.url


@pytest.fixture
async def store(url) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url)
    await store.drop(NAME)
    yield store
    await store.close()


async def test_a_large_table_gets_a_graph_that_hides_nothing(store, url):
    vectors = np.random.default_rng(7).normal(size=(20_000, 32)).astype("<f4")
    await store.create(NAME, 32)
    connection = await asyncpg.connect(url)
    # One whose making was interrupted is left like this, and counts for nothing.
    await connection.execute('CREATE INDEX "vs_1:g" ON tritium_chunks.vs_1 USING hnsw (vector vector_cosine_ops)')
    await connection.execute(
        f"UPDATE pg_index SET indisvalid = false, indisready = false WHERE indexrelid = '{GRAPH}'::regclass"
    )
    for first in range(0, len(vectors), 5_000):
        part = vectors[first : first + 5_000]
        chunks = [Chunk(f"f{first}", "f", ordinal, "", vector=of.tobytes()) for ordinal, of in enumerate(part, first)]
        await store.put(NAME, {f"f{first}": chunks})
    await store.optimise(NAME)
    assert await connection.fetchval(f"SELECT indisvalid FROM pg_index WHERE indexrelid = '{GRAPH}'::regclass")
    made = await connection.fetchval(f"SELECT '{GRAPH}'::regclass::oid")
    await store.optimise(NAME)
    assert await connection.fetchval(f"SELECT '{GRAPH}'::regclass::oid") == made
    await connection.close()

    far = -vectors[0]
    await store.put(NAME, {"far": [Chunk("far", "f", 0, "", attributes={"is": "far"}, vector=far.tobytes())]})
    hits = await store.dense(NAME, vectors[0].tobytes(), 5, Comparison("eq", "is", "far"))
    assert [hit.chunk.id for hit in hits] == ["far:0"]
    lengths = np.linalg.norm(vectors, axis=1)
    right = 0
    for asked in vectors[:20] + np.float32(0.5):
        nearest = set(np.argsort(-(vectors @ asked) / lengths)[:10])
        right += len(nearest & {hit.chunk.ordinal for hit in await store.dense(NAME, asked.tobytes(), 10)})
    assert right >= 0.95 * 200


async def test_connections_that_the_server_ended_are_replaced(store, url):
    await store.create(NAME, 1)
    await store.put(NAME, {"f": [Chunk("f", "f", 0, "text", vector=np.ones(1, "<f4").tobytes())]})
    connection = await asyncpg.connect(url)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tritium'"
    )
    await connection.close()

    async def answered() -> bool:
        try:
            return len(await store.read(NAME, "f")) == 1
        except Unavailable:
            return False

    await eventually_async(answered)
