"""Chunks in PostgreSQL with pgvector: two tables a collection, chunks with vectors and the words of each.

BM25 is computed over the table of words: `ts_rank_cd` knows no frequencies of terms in the collection and reads every
match's text. Vectors are compared one by one below 20,000 chunks, and above 2,000 dimensions, which
pgvector's graph does not take. NUL, which PostgreSQL does not store, becomes U+FFFD.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import chain

import asyncpg

from backends.errors import InvalidRequest, NotFound, Unavailable
from ensembles.stores import bm25
from ensembles.stores.filters import Filter
from ensembles.stores.jsonb import matching, packed, storable
from ensembles.stores.store import Attributes, Chunk, Hit
from ensembles.stores.words import words_of

_SCHEMA = "tritium_chunks"
_CONNECTIONS = 16
_CONNECT_SECONDS = 10.0
_RETRY_SECONDS = 5.0
_GRAPH_ROWS = 20_000
_GRAPH_DIMENSIONS = 2_000
_SETTINGS = {
    "hnsw.ef_search": "100",
    "hnsw.iterative_scan": "strict_order",
    "application_name": "tritium",
    "jit": "off",
}
_BUILD_SETTINGS = "SET maintenance_work_mem = '512MB'"
_COLUMNS = "c.file_id, c.filename, c.ordinal, c.text, c.page, c.heading, c.attributes"
_FOUND = f"{_COLUMNS}, vector_send(c.vector) AS vector"
_LONGEST_QUERY = 64

_CREATE = """
CREATE TABLE {chunks} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, file_id text COLLATE "C" NOT NULL, ordinal integer NOT NULL,
    filename text NOT NULL, text text NOT NULL, page integer, heading text NOT NULL, attributes jsonb NOT NULL,
    length integer NOT NULL, vector vector({dimensions}) NOT NULL, UNIQUE (file_id, ordinal));
CREATE TABLE {words} (
    word text COLLATE "C" NOT NULL, chunk bigint NOT NULL, count integer NOT NULL, length integer NOT NULL,
    PRIMARY KEY (word, chunk) INCLUDE (count, length));
CREATE INDEX ON {words} USING brin (chunk) WITH (pages_per_range = 16);
"""

_INSERT_CHUNKS = """
INSERT INTO {chunks} (file_id, ordinal, filename, text, page, heading, attributes, length, vector)
SELECT $1, c.* FROM (
    SELECT ordinal, filename, text, page, heading, attributes::jsonb, length, vector
    FROM unnest($2::int[], $3::text[], $4::text[], $5::int[], $6::text[], $7::text[], $8::int[], $9::vector[])
        AS t (ordinal, filename, text, page, heading, attributes, length, vector)) AS c
