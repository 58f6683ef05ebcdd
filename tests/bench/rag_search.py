"""Search in a store of 100,000 chunks while another process ingests: `python -m tests.bench.rag_search`.

Prints p50 and p99 of dense search, of words, and of both at once as a turn asks them, at 1 and 16 clients, and
recall@10 against exact search. Texts are words drawn as often as language does (Zipf), vectors lie in clusters.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

from ensembles.stores.filters import Comparison
from ensembles.stores.opening import open_store
from ensembles.stores.store import Chunk, Store
from tests.postgres_servers import postgres_server

COLLECTION = "vs_bench"
DIMENSIONS = 384
WORDS = 140
VOCABULARY = 30_000
CLUSTERS = 300
FILE_CHUNKS = 500
INGESTED_CHUNKS = 20
INGEST_SECONDS = 0.05
OPTIMISE_SECONDS = 2.0
QUERY_WORDS = 5
LIMIT = 10
RECALL_QUERIES = 100


@dataclass(slots=True)
class Corpus:
    """Chunks made up as they are asked for, the same ones for the same seed."""

    random: np.random.Generator
    centres: np.ndarray

    @classmethod
    def seeded(cls, seed: int) -> Corpus:
        centres = np.random.default_rng(0).normal(size=(CLUSTERS, DIMENSIONS))
        return cls(np.random.default_rng(seed), centres)

    def vectors(self, count: int) -> np.ndarray:
        at = self.centres[self.random.integers(CLUSTERS, size=count)]
        return (at + 0.8 * self.random.normal(size=at.shape)).astype("<f4")

    def text(self, words: int) -> str:
        ranks = np.minimum(self.random.zipf(1.3, words), VOCABULARY)
        return " ".join(f"w{rank:x}" for rank in ranks)

    def query(self) -> str:
        """Words that mean something: not of the most frequent."""
        return " ".join(f"w{rank:x}" for rank in self.random.integers(20, 3_000, QUERY_WORDS))

    def file(self, name: str, vectors: np.ndarray) -> list[Chunk]:
        attributes = {"department": f"d{int(name[1:]) // FILE_CHUNKS % 10}", "year": 2000 + len(name)}
        return [
            Chunk(name, f"{name}.txt", ordinal, self.text(WORDS), attributes=attributes, vector=vector.tobytes())
            for ordinal, vector in enumerate(vectors)
        ]


async def main(url: str, chunks: int, seconds: float) -> None:
    store, corpus = open_store(url), Corpus.seeded(1)
    await store.create(COLLECTION, DIMENSIONS)
    vectors = corpus.vectors(chunks)
    started = time.perf_counter()
    for first in range(0, chunks, FILE_CHUNKS):
        part = vectors[first : first + FILE_CHUNKS]
        await store.put(COLLECTION, {f"f{first}": corpus.file(f"f{first}", part)})
    print(f"{chunks} chunks put in {time.perf_counter() - started:.1f} s, their making included")
    started = time.perf_counter()
    await store.optimise(COLLECTION)
    print(f"optimised in {time.perf_counter() - started:.1f} s; {await store.size_bytes(COLLECTION) / 1e6:.0f} MB")
    print(f"recall@{LIMIT} {await recall(store, corpus, vectors):.3f}")
    argv = [sys.executable, "-m", "tests.bench.rag_search", "--ingest", "--store", url]
    ingesting = await asyncio.create_subprocess_exec(*argv)
    try:
        for clients, (name, search) in itertools.product((1, 16), SEARCHES.items()):
            await measured(name, clients, seconds, lambda search=search: search(store, corpus))
    finally:
        ingesting.terminate()
        await ingesting.wait()
    await store.close()


async def recall(store: Store, corpus: Corpus, vectors: np.ndarray) -> float:
    """The part of the exact nearest that dense search finds."""
    lengths = np.linalg.norm(vectors, axis=1)
    found = 0
    for asked in corpus.vectors(RECALL_QUERIES):
        nearest = np.argsort(-(vectors @ asked) / lengths)[:LIMIT]
        exact = {f"f{row // FILE_CHUNKS * FILE_CHUNKS}:{row % FILE_CHUNKS}" for row in nearest}
        found += len(exact & {hit.chunk.id for hit in await store.dense(COLLECTION, asked.tobytes(), LIMIT)})
    return found / (RECALL_QUERIES * LIMIT)


async def dense(store: Store, corpus: Corpus) -> None:
    await store.dense(COLLECTION, corpus.vectors(1)[0].tobytes(), LIMIT)


async def words(store: Store, corpus: Corpus) -> None:
    await store.words(COLLECTION, corpus.query(), LIMIT)


async def both(store: Store, corpus: Corpus) -> None:
    await asyncio.gather(dense(store, corpus), words(store, corpus))


async def filtered(store: Store, corpus: Corpus) -> None:
    vector, condition = corpus.vectors(1)[0].tobytes(), Comparison("eq", "department", "d3")
    await asyncio.gather(
        store.dense(COLLECTION, vector, LIMIT, condition), store.words(COLLECTION, corpus.query(), LIMIT, condition)
    )


SEARCHES = {"dense": dense, "words": words, "both": both, "both, filtered": filtered}


async def measured(name: str, clients: int, seconds: float, search: Callable[[], Awaitable[None]]) -> None:
    """Run a search by so many clients at once for a while and print how long it took."""
    took: list[float] = []
    await search()
    end = time.perf_counter() + seconds

    async def client() -> None:
        while (started := time.perf_counter()) < end:
            await search()
            took.append(time.perf_counter() - started)

    await asyncio.gather(*(client() for _ in range(clients)))
    middle, high = np.percentile(took, [50, 99]) * 1e3
    rate = len(took) / seconds
    print(f"{name:14} {clients:2} clients: p50 {middle:6.1f} ms, p99 {high:6.1f} ms, {rate:5.0f} a second", flush=True)


async def ingest(url: str) -> None:
    """Put small files at the rate of an embedder on two cores, and optimise now and then, until stopped."""
    store, corpus = open_store(url), Corpus.seeded(2)
    optimised = time.monotonic()
    for number in itertools.count():
        await store.put(COLLECTION, {f"n{number}": corpus.file(f"n{number}", corpus.vectors(INGESTED_CHUNKS))})
        await asyncio.sleep(INGEST_SECONDS)
        if time.monotonic() - optimised > OPTIMISE_SECONDS:
            await store.optimise(COLLECTION)
            optimised = time.monotonic()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default="", help="a vector store's URL; LanceDB and PostgreSQL of its own without")
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--ingest", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ingest:
        asyncio.run(ingest(options.store))
    elif options.store:
        asyncio.run(main(options.store, options.chunks, options.seconds))
    else:
        with tempfile.TemporaryDirectory() as folder:
            print("LanceDB", flush=True)
            asyncio.run(main(folder, options.chunks, options.seconds))
        with postgres_server() as server:
            print("PostgreSQL", flush=True)
            asyncio.run(main(server.url, options.chunks, options.seconds))
