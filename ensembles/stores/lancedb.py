"""Chunks in LanceDB: a table a collection, in a folder or on object storage, used by several processes at once.

Nothing is imported before a collection is touched (400 MB of libraries), and a process that has touched one must not
fork. The types that JSON has are kept apart by a letter before an attribute's key, so that a filter never compares
"1" with 1. What was deleted or replaced is gone from the disk after twice `RETENTION`, given that `optimise` runs; what
a process wrote that was killed before the rows counted, after a week.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from backends.errors import InvalidRequest, NotFound, Unavailable
from ensembles.stores.english import telling
from ensembles.stores.erasure import Change, erase, marking
from ensembles.stores.filters import Filter
from ensembles.stores.lance_sql import files_are, matching, packed, unpacked
from ensembles.stores.store import Attributes, Chunk, Hit

if TYPE_CHECKING:
    import lancedb
    import pyarrow as pa

T = TypeVar("T")

RETENTION = timedelta(minutes=10)
"""How long replaced and deleted rows stay readable: far longer than any search that still reads them."""
_INDEX_CACHE_BYTES = 1 << 30
_METADATA_CACHE_BYTES = 1 << 28
_GRAPH_ROWS = 20_000
_GRAPH_PARTITION_ROWS = 1_000_000
_GRAPH_PARTS = 16
_REST = 10  # times as long as making a graph took: it takes at most a tenth of the time
_ATTEMPTS = 20
_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 1.0
_RETRY_SECONDS = 5.0
_COLUMNS = ["file_id", "filename", "ordinal", "text", "page", "heading", "attributes"]


class LanceStore:
    """A place of collections: a folder, or `s3://`, `gs://` and `az://` with credentials from the environment."""

    def __init__(self, url: str, *, retention: timedelta = RETENTION) -> None:
        self._url = url
        self._retention = retention
        self._opening = asyncio.Lock()
        self._connection: lancedb.AsyncConnection | None = None
        self._tables: dict[str, lancedb.AsyncTable] = {}
        self._graph_due: dict[str, float] = {}

    async def open(self) -> None:
        await self._connect("")

    async def create(self, collection: str, dimensions: int) -> None:
        connection = await self._connect(collection)

        async def make() -> None:
            try:
                table = await connection.create_table(collection, schema=_schema(dimensions))
                await _make_words(table)
            except ValueError as error:
                if "already exists" not in str(error):
                    raise

        await self._attempt(collection, make)

    async def drop(self, collection: str) -> None:
        connection = await self._connect(collection)
        self._tables.pop(collection, None)

        async def drop() -> None:
            await connection.drop_table(collection, ignore_missing=True)

        await self._attempt(collection, drop)

    async def put(self, collection: str, files: Mapping[str, Sequence[Chunk]]) -> None:
        filled = {file_id: chunks for file_id, chunks in files.items() if chunks}
        for file_id in files.keys() - filled.keys():
            await self.remove(collection, file_id)
        if not filled:
            return
        table = await self._table(collection)
        schema = await self._attempt(collection, table.schema)

        async def replace(file_id: str) -> None:
            async def change() -> Change:
                merge = table.merge_insert("writing").when_not_matched_insert_all()
                rows = _rows(collection, {file_id: filled[file_id]}, schema)
                result: Change = await merge.when_not_matched_by_source_delete(where).execute(rows)
                return result

            where = files_are([file_id])
            await self._delete(collection, table, where, change)

        there = await self._counts(collection, table, filled, more_than=0)
        for file_id in there:
            await replace(file_id)
        new = {file_id: chunks for file_id, chunks in filled.items() if file_id not in there}
        if new:
            # Appending looks at no other row: 5 ms where a merge reads a column of all.
            await self._attempt(collection, lambda: table.add(_rows(collection, new, schema)))
        # Two who put the same file for the first time both append: whoever comes last replaces both.
        total = sum(map(len, filled.values()))
        while counts := await self._counts(collection, table, filled, more_than=total):
            for file_id, count in counts.items():
                if count > len(filled[file_id]):
                    await replace(file_id)

    async def _counts(
        self, collection: str, table: lancedb.AsyncTable, file_ids: Iterable[str], *, more_than: int
    ) -> Counter[str]:
        """How many chunks each file has, those alone that have some; nothing where they are no `more_than` so many."""
        those = files_are(file_ids)
        if await self._attempt(collection, lambda: table.count_rows(those)) <= more_than:
            return Counter()
        found = await self._attempt(collection, table.query().where(those).select(["file_id"]).to_arrow)
        return Counter(found.column("file_id").to_pylist())

    async def remove(self, collection: str, file_id: str) -> None:
        table = await self._table(collection)
        where = files_are([file_id])
        await self._delete(collection, table, where, lambda: table.delete(where))

    async def set_attributes(self, collection: str, file_id: str, attributes: Attributes) -> None:
        table = await self._table(collection)
        where, values = files_are([file_id]), {"attributes": packed(attributes)}
        await self._delete(collection, table, where, lambda: table.update(values, where=where))

    async def read(self, collection: str, file_id: str) -> list[Chunk]:
        table = await self._table(collection)
        query = table.query().where(files_are([file_id])).select(_COLUMNS)
        rows = await self._attempt(collection, query.to_list)
        return sorted(map(_chunk, rows), key=lambda chunk: chunk.ordinal)

    async def dense(self, collection: str, vector: bytes, limit: int, condition: Filter | None = None) -> list[Hit]:
        table = await self._table(collection)
        schema = await self._attempt(collection, table.schema)
        _check_dimensions(collection, vector, schema)
        if limit <= 0:
            return []
        query = table.query().nearest_to(memoryview(vector).cast("f").tolist()).distance_type("cosine")
        query = query.ef(max(100, 2 * limit)).refine_factor(2).limit(limit).select([*_COLUMNS, "vector", "_distance"])
        if condition is not None:
            query = query.where(matching(condition))
        rows = await self._attempt(collection, query.to_arrow)
        return _ordered([Hit(chunk, 1.0 - row["_distance"]) for chunk, row in _found(rows)])

    async def words(self, collection: str, query: str, limit: int, condition: Filter | None = None) -> list[Hit]:
        from lancedb.query import MatchQuery

        table = await self._table(collection)
        if limit <= 0:
            return []
        found = table.query().nearest_to_text(MatchQuery(telling(query), "text")).limit(limit)
        found = found.select([*_COLUMNS, "vector", "_score"])
        if condition is not None:
            found = found.where(matching(condition))
        rows = await self._attempt(collection, found.to_arrow)
        return _ordered([Hit(chunk, row["_score"]) for chunk, row in _found(rows)])

    async def size_bytes(self, collection: str) -> int:
        table = await self._table(collection)
        statistics: dict[str, int] = await self._attempt(collection, table.stats)
        return statistics["total_bytes"]

    async def optimise(self, collection: str) -> None:
        table = await self._table(collection)
        await self._attempt(collection, lambda: erase(table, self._retention))
        await self._attempt(collection, lambda: table.optimize(cleanup_older_than=self._retention))
        await self._attempt(collection, lambda: self._make_indices(collection, table))

    async def close(self) -> None:
        self._tables.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    async def _make_indices(self, collection: str, table: lancedb.AsyncTable) -> None:
        """The indices that the table is large enough for and lacks; its graph anew where it is in many parts.

        Each `optimize` adds a part to the graph, which costs a search 0.3 ms.
        """
        parts = {index.columns[0]: index.num_segments for index in await table.list_indices()}
        if "text" not in parts:
            await _make_words(table)
        count = await table.count_rows()
        is_due = "vector" not in parts or (
            parts["vector"] > _GRAPH_PARTS and time.monotonic() >= self._graph_due.get(collection, 0.0)
        )
        if count >= _GRAPH_ROWS and is_due:
            started = time.monotonic()
            await _make_graph(table, count)
            ended = time.monotonic()
            self._graph_due[collection] = ended + _REST * (ended - started)

    async def _delete(
        self, collection: str, table: lancedb.AsyncTable, where: str, change: Callable[[], Awaitable[Change]]
    ) -> None:
        """Make a change that deletes rows, or moves them and leaves what they were."""
        connection = await self._connect(collection)

        async def at(version: int) -> lancedb.AsyncTable:
            earlier = await connection.open_table(collection)
            await earlier.checkout(version)
            return earlier

        await self._attempt(collection, lambda: marking(table, where, change, at))

    async def _connect(self, collection: str) -> lancedb.AsyncConnection:
        async with self._opening:
            if self._connection is None:
                # Its statistics would bring every centroid of a graph, and a warning about that.
                os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")
                # A second of CPU the first time, beside the loop.
                lancedb = await asyncio.to_thread(importlib.import_module, "lancedb")
                session = lancedb.Session(_INDEX_CACHE_BYTES, _METADATA_CACHE_BYTES)
                self._connection = await self._attempt(
                    collection,
                    lambda: lancedb.connect_async(self._url, read_consistency_interval=timedelta(0), session=session),
                )
            return self._connection

    async def _table(self, collection: str) -> lancedb.AsyncTable:
        table = self._tables.get(collection)
        if table is None:
            connection = await self._connect(collection)
            table = await self._attempt(collection, lambda: connection.open_table(collection))
            self._tables[collection] = table
        return table

    async def _attempt(self, collection: str, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` returns, tried again where somebody else's change came between."""
        pause = _PAUSE_SECONDS
        for _ in range(_ATTEMPTS):
            try:
                return await work()
            except (RuntimeError, ValueError, OSError) as error:
                if "conflict" not in str(error).lower():
                    raise self._translated(collection, error) from error
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311  # no secret
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        raise Unavailable(
            f"Collection '{collection}' is changed by too many at once.", retry_after_seconds=_RETRY_SECONDS
        )

    def _translated(self, collection: str, error: Exception) -> Exception:
        message = str(error)
        if "was not found" in message or ("Not found" in message and f"{collection}.lance" in message):
            self._tables.pop(collection, None)
            return NotFound(f"There is no collection '{collection}'.")
        reason = message.split(", /", 1)[0][:200]  # without the place in Lance's own source
        return Unavailable(f"Vector store '{self._url}' failed: {reason}", retry_after_seconds=_RETRY_SECONDS)


