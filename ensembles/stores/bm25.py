"""BM25 over a table of words in PostgreSQL, exactly, though the entries of common words are hardly read.

Lucene's idf, k1 = 1.2, b = 0.75: a word counts for less than 2.2 times its weight. So whoever is behind the best by
more than the commonest words of a query may count for needs none of them looked up (MaxScore; Turtle and Flood 1995).
Words that English is full of are left out of a query that has others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncpg

STEM = "coalesce((ts_lexize('english_stem', w.word))[1], w.word)"
_ENTRIES = 4000
_PART = "r.weight * p.count * 2.2::float8 / (p.count + 1.2::float8 * (0.25 + 0.75::float8 * p.length / size.mean))"

# $1 words, $2 the collection, $3 how many are wanted. Words are read whole, the rarest first, up to $4 entries, and for
# as long as those behind them may count for more than $5; `most` is what the others may count for.
_BEST = """
WITH asked AS MATERIALIZED (
    SELECT {stem} AS word, bool_and(coalesce(ts_lexize('english_stem', w.word) = '{{}}', false)) AS is_common
    FROM unnest($1::text[]) AS w (word) GROUP BY 1),
wanted AS (SELECT word FROM asked WHERE NOT is_common OR (SELECT bool_and(is_common) FROM asked)),
size AS MATERIALIZED (SELECT chunks::float8 AS count, words / greatest(chunks, 1)::float8 AS mean
    FROM {collections} WHERE name = $2),
weights AS (SELECT word, entries, ln(1 + (size.count - entries + 0.5) / (entries + 0.5)) AS weight FROM size, wanted,
    LATERAL (SELECT count(*)::float8 AS entries FROM {words} p WHERE p.word = wanted.word) counted),
ranked AS MATERIALIZED (SELECT word, weight, sum(entries) OVER (ORDER BY entries, word) <= $4
    OR row_number() OVER (ORDER BY entries, word) = 1
    OR 2.2 * sum(weight) OVER (ORDER BY entries DESC, word DESC) > $5 AS is_read FROM weights),
rest AS MATERIALIZED (SELECT coalesce(2.2 * sum(weight), 0) AS most FROM ranked WHERE NOT is_read),
met AS (SELECT p.chunk, sum({part}) AS score
    FROM ranked r JOIN {words} p USING (word), size WHERE r.is_read GROUP BY p.chunk),
allowed AS MATERIALIZED ({allowed}),
least AS (SELECT score FROM allowed ORDER BY score DESC OFFSET $3 - 1 LIMIT 1),
scores AS (SELECT a.chunk, a.score + coalesce((SELECT sum({part})
        FROM ranked r JOIN {words} p ON p.word = r.word AND p.chunk = a.chunk, size WHERE NOT r.is_read), 0) AS score
    FROM allowed a, rest WHERE a.score + rest.most >= coalesce((SELECT score FROM least), 0)),
best AS (SELECT * FROM scores ORDER BY score DESC, chunk LIMIT $3)
SELECT {columns}, s.score, rest.most FROM best s JOIN {chunks} c ON c.id = s.chunk, rest
ORDER BY s.score DESC, c.file_id, c.ordinal
"""
_ALL = "SELECT * FROM met"
_MATCHING = "SELECT met.* FROM met JOIN {chunks} c ON c.id = met.chunk WHERE {condition}"


def statement(chunks: str, words: str, collections: str, columns: str, condition: str | None = None) -> str:
    """The SQL of a search in these tables. `condition` is on `c`, the chunk; its arguments count from $6 on."""
    allowed = _ALL if condition is None else _MATCHING.format(chunks=chunks, condition=condition)
    return _BEST.format(
        chunks=chunks, words=words, collections=collections, columns=columns, allowed=allowed, stem=STEM, part=_PART
    )


def arguments(words: list[str], collection: str, limit: int) -> list[object]:
    """What a `statement` is asked with; a condition's own go behind it. `limit` is over 0."""
    return [words, collection, limit, max(_ENTRIES, 4 * limit), math.inf]


async def best(connection: asyncpg.Connection, sql: str, given: Sequence[object]) -> list[asyncpg.Record]:
    """The rows of a `statement` with their `score`, best first."""
    words, collection, limit, entries, bound, *others = given
    rows: list[asyncpg.Record] = await connection.fetch(sql, words, collection, limit, entries, bound, *others)
    least = rows[-1]["score"] if len(rows) == limit else 0.0
    if not rows or rows[0]["most"] > least:
        # A chunk that has none of the words that were read whole may be among the best.
        rows = await connection.fetch(sql, words, collection, limit, entries, least, *others)
    return rows