RETURNING id, ordinal
"""

_INSERT_WORDS = """
INSERT INTO {words} (word, chunk, count, length)
SELECT {stem}, w.chunk, sum(w.count), max(w.length)
FROM unnest($1::text[], $2::bigint[], $3::int[], $4::int[]) AS w (word, chunk, count, length) GROUP BY 1, 2
"""


class PostgresStore:
    """Collections in a schema of a database with the extension `vector`, which is made where that is allowed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opening = asyncio.Lock()
        self._pool: asyncpg.Pool | None = None

    async def open(self) -> None:
        async with self._connection(""):
            pass

    async def create(self, collection: str, dimensions: int) -> None:
        async with self._transaction(collection) as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext($1))", collection)
            added = await connection.execute(
                f"INSERT INTO {_SCHEMA}.collections VALUES ($1, $2, 0, 0) ON CONFLICT DO NOTHING",
                collection,
                dimensions,
            )
            if added.endswith(" 1"):
                await connection.execute(_CREATE.format(**_names(collection), dimensions=dimensions))

    async def drop(self, collection: str) -> None:
        async with self._transaction(collection) as connection:
            await connection.execute(f"DELETE FROM {_SCHEMA}.collections WHERE name = $1", collection)
            await connection.execute("DROP TABLE IF EXISTS {chunks}, {words}".format(**_names(collection)))

    async def put(self, collection: str, files: Mapping[str, Sequence[Chunk]]) -> None:
        words = await asyncio.to_thread(
            lambda: {name: [Counter(words_of(chunk.text)) for chunk in chunks] for name, chunks in files.items()}
        )
        async with self._transaction(collection) as connection:
            dimensions = await self._dimensions(connection, collection)
            for chunk in chain.from_iterable(files.values()):
                _check_dimensions(collection, chunk.vector, dimensions)
            count = of_words = 0
            for file_id, chunks in sorted(files.items()):  # whoever locks several does so in this order
                await _lock(connection, collection, file_id)
                removed = await _remove(connection, collection, file_id)
                added = (0, 0)
                if chunks:
                    added = await _add(connection, collection, file_id, chunks, words[file_id])
                count += added[0] - removed[0]
                of_words += added[1] - removed[1]
            await _count(connection, collection, count, of_words)

    async def remove(self, collection: str, file_id: str) -> None:
        await self.put(collection, {file_id: []})

    async def set_attributes(self, collection: str, file_id: str, attributes: Attributes) -> None:
        async with self._transaction(collection) as connection:
            await _lock(connection, collection, file_id)
            query = "UPDATE {chunks} SET attributes = $2::text::jsonb WHERE file_id = $1".format(**_names(collection))
            await connection.execute(query, file_id, packed(attributes))

    async def read(self, collection: str, file_id: str) -> list[Chunk]:
        query = f"SELECT {_COLUMNS} FROM {{chunks}} c WHERE file_id = $1 ORDER BY ordinal"
        async with self._connection(collection) as connection:
            return [_chunk(row) for row in await connection.fetch(query.format(**_names(collection)), file_id)]

    async def dense(self, collection: str, vector: bytes, limit: int, condition: Filter | None = None) -> list[Hit]:
        arguments: list[object] = [vector, max(limit, 0)]
        where = "true" if condition is None else matching(condition, arguments)
        async with self._connection(collection) as connection:
            _check_dimensions(collection, vector, await self._dimensions(connection, collection))
            rows = await connection.fetch(_nearest(collection, where, "c.vector <=> $1::vector"), *arguments)
            if condition is not None and len(rows) < limit:
                # The graph gives up where few match: then all that match are compared.
                rows = await connection.fetch(_nearest(collection, where, "(c.vector <=> $1::vector) + 0"), *arguments)
        # A vector of zeros has no cosine.
        return [Hit(_found(row), 1.0 - row["distance"]) for row in rows if row["distance"] == row["distance"]]

    async def words(self, collection: str, query: str, limit: int, condition: Filter | None = None) -> list[Hit]:
        if limit <= 0:
            return []
        asked = list(dict.fromkeys(words_of(query)))[:_LONGEST_QUERY]
        names, arguments = _names(collection), bm25.arguments(asked, collection, limit)
        where = None if condition is None else matching(condition, arguments)
        sql = bm25.statement(names["chunks"], names["words"], f"{_SCHEMA}.collections", _FOUND, where)
        async with self._connection(collection) as connection:
            rows = await bm25.best(connection, sql, arguments)
        return [Hit(_found(row), row["score"]) for row in rows]

    async def size_bytes(self, collection: str) -> int:
        names = _names(collection)
        async with self._connection(collection) as connection:
            return int(
                await connection.fetchval(
                    "SELECT pg_total_relation_size($1::text::regclass) + pg_total_relation_size($2::text::regclass)",
                    names["chunks"],
                    names["words"],
                )
            )

    async def optimise(self, collection: str) -> None:
        names = _names(collection)
        async with self._connection(collection) as connection:
            await connection.execute("VACUUM (ANALYZE) {chunks}, {words}".format(**names))
            if not await _lacks_graph(connection, collection):
                return
            await connection.execute(_BUILD_SETTINGS)
            await connection.execute("DROP INDEX IF EXISTS {graph}".format(**names))
            await connection.execute(
                "CREATE INDEX CONCURRENTLY {graph_name} ON {chunks} USING hnsw (vector vector_cosine_ops)".format(
                    **names
                )
            )

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def _opened(self) -> asyncpg.Pool:
        async with self._opening:
            if self._pool is None:
                schema = await self._prepare()

                async def teach(connection: asyncpg.Connection) -> None:
                    await connection.set_type_codec(
                        "vector", schema=schema, encoder=_packed_vector, decoder=bytes, format="binary"
                    )

                self._pool = await asyncpg.create_pool(
                    self._url,
                    min_size=0,
                    max_size=_CONNECTIONS,
                    timeout=_CONNECT_SECONDS,
                    server_settings=_SETTINGS,
                    init=teach,
                )
            return self._pool

    async def _prepare(self) -> str:
        """Make what is missing; the schema that the extension is in."""
        connection = await asyncpg.connect(self._url, timeout=_CONNECT_SECONDS)
        try:
            async with connection.transaction():
                # One at a time: `IF NOT EXISTS` fails where two make the same.
                await connection.execute("SELECT pg_advisory_xact_lock(hashtext($1))", _SCHEMA)
                await connection.execute(_PREPARE)
                schema: str = await connection.fetchval(
                    "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'"
                )
                return schema
        finally:
            await connection.close()

    @asynccontextmanager
    async def _connection(self, collection: str) -> AsyncIterator[asyncpg.Connection]:
        try:
            pool = await self._opened()
            async with pool.acquire() as connection:
                yield connection
        except asyncpg.UndefinedTableError as error:
            raise NotFound(f"There is no collection '{collection}'.") from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
            # `InternalClientError` is said of a connection that ended while nobody asked; a timeout is an `OSError`.
            raise Unavailable(f"PostgreSQL failed: {str(error)[:200]}", retry_after_seconds=_RETRY_SECONDS) from error

    @asynccontextmanager
    async def _transaction(self, collection: str) -> AsyncIterator[asyncpg.Connection]:
        async with self._connection(collection) as connection, connection.transaction():
            yield connection

    async def _dimensions(self, connection: asyncpg.Connection, collection: str) -> int:
        query = f"SELECT dimensions FROM {_SCHEMA}.collections WHERE name = $1"
        dimensions: int | None = await connection.fetchval(query, collection)
        if dimensions is None:
            raise NotFound(f"There is no collection '{collection}'.")
        return dimensions