def _schema(dimensions: int) -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("writing", pa.string(), nullable=False),
            pa.field("file_id", pa.string(), nullable=False),
            pa.field("filename", pa.string(), nullable=False),
            pa.field("ordinal", pa.int32(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("page", pa.int32()),
            pa.field("heading", pa.string(), nullable=False),
            pa.field("attributes", pa.json_(pa.utf8()), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), dimensions), nullable=False),
        ]
    )


def _check_dimensions(collection: str, vector: bytes, schema: pa.Schema) -> None:
    dimensions = schema.field("vector").type.list_size
    if len(vector) != 4 * dimensions:
        raise InvalidRequest(
            f"Collection '{collection}' holds vectors of {dimensions} dimensions, this one has {len(vector) / 4:g}."
        )


def _rows(collection: str, files: Mapping[str, Sequence[Chunk]], schema: pa.Schema) -> pa.Table:
    """Rows of one writing: `writing` is new each time, so that merging replaces whatever a file had."""
    import pyarrow as pa

    chunks = list(chain.from_iterable(files.values()))
    for chunk in chunks:
        _check_dimensions(collection, chunk.vector, schema)
    count, of_vectors = len(chunks), schema.field("vector").type
    numbers = pa.py_buffer(b"".join(chunk.vector for chunk in chunks))
    values = pa.Array.from_buffers(pa.float32(), count * of_vectors.list_size, [None, numbers])
    columns = {
        "writing": pa.array([uuid4().hex] * count),
        "file_id": pa.array([file_id for file_id, those in files.items() for _ in those]),
        "filename": pa.array([chunk.filename for chunk in chunks]),
        "ordinal": pa.array([chunk.ordinal for chunk in chunks], pa.int32()),
        "text": pa.array([chunk.text for chunk in chunks]),
        "page": pa.array([chunk.page for chunk in chunks], pa.int32()),
        "heading": pa.array([chunk.heading for chunk in chunks]),
        "attributes": pa.array([packed(chunk.attributes) for chunk in chunks], pa.json_(pa.utf8())),
        "vector": pa.FixedSizeListArray.from_arrays(values, of_vectors.list_size),
    }
    return pa.table(columns)


