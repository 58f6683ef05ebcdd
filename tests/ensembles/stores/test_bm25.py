"""BM25 in PostgreSQL: exact, however few entries of a query's commonest words are read."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import AsyncIterator
from struct import pack

import asyncpg
import pytest

from ensembles.stores import bm25
from ensembles.stores.pgvector import PostgresStore
from ensembles.stores.store import Chunk

pytestmark = pytest.mark.slow
NAME = "vs_bm25"
TABLE = f"tritium_chunks.{NAME}"
VOCABULARY = [f"w{number}" for number in range(60)]
RANDOM = random.Random(5)
TEXTS = [
    RANDOM.choices(VOCABULARY, [1 / (1 + place) for place in range(60)], k=RANDOM.randint(5, 40)) for _ in range(400)
]


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    store = PostgresStore(postgres_url)
    await store.drop(NAME)
    await store.create(NAME, 1)
    chunks = [Chunk("f", "f", number, " ".join(words), vector=pack("<f", 1)) for number, words in enumerate(TEXTS)]
    await store.put(NAME, {"f": chunks})
    await store.close()
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


def scores(query: list[str], texts: dict[int, list[str]]) -> list[float]:
    """The scores of these texts, by the formula, best first."""
    mean = sum(map(len, TEXTS)) / len(TEXTS)
    holding = {word: sum(word in text for text in TEXTS) for word in query}
    weights = {word: math.log(1 + (len(TEXTS) - count + 0.5) / (count + 0.5)) for word, count in holding.items()}
    found = []
    for text in texts.values():
        counts = Counter(text)
        length = 1.2 * (0.25 + 0.75 * len(text) / mean)
        score = sum(weights[word] * counts[word] * 2.2 / (counts[word] + length) for word in query)
        if score:
            found.append(score)
    return sorted(found, reverse=True)


@pytest.mark.parametrize("entries", [0, 30, 300, 4000])
@pytest.mark.parametrize("limit", [1, 10, 200])
@pytest.mark.parametrize("condition", [None, "c.ordinal % 7 = 3"])
async def test_scores_are_those_of_the_formula_however_few_entries_are_read(connection, entries, limit, condition):
    sql = bm25.statement(TABLE, f'tritium_chunks."{NAME}:w"', "tritium_chunks.collections", "c.ordinal", condition)
    allowed = {number: text for number, text in enumerate(TEXTS) if condition is None or number % 7 == 3}
    for seed in range(12):
        query = random.Random(seed).sample(VOCABULARY, 1 + seed % 5)
        arguments = bm25.arguments(query, NAME, limit)
        arguments[3] = entries
        rows = await bm25.best(connection, sql, arguments)
        assert [row["score"] for row in rows] == pytest.approx(scores(query, allowed)[:limit])