_PREPARE = f"""
CREATE EXTENSION IF NOT EXISTS vector;
CREATE SCHEMA IF NOT EXISTS {_SCHEMA};
CREATE TABLE IF NOT EXISTS {_SCHEMA}.collections (
    name text PRIMARY KEY, dimensions integer NOT NULL, chunks bigint NOT NULL, words bigint NOT NULL);
"""


def _names(collection: str) -> dict[str, str]:
    def quoted(suffix: str) -> str:
        return '"' + (collection + suffix).replace('"', '""') + '"'

    return {
        "chunks": f"{_SCHEMA}.{quoted('')}",
        "words": f"{_SCHEMA}.{quoted(':w')}",
        "graph": f"{_SCHEMA}.{quoted(':g')}",
        "graph_name": quoted(":g"),
    }


def _nearest(collection: str, where: str, distance: str) -> str:
    return (
        f"SELECT {_FOUND}, {distance} AS distance FROM {_names(collection)['chunks']} c "
        f"WHERE {where} ORDER BY {distance} LIMIT $2"
    )


async def _lock(connection: asyncpg.Connection, collection: str, file_id: str) -> None:
    """Until the transaction's end nobody else changes the file."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext($1), hashtext($2))", collection, file_id)


async def _remove(connection: asyncpg.Connection, collection: str, file_id: str) -> tuple[int, int]:
    """Delete a file's chunks; how many there were, and of how many words."""
    names = _names(collection)
    rows = await connection.fetch(
        "DELETE FROM {chunks} WHERE file_id = $1 RETURNING id, length".format(**names), file_id
    )
    if rows:
        ids = [row["id"] for row in rows]
        # Written one after another, so that an index of ranges finds them, at no cost of inserting.
        await connection.execute(
            "DELETE FROM {words} WHERE chunk BETWEEN $1 AND $2 AND chunk = ANY($3)".format(**names),
            min(ids),
            max(ids),
            ids,
        )
    return len(rows), sum(row["length"] for row in rows)