def _chunk(row: dict[str, Any]) -> Chunk:
    attributes = unpacked(row["attributes"])
    return Chunk(row["file_id"], row["filename"], row["ordinal"], row["text"], row["page"], row["heading"], attributes)


def _found(rows: pa.Table) -> Iterator[tuple[Chunk, dict[str, Any]]]:
    """Chunks with their vectors, which never become Python's numbers: 40,000 of them take 2 ms."""
    if not rows.num_rows:
        return
    vectors = rows.column("vector").combine_chunks()
    numbers = vectors.flatten()
    data = memoryview(numbers.buffers()[1])[4 * numbers.offset :]
    size = 4 * vectors.type.list_size
    for place, row in enumerate(rows.drop_columns("vector").to_pylist()):
        chunk = _chunk(row)
        chunk.vector = bytes(data[place * size : (place + 1) * size])
        yield chunk, row


def _ordered(hits: list[Hit]) -> list[Hit]:
    return sorted(hits, key=lambda hit: (-hit.score, hit.chunk.file_id, hit.chunk.ordinal))


async def _make_words(table: lancedb.AsyncTable) -> None:
    from lancedb.index import FTS

    # ICU's segmentation knows where words end in languages that write no spaces.
    config = FTS(base_tokenizer="icu", remove_stop_words=False, max_token_length=None)
    await table.create_index("text", config=config)


async def _make_graph(table: lancedb.AsyncTable, count: int) -> None:
    from lancedb.index import HnswSq

    # A quarter of the default's time to make, with distances of what was found computed anew: recall stays over 0.99.
    partitions = -(-count // _GRAPH_PARTITION_ROWS)
    config = HnswSq(distance_type="cosine", num_partitions=partitions, m=16, ef_construction=100)
    await table.create_index("vector", config=config)