async def _add(
    connection: asyncpg.Connection,
    collection: str,
    file_id: str,
    chunks: Sequence[Chunk],
    words: Sequence[Counter[str]],
) -> tuple[int, int]:
    names = _names(collection)
    lengths = [of.total() for of in words]
    rows = await connection.fetch(
        _INSERT_CHUNKS.format(**names),
        file_id,
        [chunk.ordinal for chunk in chunks],
        [storable(chunk.filename) for chunk in chunks],
        [storable(chunk.text) for chunk in chunks],
        [chunk.page for chunk in chunks],
        [storable(chunk.heading) for chunk in chunks],
        [packed(chunk.attributes) for chunk in chunks],
        lengths,
        [chunk.vector for chunk in chunks],
    )
    ids = {row["ordinal"]: row["id"] for row in rows}
    entries = [
        (word, ids[chunk.ordinal], count, length)
        for chunk, of, length in zip(chunks, words, lengths, strict=True)
        for word, count in of.items()
    ]
    columns = [list(column) for column in zip(*entries, strict=True)] or [[], [], [], []]
    await connection.execute(_INSERT_WORDS.format(**names, stem=bm25.STEM), *columns)
    return len(chunks), sum(lengths)


async def _count(connection: asyncpg.Connection, collection: str, chunks: int, words: int) -> None:
    """Last in a transaction: all that change a collection wait here for each other."""
    query = f"UPDATE {_SCHEMA}.collections SET chunks = chunks + $2, words = words + $3 WHERE name = $1"
    await connection.execute(query, collection, chunks, words)


async def _lacks_graph(connection: asyncpg.Connection, collection: str) -> bool:
    """Whether a graph is worth it and is not there; one whose making was interrupted is not there."""
    query = f"""SELECT chunks >= $2 AND dimensions <= $3 AND NOT EXISTS (
        SELECT FROM pg_index WHERE indexrelid = to_regclass($4) AND indisvalid)
        FROM {_SCHEMA}.collections WHERE name = $1"""
    graph = _names(collection)["graph"]
    return bool(await connection.fetchval(query, collection, _GRAPH_ROWS, _GRAPH_DIMENSIONS, graph))


def _check_dimensions(collection: str, vector: bytes, dimensions: int) -> None:
    if len(vector) != 4 * dimensions:
        raise InvalidRequest(
            f"Collection '{collection}' holds vectors of {dimensions} dimensions, this one has {len(vector) / 4:g}."
        )


def _packed_vector(vector: bytes) -> bytes:
    """As pgvector receives it: how many numbers, a zero, and the numbers in network order."""
    numbers = array("f", vector)
    if sys.byteorder == "little":
        numbers.byteswap()
    return struct.pack("!HH", len(numbers), 0) + numbers.tobytes()


def _chunk(row: asyncpg.Record) -> Chunk:
    file_id, filename, ordinal, text, page, heading, attributes = tuple(row)[:7]
    return Chunk(file_id, filename, ordinal, text, page, heading, json.loads(attributes))


def _found(row: asyncpg.Record) -> Chunk:
    """A chunk with its vector, which pgvector sends big-endian behind four bytes."""
    chunk = _chunk(row)
    numbers = array("f", row["vector"][4:])
    if sys.byteorder == "little":
        numbers.byteswap()
    chunk.vector = numbers.tobytes()
    return chunk
